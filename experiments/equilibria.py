"""Solution concepts side by side: what each is worth once the attacker has answered it.

    python experiments/equilibria.py                    # writes docs/results/equilibria.csv
    python experiments/equilibria.py --games matrix --seeds 2 --steps 20 --out /tmp/try.csv

Best fixed action; Bayesian Stackelberg equilibrium (1); meta-defence (C3), which adapts but is
trained against attackers that never answer; meta-Stackelberg equilibrium (2); perfect Bayesian
play (PBE) with the belief recursion (B1). Values are exact, of the concept and of what the learner
found; attackers answer exactly, but in one column, where they play at random. What was found is in
docs/results/theory.md.
"""

import csv
import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console
from scipy.optimize import minimize

from metasg_jax.config import MetaConfig
from metasg_jax.evaluation.statistics import mean_se
from metasg_jax.evaluation.tables import rich_table
from metasg_jax.game.rollout import Player
from metasg_jax.learning import attacker_player, defender_player, init_state, pretrain
from metasg_jax.programs.device import enable_compilation_cache
from metasg_jax.testing import (
    FiniteGame,
    commitment_game,
    exact_meta_values,
    matrix_answer,
    matrix_game,
    perfect_bayesian_value,
    two_types,
)

CERTAIN = 40.0  # a logit so large that the softmax is one-hot in float32
HEADER = ["concept", "exact value", "learned", "learned, attacks don't answer", "by"]


@dataclasses.dataclass(frozen=True)
class Equilibria:
    """What is run."""

    games: tuple[str, ...] = ("matrix", "commitment", "two_types")
    """Games to play, one or more of these three."""
    seeds: int = 10
    """Seeds of the learner, counted from 0."""
    steps: int = 1500
    """Meta-steps of each."""
    out: Path = Path("docs/results/equilibria.csv")
    """Where the tables go."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """A finite game and how it is learned.

    Attributes:
        game: the game.
        config: with the adaptation that the meta concepts use.
        plain_lr: kappa_D where nothing adapts; eta is a part of the curvature of V where it does.
        perfect_bayesian: the value of (PBE), or NaN.
        note: how that was computed.
    """

    game: FiniteGame
    config: MetaConfig
    plain_lr: float
    perfect_bayesian: float
    note: str


def settings(name: str) -> Setting:
    """The finite games of this page."""
    base = MetaConfig(
        hidden=(), normalize=False, discount=1.0, outer="debiased", baseline="leave_one_out",
        num_groups=16, group_size=1, attacker_steps=10, attacker_lr=1.0, defender_lr=0.1,
    )  # fmt: skip
    if name in ("matrix", "commitment"):
        game = matrix_game() if name == "matrix" else commitment_game()
        note = "one type, one round: nothing to believe; the Nash equilibrium"
        return Setting(game, base.replace(adapt_steps=0), 0.1, matrix_answer(game).nash, note)
    game = two_types()
    strong = np.zeros((2, 2, 2))
    strong[..., 1] = 1.0
    note = "all histories enumerated against the strictly dominant attack"
    config = base.replace(
        adapt_lr=8.0, num_groups=2, baseline="none", defender_lr=0.02, attacker_lr=0.5
    )
    return Setting(game, config, 1.0, perfect_bayesian_value(game, strong), note)


def exact_value(setting: Setting, answers: bool, adapts: bool) -> Callable[[jax.Array], float]:
    """Logits f32[S (A - 1)] -> E_Q L_D: against exact answers, or attacks that never answer.

    The answer is the best of the deterministic attacks for L_A, the attacker's value with the
    adaptation that follows what it does; without adaptation a best response.
    """
    game, config = setting.game, setting.config
    config = config if adapts else config.replace(adapt_steps=0)
    state = init_state(jax.random.key(0), game, config)
    defender = defender_player(state, game, config)
    attacker = attacker_player(state, game, config, 0)

    def like(player: Player, logits) -> Player:
        return player.replace(
            params=jax.tree.map(lambda leaf: logits.reshape(leaf.shape), player.params)
        )

    states, choices = game.num_states, game.attacker_action_size
    tables = np.array(list(itertools.product(range(choices), repeat=states)))
    pure = CERTAIN * (np.eye(choices)[tables][..., 1:] - np.eye(choices)[tables][..., :1])
    attacks = pure if answers else np.zeros((1, states, choices - 1))

    @jax.jit
    def value(logits):
        leader = like(defender, logits)

        def against(k):
            def one(attack):
                follower = like(attacker, attack)
                return exact_meta_values(game, game.prior[k], leader, follower, config)

            l_d, l_a = jax.vmap(one)(jnp.asarray(attacks, jnp.float32))
            return l_d[jnp.argmax(l_a)]

        each = jnp.stack([against(k) for k in range(len(game.prior))])
        return game.prior.probabilities @ each

    return lambda logits: float(value(jnp.asarray(logits, jnp.float32)))


def best(value: Callable[[jax.Array], float], size: int) -> np.ndarray:
    """The logits where a value is largest: a grid, then Nelder and Mead, as V has kinks."""
    grid = np.linspace(-6, 6, 13 if size > 1 else 61)
    points = np.array(list(itertools.product(grid, repeat=size)))
    start = points[np.argmax([value(p) for p in points])]
    found = minimize(lambda p: -value(p), start, method="Nelder-Mead", options={"xatol": 1e-4})
    return found.x if -found.fun > value(start) else start


def learn(setting: Setting, config: MetaConfig, seeds: int, steps: int) -> np.ndarray:
    """Logits f32[seeds, S (A - 1)] that the learner ends with.

    The mean of the last half of the iterates: first-order play circles a kink of V, and does not
    come to rest on it.
    """
    game = setting.game

    @jax.jit
    def one(key):
        key_init, key = jax.random.split(key)
        state = init_state(key_init, game, config)

        def step(carry, _):
            state, total = carry
            state, _ = pretrain(key, state, game, config, 1)
            late = state.step > steps // 2
            total = jax.tree.map(lambda t, p: t + jnp.where(late, p, 0.0), total, state.theta)
            return (state, total), None

        zeros = jax.tree.map(jnp.zeros_like, state.theta)
        (_, total), _ = jax.lax.scan(step, (state, zeros), None, length=steps)
        count = steps - steps // 2
        return jax.tree.map(lambda leaf: leaf / count, total)

    theta = jax.vmap(one)(jax.random.split(jax.random.key(1), seeds))
    return np.concatenate([np.reshape(leaf, (seeds, -1)) for leaf in jax.tree.leaves(theta)], 1)


def finite_table(name: str, args: Equilibria) -> list[list[str]]:
    """The rows of a finite game."""
    setting = settings(name)
    game, config = setting.game, setting.config
    size = game.num_states * (game.action_size - 1)
    plain, meta = exact_value(setting, True, False), exact_value(setting, True, True)
    still_plain, still_meta = (exact_value(setting, False, adapts) for adapts in (False, True))

    def learned(config, value, still):
        logits = learn(setting, config, args.seeds, args.steps)
        return [show(f, logits) for f in (value, still)]

    def show(value, logits):
        mean, error = mean_se(np.array([value(row) for row in logits])[:, None])
        return f"{mean[0]:.3f} ± {error[0]:.3f}"

    corners = [np.full(size, sign * CERTAIN) for sign in (-1, 1)]
    fixed = max(plain(c) for c in corners)
    none = config.replace(adapt_steps=0, defender_lr=setting.plain_lr)
    defence = best(still_meta, size)
    rows = [
        ["best fixed action", f"{fixed:.3f}", "", "", "enumeration"],
        [
            "Bayesian Stackelberg (1)",
            f"{plain(best(plain, size)):.3f}",
            *learned(none, plain, still_plain),
            "Algorithm 2, no adaptation",
        ],
        [
            "meta-defence (C3)",
            f"{meta(defence):.3f}",
            *learned(config.replace(attacker_steps=0), meta, still_meta),
            "Algorithm 2, N_A = 0",
        ],
        [
            "meta-Stackelberg (2), debiased",
            f"{meta(best(meta, size)):.3f}",
            *learned(config, meta, still_meta),
            "Algorithm 2, lines 18-21",
        ],
        [
            "meta-Stackelberg (2), first order",
            "",
            *learned(config.replace(outer="fomaml"), meta, still_meta),
            "Algorithm 2, line 16",
        ],
        ["perfect Bayesian (PBE)", f"{setting.perfect_bayesian:.3f}", "", "", setting.note],
    ]
    return rows


TITLES = {
    "matrix": "2 x 2 matrix game, zero-sum: p = 0.375 is the solution, where V has a kink",
    "commitment": "2 x 2 commitment game, general-sum: Assumption 4.3 fails",
    "two_types": "Two hidden types, two states, two rounds",
}


def main(args: Equilibria) -> None:
    """Computes, prints and writes the tables."""
    enable_compilation_cache()
    console, found = Console(soft_wrap=True), []
    for name in args.games:
        rows = finite_table(name, args)
        console.print(rich_table(TITLES[name], HEADER, rows))
        found += [[name, *row] for row in rows]
    with args.out.open("w", newline="") as file:
        csv.writer(file).writerows([["game", *HEADER], *found])
    console.print(f"written to {args.out}")


if __name__ == "__main__":
    main(tyro.cli(Equilibria, description=__doc__))
