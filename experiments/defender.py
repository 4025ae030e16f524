"""Trains the defenders that are shipped: the teacher on federations of many shapes.

``python experiments/defender.py --seed 0 --out runs/defender-0`` takes half an hour on a quiet
core; ``--resume`` goes on. The weights are then in ``OUT/defender``. ``--join A B --out C`` fits
one policy on the lessons of several such runs: ``v1`` is that of seeds 0 to 2. Clients of all
worlds hold augmented copies of the server's own root images, drawn anew for each world.

``--recipe`` names the kinds of worlds and the teacher: ``shapes`` is the first; ``present`` goes on
by own play in federations whose clients all answer each round, and in colour; in ``kept`` attackers
look through the learner each round and dilute what they send. ``v3``, which has met all of it, is
of lessons by ``v1`` and by a first fit on them (``runs/a``),

    --seed 3 --out runs/s3 and --seed 4 --out runs/s4
    metasg pretrain --dataset cifar10 --begin v1 --teach.own-play 12 --teach.passes 3 --out runs/c
    --seed 5 --begin v1 --recipe present --out runs/p5
    --join runs/s3 runs/s4 runs/c runs/p5 --fit broad --out runs/a
    --seed 7 --begin runs/a --recipe kept --out runs/k7
    --join runs/s3 runs/s4 runs/c runs/p5 runs/k7 --fit broad --out runs/v3

(in ``runs/a`` a malicious client counted four times, whole from half of the poison on).

Ablations: ``--leave-out own_play`` joins without the lessons of own play, ``breadth`` with those of
one shape alone, ``context`` with a policy that sees each client by itself; ``--real`` plays worlds
of real images.
"""

import argparse
import dataclasses
from pathlib import Path

import jax
import numpy as np
import without_context  # noqa: F401, the body "alone"
from rich.console import Console

from metasg_jax.config import FLConfig, GameConfig, MetaConfig, RunConfig, TeachConfig
from metasg_jax.data import load
from metasg_jax.defender import save_defender
from metasg_jax.game.make import make_game
from metasg_jax.learning.state import KNOBS, defender_player, init_state, policies
from metasg_jax.learning.teacher import Lessons
from metasg_jax.policies import SetPolicy
from metasg_jax.presets.cpu import TRUST
from metasg_jax.programs.device import enable_compilation_cache
from metasg_jax.programs.pretrain import begin_with
from metasg_jax.programs.teach import card_of, learn_from, read_lessons, teach_program


def kind(
    dataset, pool, hidden, clients, sampled, steps, batch, lr, horizon, root=100, model="mlp",
    **game,
):  # fmt: skip
    """A shape of worlds; who attacks is drawn for each."""
    game = GameConfig(
        dataset=dataset, pool=pool, model=model, hidden=hidden, num_root=root, num_validation=300,
        num_test=300, types=("none",), **TRUST, **game,
    )  # fmt: skip
    fl = FLConfig(
        num_clients=clients, num_sampled=sampled, batch_size=batch, local_steps=steps,
        horizon=horizon, local_lr=lr,
    )  # fmt: skip
    return RunConfig(game, fl, MetaConfig(), clients="augmented", num_simulated=4000)


SMALL = kind("mnist", 2, (64,), 100, 10, 1, 64, 0.2, 60)
FASHION = kind("fashion_mnist", 2, (64, 32), 50, 10, 1, 32, 0.2, 60)
DIGITS = kind("digits", 1, (32,), 30, 5, 2, 16, 0.2, 60, root=40)
WHOLE = kind("mnist", 1, (100,), 40, 8, 10, 32, 0.08, 40, root=200)
WHOLE_FASHION = kind("fashion_mnist", 1, (128,), 40, 10, 5, 32, 0.08, 40)
TWENTY = kind("fashion_mnist", 2, (32,), 60, 20, 3, 32, 0.1, 40, root=50)
FIFTY = kind("mnist", 2, (64,), 100, 50, 1, 32, 0.2, 40)
CNN = kind("mnist", 1, (8, 16, 32), 40, 8, 5, 32, 0.08, 25, root=200, model="cnn")
CNN_FASHION = kind("fashion_mnist", 1, (8, 8, 16), 40, 10, 5, 32, 0.08, 25, model="cnn")

KINDS = (
    SMALL, FASHION, DIGITS, WHOLE, WHOLE_FASHION, TWENTY, CNN,
    SMALL, FASHION, DIGITS, WHOLE, WHOLE_FASHION, FIFTY, CNN_FASHION,
)  # fmt: skip
"""Taken in turn: worlds of convolutional networks are dear, and come half as often."""

TEACHER = TeachConfig(
    worlds=14, own_play=14, passes=2, steps=2500, trims=(-1.0, -0.33), work_spread=1.0
)
ALL = kind("mnist", 1, (8, 16, 32), 10, 10, 20, 32, 0.1, 16, model="cnn")
ALL_FASHION = kind("fashion_mnist", 1, (8, 16, 16), 8, 8, 20, 32, 0.1, 16, model="cnn")
ALL_MLP = kind("mnist", 1, (64,), 10, 10, 20, 32, 0.1, 25)
ALL_FEW = kind("fashion_mnist", 2, (32,), 6, 6, 10, 32, 0.1, 30)
ALL_DIGITS = kind("digits", 1, (32,), 12, 12, 10, 16, 0.2, 30, root=40)
COLOUR = kind(
    "cifar10", 2, (16, 32, 64), 100, 10, 5, 32, 0.2, 80, root=200, model="cnn", normalize=True
)
PRESENT = (
    ALL, ALL_MLP, SMALL, ALL_FASHION, ALL_DIGITS, COLOUR, ALL_FEW,
    ALL, FASHION, ALL_MLP, DIGITS, ALL_FASHION, TWENTY, ALL_FEW,
)  # fmt: skip
"""Silos: few clients, who all answer each round and work long; in colour; some of the old."""

MORE_TRIMS = (-1.0, -0.33, 0.11)
"""0, 15 and 25 % a side."""
FITS = {
    "first": TEACHER.replace(steps=6000),
    "broad": TEACHER.replace(
        whole_harm=0.1, malicious_weight=12.0, steps=8000, trim_premium=0.03, trims=MORE_TRIMS
    ),
}
"""The fits of ``v1`` and ``v3``, whose weight was chosen on selection worlds, of 4 and 12."""
LONG = kind("mnist", 2, (64,), 100, 10, 1, 64, 0.2, 120)
LONG_FASHION = kind("fashion_mnist", 2, (64,), 100, 10, 1, 64, 0.2, 120)


def answered(kinds, responders=("looking",)):
    """The same kinds, met in turn by who responds; not where a look through the learner is dear."""
    return [
        dataclasses.replace(k, teach=k.teach.replace(responder=responders[i % len(responders)]))
        if k.game.model != "cnn"
        else k
        for i, k in enumerate(kinds)
    ]


RECIPES = {
    "shapes": (KINDS, TEACHER),
    "present": (PRESENT, TEACHER.replace(worlds=0, own_play=14, passes=1)),
    "kept": (
        answered(
            (
                SMALL, FASHION, DIGITS, SMALL, LONG, FASHION, ALL_FEW,
                SMALL, FASHION, DIGITS, LONG_FASHION, ALL_MLP, SMALL,
            ),
            ("looking / kept", "looking"),
        ),
        TEACHER.replace(worlds=0, own_play=26, trims=MORE_TRIMS, lr=1e-3),
    ),
}  # fmt: skip
"""Kinds of worlds and the teacher. A diluted backdoor takes its time, and what trimming costs is
made up for in time: hence the long ones."""


def main() -> None:
    """Trains and writes ``OUT/defender``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--join", type=Path, nargs="+", help="runs whose lessons are put together")
    parser.add_argument("--fit", choices=FITS, default="first", help="with --join")
    parser.add_argument("--begin", default="", help="a defender to go on from")
    parser.add_argument("--recipe", choices=RECIPES, default="shapes")
    parser.add_argument("--leave-out", choices=("own_play", "breadth", "context"))
    parser.add_argument("--real", action="store_true", help="clients hold real images")
    args = parser.parse_args()
    enable_compilation_cache()
    kinds, teacher = RECIPES[args.recipe]
    if args.real:
        kinds = [dataclasses.replace(k, clients="real") for k in kinds]
    meta = MetaConfig()
    if args.leave_out == "context":
        meta = MetaConfig(policy=SetPolicy(SMALL.fl.num_sampled, KNOBS, body="alone"))
    teacher = teacher.replace(responder=kinds[0].teach.responder)
    first = dataclasses.replace(kinds[0], seed=args.seed, teach=teacher, meta=meta)
    datasets = {name: load(name) for name in {k.game.dataset for k in kinds}}
    game = make_game(first.game, first.fl, datasets[first.game.dataset])
    state = init_state(jax.random.key(args.seed), game, first.meta)
    state = begin_with(args.begin, state)
    if args.join:
        first = dataclasses.replace(first, teach=FITS[args.fit])
        join(args.join, args.out, first, game, state, args.leave_out)
        return
    teach_program([first, *kinds[1:]], datasets, state, game, args.out, args.resume, Console())


def join(runs: list[Path], out: Path, config: RunConfig, game, state, without=None) -> None:
    """Fits a fresh policy on the lessons of several runs and writes it to ``out``."""
    paths = [path for run in runs for path in sorted((run / "lessons").glob("*.npz"))]
    if without == "own_play":
        paths = [p for p in paths if int(p.stem) < TEACHER.worlds]
    if without == "breadth":
        paths = [p for p in paths if KINDS[int(p.stem) % len(KINDS)] is SMALL]
    lessons = [of_trims(read_lessons(path), config.teach.trims) for path in paths]
    policy = policies(game, config.meta)[0]
    state = learn_from(state, lessons, policy, config, 0, Console())
    player = defender_player(state, game, config.meta, greedy=True)
    # who knows little and doubts everybody keeps nobody: there a malicious client counts twice
    blind = 2 / (2 + config.teach.malicious_weight)
    player = player.replace(policy=dataclasses.replace(player.policy, blind_threshold=blind))
    save_defender(out, player, card_of((*KINDS, *PRESENT), lessons))


def of_trims(lessons: Lessons, trims: tuple[float, ...]) -> Lessons:
    """The same where more trims are known: one that was not tried earns less by its distance."""
    tried = lessons.earned.shape[1]
    more = [
        lessons.earned[:, tried - 1 : tried] - (trim - trims[tried - 1]) for trim in trims[tried:]
    ]
    return lessons.replace(earned=np.concatenate([lessons.earned, *more], axis=1))


if __name__ == "__main__":
    main()
