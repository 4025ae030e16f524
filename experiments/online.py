"""Adaptation online, without the truth: Psi in four ways, with and without a guard, and frozen.

    python experiments/online.py                 # trains, plays, writes the page; resumable
    python experiments/online.py --stage report  # tables of what has been played

The game card at q = 0.9. A pre-trained policy is deployed in fresh worlds against a hidden type.
Between blocks of ten rounds it may be adapted by what the server has: updates, root images, its own
actions, and a world that it made of its 200 root images by augmentation, with the types and the
heterogeneity that it was trained against. ``imagined`` takes policy-gradient steps on rollouts of
that world from the present model, weighted by a belief over types; ``planned`` plays the constant
action that earns most in such rollouts, or the pre-trained policy where nothing earns more;
``trajectory`` takes steps on the real run so far, as the paper has it, with rewards that it
estimates, and samples its actions: ``sampled`` does no more than that, and is its control;
``mixture`` plays the belief's mean of each type's best action. A guard lets a candidate in if it
earns more in a look ahead of twenty rounds in the own world, by more than such promises were broken
so far; a policy whose block lost more than was promised gives way to the pre-trained, and so does
any against a stranger: where no type of the own world explains what was seen.

``unknown``: policies that met six types (``unknown-q0.9``) against six others; in ``every_way`` all
of Psi is tried, with the guard and without; in ``told``, a control that no server can be, the own
world has just the types that are hidden. All others met the card's nine types and are played
against these: ``memory`` (``bse``), ``memoryless``, which sees no moving averages, and
``recurrent``, which has a recurrent cell in their place, the paper's other Psi: without a gradient
online, it is the frozen line. The hidden type stays what it is in these;
``concealed`` is ``memory`` with an attacker that does nothing for fifty rounds, ``switched`` one
whose type becomes another after fifty, and in ``drifting`` each block's type is drawn from a prior
whose share of backdoors grows from none to all. Their scores are against the last type.
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
from study.report import pm
from study.settings import CARD, NEVER_MET, SEEDS, UNKNOWN, prior_of
from study.stages import nobody
from study.training import asked, train, trained

from metasg_jax.data import load
from metasg_jax.evaluation.plots import gains
from metasg_jax.evaluation.statistics import holm, t_interval, t_test
from metasg_jax.evaluation.tables import markdown_table, with_error
from metasg_jax.evaluation.worlds import FINAL, world_settings
from metasg_jax.game.make import make_game
from metasg_jax.game.shapes import of_shared_shape
from metasg_jax.learning.state import defender_player
from metasg_jax.online import PSI, Hidden, Server, learn_belief, own_world, play_adapting
from metasg_jax.online.misfit import STRANGE
from metasg_jax.programs.device import enable_compilation_cache
from metasg_jax.programs.run_directory import whole

BLOCK = 10
ALL_WAYS = (
    ("frozen", False), ("sampled", False), ("trajectory", False), ("trajectory", True),
    ("mixture", False), ("mixture", True), ("imagined", False), ("imagined", True),
    ("planned", True),
)  # fmt: skip
"""Psi, and whether a guard decides."""
GUARDED = (("frozen", False), ("mixture", True), ("imagined", True))
FEW_WAYS = (
    ("frozen", False), ("sampled", False), ("trajectory", False), ("mixture", True),
    ("imagined", True),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Setting:
    """Who is deployed, against whom.

    Attributes:
        learner: pre-trained.
        types: of the attackers that are hidden.
        course: what becomes of a hidden type: constant, concealed, switched, drifting.
        ways: in which it is adapted; the first is frozen.
        worlds: of each training seed, fresh ones.
        imagine: types in the server's own world; empty: those of the pre-training.
    """

    learner: str
    types: tuple[str, ...] = CARD.game.types
    course: str = "constant"
    ways: tuple[tuple[str, bool], ...] = FEW_WAYS
    worlds: int = 1
    imagine: tuple[str, ...] = ()

    @property
    def known(self) -> tuple[str, ...]:
        """Types that the belief is over."""
        return self.imagine or asked(self.learner).game.types


FIRST = 200
"""Number of the first world: the guard was chosen in those before."""
MOST = 4
"""Worlds of a training seed, at most."""
_STRANGERS = Setting("unknown-q0.9", UNKNOWN + NEVER_MET, ways=GUARDED, worlds=MOST)
SETTINGS = {
    "unknown": _STRANGERS,
    "told": dataclasses.replace(_STRANGERS, worlds=1, imagine=UNKNOWN + NEVER_MET),
    "every_way": dataclasses.replace(_STRANGERS, ways=ALL_WAYS, worlds=1),
    "memory": Setting("bse"),
    "memoryless": Setting("bse-memoryless"),
    "recurrent": Setting("bse-recurrent"),
    "concealed": Setting("bse", course="concealed", ways=GUARDED),
    "switched": Setting("bse", course="switched", ways=GUARDED),
    "drifting": Setting("bse", course="drifting", ways=GUARDED),
}


def course(setting: Setting, i: int) -> tuple[int, ...]:
    """The hidden type of each block, as places in the setting's table; ``i`` is where it begins,
    or the number of a draw.
    """
    blocks, kinds = CARD.fl.horizon // BLOCK, len(setting.types)
    half = blocks // 2
    if setting.course == "concealed":
        return (setting.types.index("none"),) * half + (i,) * (blocks - half)
    if setting.course == "switched":
        return (i,) * half + ((i + 4) % kinds,) * (blocks - half)
    if setting.course == "drifting":
        rng = np.random.default_rng(i)
        shares = np.linspace(0, 1, blocks)
        return tuple(int(rng.choice(kinds, p=prior_of(share))) for share in shares)
    return (i,) * blocks


def label_of(setting: Setting, i: int) -> str:
    """Of a hidden type, in tables."""
    types, kinds = setting.types, len(setting.types)
    if setting.course == "switched":
        return f"{types[i]}, then {types[(i + 4) % kinds]}"
    return f"draw {i + 1}" if setting.course == "drifting" else types[i]


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
        wanted = dict.fromkeys((each.learner, s) for each in SETTINGS.values() for s in SEEDS)
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
    setting = SETTINGS[name]
    dataset = load(CARD.game.dataset)
    config, state = trained(setting.learner, seed, run.runs, dataset)
    worlds = [play_world(setting, config, state, dataset, s) for s in worlds_of(setting, seed)]
    found = {key: np.stack([each[key] for each in worlds]) for key in worlds[0]}
    path = file_of(run, name, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as part:
        np.savez(part, **found)


def worlds_of(setting: Setting, seed: int) -> range:
    """Of a training seed: no two seeds share one, so that they are independent draws of both; the
    first is the same in all settings.
    """
    first = FIRST + MOST * SEEDS.index(seed)
    return range(first, first + setting.worlds)


def play_world(setting: Setting, config, state, dataset, s: int) -> dict[str, np.ndarray]:
    """What each way came to against each hidden type in a world; arrays [K, W], and [K, ..]."""
    types, ways = setting.types, setting.ways
    real = dataclasses.replace(config.game, types=types, probabilities=())
    settings = world_settings(dataclasses.replace(config, game=real), dataset, s, FINAL)
    game = of_shared_shape(make_game(settings, config.fl, dataset))
    own = own_world(state, config, dataset, settings.seed, types=setting.imagine)
    meta = defender_player(state, own.game, config.meta, True)
    key = jax.random.key(s)
    belief = learn_belief(jax.random.fold_in(key, 1), own, meta.replace(greedy=False))
    prepared = {psi: PSI[psi]().begin(jax.random.fold_in(key, 2), own, meta) for psi, _ in ways}
    attackers = nobody(game)
    cells = [
        [one_run(key, Hidden(game, course(setting, i), attackers),
                 Server(own, meta, belief, PSI[psi](), guard), prepared[psi])
         for psi, guard in ways]
        for i in range(len(types))
    ]  # fmt: skip
    names = ("score", "accuracy", "asr", "reward", "accepted", "strange", "seconds")
    by_way = {name: np.array([[cell[name] for cell in row] for row in cells]) for name in names}
    return by_way | {name: np.array([row[0][name] for row in cells]) for name in ("rank", "belief")}


def one_run(key, hidden: Hidden, server: Server, prepared) -> dict[str, float | np.ndarray]:
    """What came of a run; all ways share its randomness."""
    metrics, blocks = play_adapting(jax.random.fold_in(key, 3), hidden, server, prepared)
    verdicts = [bool(b.verdict.accepted) for b in blocks if b.verdict is not None]
    told = np.concatenate([np.asarray(b.view.reward(CARD.game.backdoor_weight)) for b in blocks])
    true = np.concatenate([np.asarray(b.truth.reward) for b in blocks])
    return {
        **{name: float(getattr(metrics, name)) for name in ("score", "accuracy", "asr")},
        "reward": float(true.mean()),
        "accepted": float(np.mean(verdicts)) if verdicts else np.nan,
        "strange": float(np.mean([block.strange for block in blocks])),
        # the first block compiles
        "seconds": float(np.median([block.seconds for block in blocks[1:]])),
        "rank": float(spearmanr(told, true).statistic),
        "belief": np.mean([block.belief for block in blocks[2:]], axis=0),
    }


def registered() -> dict:
    """What is registered, as it is kept beside the page."""
    settings = {name: dataclasses.asdict(each) for name, each in SETTINGS.items()}
    return json.loads(
        json.dumps({
            "settings": settings, "block": BLOCK, "first": FIRST, "most": MOST, "seeds": SEEDS,
            "strange": STRANGE,
        })
    )  # fmt: skip


def label(way: tuple[str, bool]) -> str:
    """Of a way, in tables."""
    return way[0] + ", guarded" * way[1]


def report(run: Run, console: Console) -> None:
    """The page and its figure."""
    registered_in = (
        f"; what is registered is in [online.json](online.json). Written at commit {commit()}."
    )
    text = [
        *opening(__doc__, registered_in),
        f"{len(SEEDS)} training seeds, each on worlds of its own: a 95 % interval over the seeds' "
        "means is over both. Below frozen: types whose p, Holm-corrected over the types of the "
        "row, is under 0.05. Let in: of the candidates of all blocks. "
        "Reward: the true one, the mean over all rounds.\n",
    ]
    bars, shown = {}, [n for n in SETTINGS if all(file_of(run, n, s).is_file() for s in SEEDS)]
    for name in shown:
        setting = SETTINGS[name]
        parts = [dict(np.load(file_of(run, name, seed))) for seed in SEEDS]
        kept = {key: np.stack([part[key] for part in parts]) for key in parts[0]}
        labels = [label_of(setting, i) for i in range(len(setting.types))]
        count = f"{setting.worlds} world{'s' * (setting.worlds > 1)} a seed"
        text += [
            f"## {name}: `{setting.learner}`, {count}\n",
            ways_table(kept, setting.ways, labels),
        ]
        text += ["What each way adds to the frozen policy's score, by type:\n",
                 types_table(kept, setting.ways, labels)]  # fmt: skip
        for j, way in enumerate(setting.ways[1:], 1):
            gain = kept["score"][..., j] - kept["score"][..., 0]
            bars.setdefault(label(way), {})[name] = interval(gain.mean(axis=2))
        if setting.course == "constant":
            text += ["The belief and the rewards that the server estimates:\n",
                     insight_table(kept, labels, setting.known)]  # fmt: skip
    gains(bars, shown, run.out / "online.png")
    if waiting := [name for name in SETTINGS if name not in shown]:
        text.append(f"Registered, and not played to the end yet: {', '.join(waiting)}.\n")
    text.insert(2, "![gains](online.png)\n")
    write_page(run.out / "online.md", "\n".join(text) + "\n")
    (run.out / "online.json").write_text(json.dumps(registered(), indent=1) + "\n")
    console.print(f"written to {run.out / 'online.md'}")


def interval(values: np.ndarray) -> tuple[float, float]:
    """Mean and half the interval over training seeds, each with S worlds of its own, of [T, S]."""
    return t_interval(values.mean(axis=1))


def ways_table(kept: dict[str, np.ndarray], ways, labels: list[str]) -> str:
    """Each way over all types; arrays [T, S, K, W]."""
    score, reward = kept["score"], kept["reward"].mean(axis=2)
    rows = []
    for j, way in enumerate(ways):
        gain = score[..., j] - score[..., 0]
        p_values = np.array([t_test(gain[:, :, k].mean(axis=1)) for k in range(len(labels))])
        worse = [
            f"`{labels[k]}`" for k, p in enumerate(holm(p_values))
            if p < 0.05 and gain[..., k].mean() < 0
        ]  # fmt: skip
        # nothing is let in against a stranger; of a run with strangers alone no share is known
        share = np.nan_to_num(kept["accepted"][..., j]) * (1 - kept["strange"][..., j])
        rows.append([
            label(way), with_error(*interval(score[..., j].mean(axis=2))),
            "" if j == 0 else pm(interval(gain.mean(axis=2))),
            "" if j == 0 else pm(interval(reward[..., j] - reward[..., 0])),
            "" if j == 0 else "; ".join(worse) or "not one",
            f"{share.mean():.0%}" if way[1] else "",
            f"{np.median(kept['seconds'][..., j]):.2f}",
        ])  # fmt: skip
    header = ["Psi", "score", "minus frozen", "reward, minus frozen", "types below frozen",
              "candidates let in", "seconds between blocks"]  # fmt: skip
    return markdown_table(header, rows)


def types_table(kept: dict[str, np.ndarray], ways, labels: list[str]) -> str:
    """Gains of each way over frozen by type."""
    score = kept["score"]
    rows = [
        [text, f"{score[:, :, k, 0].mean():.3f}",
         *(pm(interval(score[:, :, k, j] - score[:, :, k, 0])) for j in range(1, len(ways)))]
        for k, text in enumerate(labels)
    ]  # fmt: skip
    return markdown_table(["type", "frozen", *(label(way) for way in ways[1:])], rows)


def insight_table(kept: dict[str, np.ndarray], labels: list[str], known) -> str:
    """What the belief says of each hidden type, in how many blocks the last way, guarded, takes it
    for a stranger, and whether estimated rewards rank as true ones.
    """
    rows = []
    for k, text in enumerate(labels):
        mean = kept["belief"][:, :, k].mean(axis=(0, 1))
        likely = ", ".join(f"{known[i]} {mean[i]:.2f}" for i in np.argsort(-mean)[:2])
        own = f"{mean[known.index(text)]:.2f}" if text in known else "unknown"
        strange, rank = kept["strange"][:, :, k, -1].mean(), kept["rank"][:, :, k]
        rows.append([text, own, likely, f"{strange:.0%}", with_error(*interval(rank), "+", 2)])
    header = ["hidden type", "belief in it", "likeliest", "a stranger",
              "rank correlation of rewards"]  # fmt: skip
    return markdown_table(header, rows)


if __name__ == "__main__":
    main()
