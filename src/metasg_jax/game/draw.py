"""Federations drawn at random: the broad prior that a defender is taught on.

A drawn game differs from the next in numbers only (partition, learning rate, triggers, the attacks'
parameters, shares and onsets), so that all games of one run's shapes share a program.
"""

import dataclasses

import numpy as np

from metasg_jax.config import RunConfig
from metasg_jax.data import Dataset
from metasg_jax.data.simulated import Simulated
from metasg_jax.game.bsmg import FLGame
from metasg_jax.game.make import make_game
from metasg_jax.game.shapes import of_shared_shape
from metasg_jax.game.types import TypeSpec, make_prior, parse_type


def draw_types(rng: np.random.Generator, num_clients: int, horizon: int) -> list[TypeSpec]:
    """One type of each kind, its numbers, share and onset drawn; always the same kinds in order.

    Shares are 5 to 40 % of the clients, at least one of them (of two attacks at once 5 to 20 %
    each); every third attack begins late; colluders are unlike each other in every second one.
    """

    def between(low, high):
        return float(rng.uniform(low, high))

    def log_between(low, high):
        return float(np.exp(rng.uniform(np.log(low), np.log(high))))

    def share(high):
        return max(between(0.05, high), 1 / num_clients)

    kinds = {
        "none": "none",
        "ipm_small": f"ipm:scale={log_between(0.1, 1.0)}",
        "ipm": f"ipm:scale={log_between(1.0, 8.0)}",
        "alie": f"alie:z={between(0.3, 2.5)}",
        "lmp": f"lmp:z={between(0.5, 3.0)}",
        "sign_flip": f"sign_flip:scale={log_between(0.3, 5.0)}",
        "gaussian": f"gaussian:sigma={log_between(1e-3, 0.05)}",
        "label_flip": f"label_flip:boost={log_between(1.0, 3.0)}",
        "label_shift": f"label_flip:map=shift,boost={log_between(1.0, 3.0)}",
        "free_rider": f"free_rider:level={rng.choice([0.0, 0.0, between(0.0, 1.0)])}",
        "constant_shift": f"constant_shift:scale={log_between(0.2, 2.0)}",
        "bfl": f"bfl:fraction={between(0.3, 0.8)}",
        "bfl_sparse": f"bfl:fraction={between(0.08, 0.3)}",
        "bfl_boosted": f"bfl:fraction={between(0.2, 0.7)},boost={log_between(1.5, 10.0)}",
        "dba": f"dba:fraction={between(0.3, 0.7)}",
        "mixed": f"ipm:scale={log_between(1.0, 5.0)}@{share(0.2)}"
        f"+bfl:fraction={between(0.3, 0.7)},boost={log_between(1.0, 5.0)}@{share(0.2)}",
    }
    specs = []
    for name, attack in kinds.items():
        spec = parse_type(attack if "@" in attack else f"{attack}@{share(0.4)}", num_clients)
        noise = float(rng.uniform(0.0, 1.5) * (rng.uniform() < 0.5))
        onset = int(rng.integers(1, max(2, horizon * 2 // 3)) * (rng.uniform() < 0.33))
        unlike = {
            side: dataclasses.replace(getattr(spec, side), noise=noise)  # pyrefly: ignore
            for side in ("untargeted", "backdoor")
        }
        specs.append(dataclasses.replace(spec, name=name, onset=onset, **unlike))
    return specs


def draw_blends(rng: np.random.Generator, num_clients: int, horizon: int) -> list[TypeSpec]:
    """Attacks that can be diluted with honest work, for attackers who look through the defence.

    Two backdoors, one of them late or boosted, and one untargeted attack, which does no harm once
    it is diluted: a defender that leaves it out pays for it.
    """

    def share():
        return max(rng.uniform(0.05, 0.35), 1 / num_clients)

    fractions, factors = rng.uniform(0.2, 0.7, 2), np.exp(rng.uniform(0, 1.5, 2))
    specs = [
        f"blended_bfl:fraction={fractions[0]}@{share()}",
        f"blended_bfl:fraction={fractions[1]},boost={factors[0]}@{share()}",
        f"blended_ipm:scale={factors[1]}@{share()}",
    ]
    names = ("blended_bfl", "blended_bfl_late", "blended_ipm")
    late = int(rng.integers(1, max(2, horizon // 2)))
    onsets = (0, late if rng.uniform() < 0.5 else 0, 0)
    return [
        dataclasses.replace(parse_type(text, num_clients), name=name, onset=onset)
        for text, name, onset in zip(specs, names, onsets, strict=True)
    ]


def draw_trigger(rng: np.random.Generator, shape: tuple[int, ...]):
    """A patch of random size, place and kind: (mask, pattern), each f32[h, w, c].

    Sides are a twelfth to a quarter of the image; bright, dark, checkered or random pixels.
    """
    height, width, _ = shape
    sides = [int(rng.integers(max(2, s // 12), max(3, s // 4) + 1)) for s in (height, width)]
    if rng.uniform() < 0.6:
        sides[1] = sides[0]
    top, left = (
        int(rng.integers(0, s - side + 1)) for s, side in zip((height, width), sides, strict=True)
    )
    rows, columns = np.indices(sides)
    patch = {
        "bright": np.ones(sides),
        "dim": np.full(sides, rng.uniform(0.5, 1.0)),
        "checkered": (rows + columns) % 2.0,
        "random": rng.integers(0, 2, sides).astype(float),
    }[str(rng.choice(["bright", "bright", "dim", "checkered", "random"]))]
    stencil = np.ones(sides)
    if rng.uniform() < 0.25 and min(sides) > 2:  # a plus: the corners are left as they are
        stencil = ((rows == sides[0] // 2) | (columns == sides[1] // 2)).astype(float)
    place = (slice(top, top + sides[0]), slice(left, left + sides[1]))
    mask, pattern = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    mask[place], pattern[place] = stencil[..., None], (stencil * patch)[..., None]
    return mask, pattern


def draw_partition(rng: np.random.Generator) -> tuple[str, float]:
    """A way to deal images, and its level: from IID to nearly one class a client."""
    if rng.uniform() < 0.5:
        return "q", float(rng.choice([0.1, 0.3, 0.5, 0.7, 0.9]))
    return "dirichlet", float(rng.choice([0.1, 0.2, 0.5, 1.0, 5.0]))


def draw_game(
    rng: np.random.Generator, config: RunConfig, dataset: Dataset, simulated: Simulated | None
) -> tuple[FLGame, FLGame]:
    """A federation of the shapes of ``config``: its counts, model and images stay, numbers change.

    Args:
        rng: advanced.
        config: types, partition, level, trigger and learning rate of it are not read; local steps
            and batch size are the most that clients do.
        dataset: its images.
        simulated: what clients hold, unless they are real; made of the root images of
            ``config.game.seed``.

    Returns:
        (with fixed attacks, the same one with attacks that can be diluted).
    """
    partition, level = draw_partition(rng)
    game = dataclasses.replace(
        config.game, types=("none",), probabilities=(), partition=partition, level=level,
        trigger="square", trigger_size=1, trigger_position=(0, 0), target=0,
    )  # fmt: skip
    spread = config.teach.lr_spread
    lr = config.fl.local_lr * float(np.exp(rng.uniform(-np.log(spread), np.log(spread))))
    # one weighting whatever the partition: it is part of the program
    weighting = "equal" if config.fl.weighting == "auto" else config.fl.weighting
    fl = config.fl.replace(local_lr=lr, weighting=weighting)
    made = make_game(game, fl, dataset, simulated)
    specs = draw_types(rng, config.fl.num_clients, config.fl.horizon)
    trigger = draw_trigger(rng, made.model.input_shape)
    target = int(rng.integers(dataset.num_classes))
    blends = draw_blends(rng, config.fl.num_clients, config.fl.horizon)
    steps, batch = (float(config.teach.work_spread ** -rng.uniform()) for _ in range(2))
    made = made.replace(fl=fl.replace(steps_share=steps, batch_share=batch))
    made = of_shared_shape(made)
    fixed, blended = (
        made.replace(prior=make_prior(each, trigger, target)) for each in (specs, blends)
    )
    return fixed, blended
