"""Adaptation online, without the truth: Psi in three ways, with and without a guard, and frozen.

    python experiments/online.py                 # trains, plays, writes the page; resumable
    python experiments/online.py --stage report  # tables of what has been played

The game card at q = 0.9. A pre-trained policy is deployed in fresh worlds against a hidden type.
Between blocks of ten rounds it may be adapted by what the server has: updates, root images, its own
actions, and a world that it made of its 200 root images by augmentation, with the types and the
heterogeneity that it was trained against. ``imagined`` takes policy-gradient steps on rollouts of
that world from the present model, weighted by a belief over types; ``trajectory`` takes them on the
real run so far, with rewards that it estimates; ``mixture`` plays the belief's mean of each type's
best action. A guard lets a candidate in if it earns more in a look ahead in the own world.

``unknown``: policies that met six types (``unknown-q0.9``) against six others. The others met the
card's nine types and are played against these: ``memory`` (``bse``), ``memoryless``, which sees no
moving averages, and ``recurrent``, which has a recurrent cell in their place, the paper's other
Psi: without a gradient online, it is the frozen line.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Literal

import jax
import numpy as np
import tyro
from pages import opening, write_page
from rich.console import Console
from scipy.stats import spearmanr
from study.jobs import Job, run_jobs
from study.program import commit
from study.report import interval, pm
from study.settings import CARD, SEEDS, UNKNOWN
from study.stages import nobody
from study.training import asked, train, trained
from unknown import NEVER_MET

from metasg_jax.data import load
from metasg_jax.evaluation.statistics import holm, t_test
from metasg_jax.evaluation.tables import markdown_table, with_error
from metasg_jax.evaluation.worlds import FINAL, of_shared_shape, world_settings
from metasg_jax.game.make import make_game
from metasg_jax.learning.state import defender_player
from metasg_jax.online import PSI, Hidden, Server, learn_belief, own_world, play_adapting
from metasg_jax.program import enable_compilation_cache

SETTINGS = {
    "unknown": ("unknown-q0.9", UNKNOWN + NEVER_MET),
    "memory": ("bse", CARD.game.types),
    "memoryless": ("bse-memoryless", CARD.game.types),
    "recurrent": ("bse-recurrent", CARD.game.types),
}
"""Learner, and the hidden types."""
WAYS = (
    ("frozen", False),
    *((psi, guard) for psi in ("trajectory", "mixture", "imagined") for guard in (False, True)),
)
"""Psi, and whether a guard decides."""
WORLDS, BLOCK = 2, 10


@dataclasses.dataclass(frozen=True)
class Run:
    """How it is run; nothing here changes a result."""

    stage: Literal["all", "train", "play", "report"] = "all"
    """One stage, or all in order; what is there already is not done again."""
    only: tuple[str, int] | None = None
    """Plays one setting and training seed, in this process."""
    workers: int = 2
    """Processes side by side, one a core."""
    runs: Path = Path("runs/learners")
    """Where pre-training runs are kept."""
    outcomes: Path = Path("runs/online")
    """Where outcomes are kept, a file a setting and training seed."""
    out: Path = Path("docs/results")
    """Where the page is put."""


def main() -> None:
    """The whole command."""
    run, console = tyro.cli(Run, description=__doc__), Console(soft_wrap=True)
    if run.only is not None:
        enable_compilation_cache()
        play(run, *run.only)
        return
    if run.stage in ("all", "train"):
        wanted = [(learner, seed) for learner, _ in SETTINGS.values() for seed in SEEDS]
        train(wanted, run.runs, run.workers, console)
    if run.stage in ("all", "play"):
        jobs = [
            Job(f"played {name}, seed {seed}",
                [sys.executable, *sys.argv, "--only", name, str(seed)],
                run.outcomes / f"{name}-{seed}.log")
            for name in SETTINGS for seed in SEEDS if not file_of(run, name, seed).is_file()
        ]  # fmt: skip
        run_jobs(jobs, run.workers, console)
    if run.stage in ("all", "report"):
        report(run, console)


def file_of(run: Run, name: str, seed: int) -> Path:
    """Of a setting and a training seed."""
    return run.outcomes / f"{name}-{seed}.npz"


def play(run: Run, name: str, seed: int) -> None:
    """All worlds, types and ways of a policy; kept when all are played."""
    learner, types = SETTINGS[name]
    dataset = load(CARD.game.dataset)
    config, state = trained(learner, seed, run.runs, dataset)
    shape = (WORLDS, len(types), len(WAYS))
    found = {key: np.full(shape, np.nan) for key in ("score", "accuracy", "asr", "accepted")}
    found |= {"seconds": np.full(shape, np.nan), "rank": np.full(shape[:2], np.nan)}
    found["belief"] = np.full((*shape[:2], len(config.game.types)), np.nan)
    for s in range(WORLDS):
        real = dataclasses.replace(config.game, types=types, probabilities=())
        settings = world_settings(dataclasses.replace(config, game=real), dataset, s, FINAL)
        game = of_shared_shape(make_game(settings, config.fl, dataset))
        own = own_world(state, config, dataset, settings.seed)
        meta = defender_player(state, own.game, config.meta, True)
        key = jax.random.key(s)
        belief = learn_belief(jax.random.fold_in(key, 1), own, meta.replace(greedy=False))
        prepared = {psi: PSI[psi]().begin(jax.random.fold_in(key, 2), own, meta) for psi, _ in WAYS}
        attackers = nobody(game)
        for i in range(len(types)):
            hidden = Hidden(game, (i,) * (CARD.fl.horizon // BLOCK), attackers)
            for j, (psi, guard) in enumerate(WAYS):
                server = Server(own, meta, belief, PSI[psi](), guard)
                # all ways share the run's randomness
                metrics, blocks = play_adapting(
                    jax.random.fold_in(key, 3), hidden, server, prepared[psi]
                )
                for metric in ("score", "accuracy", "asr"):
                    found[metric][s, i, j] = float(getattr(metrics, metric))
                verdicts = [block.verdict for block in blocks if block.verdict is not None]
                if verdicts:
                    found["accepted"][s, i, j] = np.mean([bool(v.accepted) for v in verdicts])
                # the first block compiles
                found["seconds"][s, i, j] = np.median([block.seconds for block in blocks[1:]])
                if psi == "frozen":
                    weight = config.game.backdoor_weight
                    told = np.concatenate([np.asarray(b.view.reward(weight)) for b in blocks])
                    true = np.concatenate([np.asarray(b.truth.reward) for b in blocks])
                    found["rank"][s, i] = spearmanr(told, true).statistic
                    found["belief"][s, i] = np.mean([b.belief for b in blocks[2:]], axis=0)
            print(f"{name}, seed {seed}: world {s}, {types[i]}", flush=True)
    path = file_of(run, name, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part.npz")
    np.savez(part, **found)
    part.rename(path)


def registered() -> dict:
    """What is registered, as it is kept beside the page."""
    about = {"settings": SETTINGS, "ways": WAYS, "worlds": WORLDS, "block": BLOCK, "seeds": SEEDS}
    return json.loads(json.dumps(about))


def label(way: tuple[str, bool]) -> str:
    """Of a way, in tables."""
    return way[0] + ", guarded" * way[1]


def report(run: Run, console: Console) -> None:
    """The page."""
    registered_in = (
        f"; what is registered is in [online.json](online.json). Written at commit {commit()}."
    )
    text = [
        *opening(__doc__, registered_in),
        f"{WORLDS} final worlds and {len(SEEDS)} training seeds; 95 % intervals over both. Below "
        "frozen: types whose Holm-corrected p is under 0.05.\n",
    ]
    for name, (learner, types) in SETTINGS.items():
        parts = [dict(np.load(file_of(run, name, seed))) for seed in SEEDS]
        kept = {key: np.stack([part[key] for part in parts]) for key in parts[0]}
        text += [f"## {name}: `{learner}`\n", ways_table(kept, types)]
        text += ["What each way adds to frozen, by type:\n", types_table(kept, types)]
        text += ["The belief and the rewards that the server estimates:\n",
                 insight_table(kept, types, asked(learner).game.types)]  # fmt: skip
    write_page(run.out / "online.md", "\n".join(text) + "\n")
    (run.out / "online.json").write_text(json.dumps(registered(), indent=1) + "\n")
    console.print(f"written to {run.out / 'online.md'}")


def ways_table(kept: dict[str, np.ndarray], types) -> str:
    """Each way over all types; arrays [T, S, K, W]."""
    score = kept["score"]
    rows = []
    for j, way in enumerate(WAYS):
        mine, gain = score[..., j].mean(axis=2), score[..., j] - score[..., 0]
        p_values = np.array([t_test(gain[..., k]) for k in range(len(types))])
        worse = [
            types[k] for k, p in enumerate(holm(p_values)) if p < 0.05 and gain[..., k].mean() < 0
        ]
        accepted = np.nanmean(kept["accepted"][..., j]) if way[1] else np.nan
        rows.append([
            label(way), with_error(*interval(mine)),
            "" if j == 0 else pm(interval(gain.mean(axis=2))),
            "" if j == 0 else "; ".join(worse) or "none",
            "" if np.isnan(accepted) else f"{accepted:.0%}",
            f"{np.median(kept['seconds'][..., j]):.2f}",
        ])  # fmt: skip
    header = ["Psi", "score", "minus frozen", "types below frozen", "candidates let in",
              "seconds between blocks"]  # fmt: skip
    return markdown_table(header, rows)


def types_table(kept: dict[str, np.ndarray], types) -> str:
    """Gains of each way over frozen by type."""
    score = kept["score"]
    rows = [
        [text, f"{score[:, :, k, 0].mean():.3f}",
         *(pm(interval(score[:, :, k, j] - score[:, :, k, 0])) for j in range(1, len(WAYS)))]
        for k, text in enumerate(types)
    ]  # fmt: skip
    return markdown_table(["type", "frozen", *(label(way) for way in WAYS[1:])], rows)


def insight_table(kept: dict[str, np.ndarray], types, known) -> str:
    """What the belief says of each hidden type, and whether estimated rewards rank as true ones."""
    rows = []
    for k, text in enumerate(types):
        mean = kept["belief"][:, :, k].mean(axis=(0, 1))
        likely = ", ".join(f"{known[i]} {mean[i]:.2f}" for i in np.argsort(-mean)[:2])
        own = f"{mean[known.index(text)]:.2f}" if text in known else "unknown"
        rank = kept["rank"][:, :, k]
        rows.append([text, own, likely, with_error(*interval(rank), "+", 2)])
    header = ["hidden type", "belief in it", "likeliest", "rank correlation of rewards"]
    return markdown_table(header, rows)


if __name__ == "__main__":
    main()
