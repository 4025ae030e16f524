"""The game card at q = 0.9: a learned defender beside its controls, with two observations.

    python experiments/card.py                     # all stages, each resumable; two workers
    python experiments/card.py --stage report      # tables and figure of what has been played

MNIST average-pooled to 14x14, MLP 196-64-10, learning rate 0.3, batch 64, one local step, 100
clients of which 10 are sampled, 20 % malicious, 100 rounds, nine types. The learner is preset
``cpu`` with no adaptation in its objective (the Bayesian Stackelberg equilibrium: the meta policy
is what is played), 36 episodes a meta-step.

The settings are registered: they are committed before the final worlds are played, and a test
compares those in ``docs/results/card.json`` with the defaults here.
"""

import dataclasses
import json
import queue
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from pages import write_page
from rich.console import Console
from rich.progress import track
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from metasg_jax import checkpoint
from metasg_jax.config import RunConfig
from metasg_jax.data import load
from metasg_jax.evaluation.controls import action_grid, all_attackers
from metasg_jax.evaluation.episodes import score_actions
from metasg_jax.evaluation.matrix import play_cell
from metasg_jax.evaluation.plots import recovery_bars
from metasg_jax.evaluation.schedules import (
    constant,
    phase_features,
    play_policy,
    play_schedules,
    shuffled,
    swapped,
    two_phase,
)
from metasg_jax.evaluation.statistics import (
    crossed_interval,
    gap_recovery,
    holm,
    t_interval,
    t_test,
)
from metasg_jax.evaluation.tables import markdown_table, rich_table
from metasg_jax.evaluation.worlds import FINAL, SELECTION, of_one_shape, world
from metasg_jax.game.make import make_post_defense, make_rule
from metasg_jax.game.observation import OBSERVATIONS
from metasg_jax.game.rollout import Player, init_normalizer
from metasg_jax.learning.state import defender_player, init_state
from metasg_jax.policies import Fixed
from metasg_jax.presets import PRESETS
from metasg_jax.program import enable_compilation_cache, load_state


@dataclasses.dataclass(frozen=True)
class Card:
    """What is registered.

    Attributes:
        level: q.
        observations: of the learned defenders.
        training_seeds: each with a partition of its own.
        steps: meta-steps of 3,600 FL rounds.
        selection_worlds: on whose validation images references are chosen.
        final_worlds: on whose test images everything is compared.
        grid: clips, trims, post-training levels of the references.
        phase: rounds of the two-phase control's first phase.
        repeats: episodes a selection world and type that its classifier learns from.
        static: rule and post-training defence of the static controls.
    """

    level: float = 0.9
    observations: tuple[str, ...] = ("statistics", "inversion")
    training_seeds: tuple[int, ...] = (100, 101, 102, 103, 104)
    steps: int = 56
    selection_worlds: int = 6
    final_worlds: int = 6
    grid: tuple[int, int, int] = (8, 5, 4)
    phase: int = 25
    repeats: int = 4
    static: tuple[tuple[str, str], ...] = (
        ("mean", "none"),
        ("median", "none"),
        ("trimmed_mean:beta=0.2", "none"),
        ("krum", "none"),
        ("fltrust", "none"),
        ("clipped_median:max_norm=0.6", "none"),
        ("norm_bound:max_norm=0.6", "none"),
        ("nnm+trimmed_mean:beta=0.2", "none"),
        ("fltrust", "neuron_clip"),
    )


@dataclasses.dataclass(frozen=True)
class Run:
    """How it is run; nothing here changes a result."""

    stage: Literal["all", "train", "references", "judge", "report"] = "all"
    """One stage, or all of them in order; what is there already is not done again."""
    workers: int = 2
    """Training runs side by side."""
    folder: Path = Path("runs/card")
    """Where runs and outcomes are kept."""
    out: Path = Path("docs/results/card.md")
    """The page; card.json and card.png are put beside it."""


def settings(card: Card, observation: str) -> RunConfig:
    """Of a training run, but for its seed."""
    config = PRESETS["cpu"].get_config("mnist")
    game = dataclasses.replace(config.game, level=card.level, observation=observation)
    return dataclasses.replace(config, game=game, meta=config.meta.replace(adapt_steps=0))


def train(card: Card, run: Run, console: Console) -> None:
    """Pre-trains all defenders by `metasg pretrain`, resuming what was begun."""
    cores: queue.Queue = queue.Queue()
    for core in range(run.workers):
        cores.put(core)

    def one(job) -> float:
        observation, seed = job
        out = run.folder / f"{observation}-{seed}"
        if checkpoint.latest_step(out / "checkpoints") == card.steps:
            return 0.0
        command = [
            sys.executable, "-m", "metasg_jax.cli", "pretrain", "--dataset=mnist", "--preset=cpu",
            f"--steps={card.steps}", f"--seed={seed}", f"--game.seed={seed}",
            f"--game.level={card.level}", f"--game.observation={observation}",
            "--meta.adapt-steps=0", "--eval-seeds=0", f"--out={out}", "--resume",
        ]  # fmt: skip
        out.mkdir(parents=True, exist_ok=True)
        begin, core = time.perf_counter(), cores.get()
        try:
            with (run.folder / f"{out.name}.log").open("a") as log:
                subprocess.run([*pinned(core), *command], stdout=log, stderr=log, check=True)
        finally:
            cores.put(core)
        return time.perf_counter() - begin

    jobs = [(o, s) for s in card.training_seeds for o in card.observations]
    with ThreadPoolExecutor(run.workers) as pool:
        for job, seconds in zip(jobs, pool.map(one, jobs), strict=True):
            console.print(f"{job[0]}, seed {job[1]}: {seconds:.0f} s")


def pinned(core: int) -> list[str]:
    """A run a core, where that can be said: products are too small to be shared between cores."""
    return ["taskset", "-c", str(core)] if shutil.which("taskset") else []


def worlds(card: Card, dataset, stream: int, count: int) -> list:
    """Games of one shape that no run was trained on."""
    config = settings(card, "statistics")
    return of_one_shape([world(config, dataset, seed, stream) for seed in range(count)])


def nobody(game, card: Card):
    """The attackers of a prior without adaptive types: parameters that nothing reads."""
    config = settings(card, "statistics")
    return all_attackers(init_state(jax.random.key(0), game, config.meta), game, config)


def references(card: Card, run: Run, dataset, console: Console) -> dict:
    """Scores f32[S, K, J] of the grid on selection and, in hindsight, on final worlds."""
    path = run.folder / "references.npz"
    if path.is_file():
        return dict(np.load(path))
    actions, levels = action_grid(*card.grid[:2]), np.linspace(1.0, -1.0, card.grid[2])
    tried = np.repeat(actions, len(levels), axis=0)
    tried[:, -1] = np.tile(levels, len(actions))
    found = {"actions": tried}
    plan = (("selection", SELECTION, card.selection_worlds, "validation"),
            ("hindsight", FINAL, card.final_worlds, "test"))  # fmt: skip
    for name, stream, count, split in plan:
        games = worlds(card, dataset, stream, count)
        scores = []
        for seed, game in enumerate(track(games, f"grid, {name}", console=console)):
            out = score_actions(
                jax.random.key(seed), game, jnp.asarray(actions),
                jnp.asarray(levels, jnp.float32), nobody(game, card), split,
            )  # fmt: skip
            scores.append(np.asarray(out).reshape(len(game.prior), -1))
        found[name] = np.stack(scores)
    run.folder.mkdir(parents=True, exist_ok=True)
    np.savez(path, **found)
    return found


def classifier(card: Card, games, best: np.ndarray, observation: str):
    """Tells the type from the first phase under the best fixed action; and how often on its own."""
    xs, ys = [], []
    for seed, game in enumerate(games):
        for repeat in range(card.repeats):
            key = jax.random.fold_in(jax.random.key(seed), 1 + repeat)
            seen = observed(game, card, best, observation, key).observation
            xs.append(phase_features(seen, card.phase))
            ys.append(np.arange(len(game.prior)))
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    return model.fit(np.concatenate(xs), np.concatenate(ys))


def observed(game, card: Card, action: np.ndarray, observation: str, key):
    """An episode of a constant action against each type, with what a defender would see."""
    game = game.replace(observation=OBSERVATIONS[observation]())
    player = Player(
        jnp.asarray(action), init_normalizer(game.observation_size), Fixed(game.action_size), True
    )
    return play_policy(key, game, player, nobody(game, card))


def judge(card: Card, run: Run, dataset, found: dict, console: Console) -> dict:
    """Outcomes on the final worlds: scores by contender, f64[T, S, K] with T = 1 without seeds."""
    path = run.folder / "outcomes.npz"
    if path.is_file():
        return dict(np.load(path))
    games = worlds(card, dataset, FINAL, card.final_worlds)
    q, horizon = np.asarray(games[0].prior.probabilities), games[0].horizon
    best, per_type = chosen(found["selection"], found["actions"], q)
    kinds = len(q)
    outcomes: dict[str, list] = {}

    def note(name, seed_index, metrics) -> None:
        rows = outcomes.setdefault(name, [])
        while len(rows) <= seed_index:
            rows.append([])
        values = [np.asarray(metrics.score), np.asarray(metrics.accuracy), np.asarray(metrics.asr)]
        rows[seed_index].append(np.stack(values, axis=-1))

    def note_all(controls, t, s, game) -> None:
        """Plays schedules f32[K, H, A] by name."""
        stacked = jnp.asarray(np.stack(list(controls.values()), axis=1), jnp.float32)
        metrics = play_schedules(jax.random.key(s), game, stacked, nobody(game, card))
        for j, name in enumerate(controls):
            note(name, t, jax.tree.map(lambda a, j=j: a[:, j], metrics))

    selection = worlds(card, dataset, SELECTION, card.selection_worlds)
    told = {}
    for observation in card.observations:
        model = classifier(card, selection, best, observation)
        for seed, game in enumerate(games):
            seen = observed(game, card, best, observation, jax.random.key(seed)).observation
            told[observation, seed] = model.predict(phase_features(seen, card.phase))
    right = {
        o: np.mean([told[o, s] == np.arange(kinds) for s in range(len(games))], axis=0)
        for o in card.observations
    }

    for s, base in enumerate(games):
        controls = {
            "best fixed": constant(np.tile(best, (kinds, 1)), horizon),
            "oracle": constant(per_type, horizon),
        } | {
            f"two-phase, {o}": two_phase(best, per_type[told[o, s]], card.phase, horizon)
            for o in card.observations
        }
        note_all(controls, 0, s, base)
    for observation in card.observations:
        config = settings(card, observation)
        for t, seed in enumerate(track(card.training_seeds, f"learned, {observation}")):
            folder = run.folder / f"{observation}-{seed}" / "checkpoints"
            state = load_state(checkpoint.load_config(folder), folder, dataset)
            for s, base in enumerate(games):
                game = base.replace(observation=OBSERVATIONS[observation]())
                fresh = init_state(jax.random.key(seed), game, config.meta)
                for name, of in (("learned", state), ("untrained", fresh)):
                    player = defender_player(of, game, config.meta, True)
                    played = play_policy(jax.random.key(s), game, player, nobody(base, card))
                    note(f"{name}, {observation}", t, played.metrics)
                    if of is state:
                        actions = np.asarray(played.action)
                rng = np.random.default_rng([seed, s])
                controls = {
                    f"swapped input, {observation}": swapped(actions),
                    f"shuffled input, {observation}": shuffled(rng, actions),
                }
                if observation == card.observations[0]:
                    controls["random"] = rng.uniform(-1, 1, actions.shape).astype(np.float32)
                note_all(controls, t, s, base)
    for rule, post in track(card.static, "static defences"):
        name = rule if post == "none" else f"{rule} + {post}"
        for s, base in enumerate(games):
            game = base.replace(
                rule=make_rule(rule, base.fl.num_sampled, 0.2, base.model),
                observation=OBSERVATIONS["paper"](),
            )
            posts = (make_post_defense(post),)
            rows = [
                play_cell(jax.random.key(s), game, jnp.int32(i), posts, num_rounds=horizon)
                for i in range(kinds)
            ]
            note(name, 0, jax.tree.map(lambda *a: jnp.stack(a)[:, 0], *rows))
    result = {name: np.array(rows, np.float64) for name, rows in outcomes.items()}
    result |= {f"told right, {o}": value for o, value in right.items()}
    np.savez(path, **result)
    return result


def chosen(scores: np.ndarray, actions: np.ndarray, q: np.ndarray):
    """Best fixed action f32[A] and the best of each type f32[K, A] by scores f64[S, K, J]."""
    mean = scores.mean(axis=0)
    return actions[np.argmax(q @ mean)], actions[mean.argmax(axis=1)]


def hindsight(found: dict, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores f64[S, K] of the best fixed action and of the oracle, both chosen on final worlds."""
    scores = found["hindsight"]
    mean = scores.mean(axis=0)
    fixed = scores[:, :, np.argmax(q @ mean)]
    best = mean.argmax(axis=1)
    return fixed, np.stack([scores[:, k, best[k]] for k in range(len(q))], axis=1)


def report(card: Card, run: Run, found: dict, outcomes: dict, names, q, console: Console) -> None:
    """Writes card.md, card.json and card.png."""
    told = {o: outcomes.pop(f"told right, {o}") for o in card.observations}
    fixed, oracle = hindsight(found, q)
    picked = outcomes["best fixed"][0, :, :, 0], outcomes["oracle"][0, :, :, 0]
    header = ["defender", "score", "minus best fixed", "recovery, hindsight",
              "recovery, selection", "clean accuracy"]  # fmt: skip
    rows, bars = [], {}
    scores = {name: values[..., 0] for name, values in outcomes.items()}
    scores = {"best fixed, hindsight": fixed[None], "oracle, hindsight": oracle[None]} | scores
    for name, values in sorted(scores.items(), key=lambda item: -float((item[1] @ q).mean())):
        mean = values @ q
        lead = mean - (fixed @ q)[None]
        shown = []
        for low, high in ((fixed, oracle), picked):
            recovery = gap_recovery(mean, low @ q, high @ q)
            centre, half = t_interval(recovery)
            shown.append(f"{centre:+.2f}" + ("" if np.isnan(half) else f" ± {half:.2f}"))
        if len(mean) > 1:
            bars[name] = gap_recovery(mean, fixed @ q, oracle @ q)
            difference = "{:+.3f} ± {:.3f}".format(*crossed_interval(lead))
        else:
            difference = "{:+.3f} ± {:.3f}".format(*t_interval(lead[0]))
        accuracy = outcomes[name][:, :, 0, 1].mean() if name in outcomes else np.nan
        rows.append([name, f"{mean.mean():.3f}", difference, *shown,
                     "" if np.isnan(accuracy) else f"{accuracy:.3f}"])  # fmt: skip
    by_type_header = ["type", "best fixed", "oracle"]
    by_type = [[n, f"{fixed[:, k].mean():.3f}", f"{oracle[:, k].mean():.3f}"]
               for k, n in enumerate(names)]  # fmt: skip
    for observation in card.observations:
        values = scores[f"learned, {observation}"]
        lead = values - fixed[None]
        p = holm(np.array([t_test(lead[:, :, k].mean(axis=1)) for k in range(len(q))]))
        by_type_header += [f"learned, {observation}", "minus best fixed", "Holm p", "told right"]
        for k in range(len(q)):
            centre, half = t_interval(lead[:, :, k].mean(axis=1))
            by_type[k] += [f"{values[:, :, k].mean():.3f}", f"{centre:+.3f} ± {half:.3f}",
                           f"{p[k]:.3f}", f"{told[observation][k]:.0%}"]  # fmt: skip
    plain, added = (f"learned, {o}" for o in (card.observations[0], card.observations[-1]))
    gain = scores[added] - scores[plain]
    gain_rows = []
    p = holm(np.array([t_test(gain[:, :, k].mean(axis=1)) for k in range(len(q))]))
    for k, name in enumerate(names):
        centre, half = t_interval(gain[:, :, k].mean(axis=1))
        gain_rows.append([name, f"{centre:+.3f} ± {half:.3f}", f"{p[k]:.3f}"])
    centre, half = crossed_interval(gain @ q)
    gain_rows.append(["over the prior", f"{centre:+.3f} ± {half:.3f}", ""])
    console.print(rich_table("the card", header, rows))
    console.print(rich_table("by type", by_type_header, by_type))
    console.print(rich_table("inversion minus statistics", ["type", "gain", "Holm p"], gain_rows))
    about = (__doc__ or "").split("\n\n")[2]
    text = (
        f"# The game card at q = {card.level:g}\n\n{' '.join(about.split())}\n\n"
        f"{len(card.training_seeds)} training seeds of {card.steps * 3600:,} FL rounds each, "
        f"{card.final_worlds} final worlds with triggers, targets and partitions of their own. "
        "Commands: `python experiments/card.py`; what is registered is in [card.json](card.json).\n"
        "\n## Over the prior\n\n"
        "Score: accuracy minus attack success after round 100. Differences to the best fixed "
        "action chosen in hindsight: ± half the 95 % interval, over training seeds and worlds for "
        "what is trained (or drawn) anew, over worlds for what is not. Recovery: (score - best "
        "fixed) / (oracle - best fixed), against references chosen on the final worlds and on "
        "selection worlds; intervals over training seeds.\n\n"
        f"{markdown_table(header, rows)}\n![recovery](card.png)\n\n"
        "## By type\n\nReferences in hindsight; differences over training seeds, with Holm's "
        "p-values; how often the two-phase control's classifier tells the type on final worlds.\n\n"
        f"{markdown_table(by_type_header, by_type)}\n"
        "## What the search for triggers adds\n\n"
        f"{markdown_table(['type', 'inversion minus statistics', 'Holm p'], gain_rows)}\n"
    )
    write_page(run.out, text)
    recovery_bars(bars, run.out.with_suffix(".png"))
    run.out.with_suffix(".json").write_text(json.dumps(dataclasses.asdict(card), indent=2) + "\n")
    console.print(f"written to {run.out}")


def main(run: Run) -> None:
    """Runs the stages that are asked for."""
    enable_compilation_cache()
    console, card = Console(soft_wrap=True), Card()
    if run.stage in ("all", "train"):
        train(card, run, console)
    if run.stage == "train":
        return
    dataset = load("mnist")
    found = references(card, run, dataset, console)
    if run.stage == "references":
        return
    outcomes = judge(card, run, dataset, found, console)
    if run.stage == "judge":
        return
    prior = worlds(card, dataset, FINAL, 1)[0].prior
    report(card, run, found, outcomes, prior.names, np.asarray(prior.probabilities), console)


if __name__ == "__main__":
    main(tyro.cli(Run, description=__doc__))
