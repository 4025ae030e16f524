"""The README's picture: a federation under attack over its rounds, by who aggregates.

``python experiments/picture.py`` plays four final worlds of the game card at q = 0.5 (some minutes)
and writes ``docs/picture.png``.
"""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from trust import FIRST, federation

from metasg_jax.data import load
from metasg_jax.evaluation.contestants import parse_contestant
from metasg_jax.evaluation.episodes import held_out, standing_still
from metasg_jax.evaluation.judge import nobody, trust_game
from metasg_jax.evaluation.metrics import measure_deployed
from metasg_jax.evaluation.plots.save import save
from metasg_jax.evaluation.worlds import FINAL, world
from metasg_jax.game.make import make_observation, make_post_defense, make_rule
from metasg_jax.game.rollout import rollout
from metasg_jax.programs.device import enable_compilation_cache

WORLDS, EVERY = 4, 5
PERFECT = parse_contestant("told", 10).knobs
TYPES = ("ipm:scale=5@0.2", "bfl@0.2")
LINES = {
    "perfect filter": ("tab:green", "--", 1.6),
    "v3": ("black", "-", 2.6),
    "FLTrust": ("tab:orange", "-", 1.6),
    "mean": ("tab:red", "-", 1.6),
}


@functools.partial(jax.jit, static_argnames=("told", "rounds"))
def part(key, game, player, xi, state, told: bool, rounds: int):
    """Some rounds: (state, accuracy, attack success)."""

    def perfect(state, xi, action):
        trust = jnp.where(game.malicious(state, xi), -1.0, 1.0)
        return jnp.concatenate([trust, jnp.asarray(PERFECT, jnp.float32)])

    state, _ = rollout(
        key, key, game, xi, player, nobody(game), state=state, num_rounds=rounds,
        override=perfect if told else None,
    )  # fmt: skip
    deployed, _ = game.deploy(key, state.w)
    images, labels = held_out(game, "test")
    found = measure_deployed(game.model, deployed, images, labels, xi, state.diverged)
    return state, found.accuracy, found.asr


def course(game, player, told: bool, k: int, seed: int, every: int = EVERY) -> np.ndarray:
    """F64[rounds / every, 2] of one world and type."""
    key = jax.random.key(seed)
    state = jax.jit(lambda key, game: game.reset(key, game.prior[k]))(key, game)
    found = []
    for t in range(game.horizon // every):
        state, *measured = part(
            jax.random.fold_in(key, t), game, player, game.prior[k], state, told, every
        )
        found.append([float(m) for m in measured])
    return np.array(found)


def by_rule(base, rule: str, share: float, post: str = "none"):
    """The same world where a static rule aggregates: (game, who plays it)."""
    game = base.replace(
        rule=make_rule(rule, base.fl.num_sampled, share, base.model),
        observation=make_observation("paper"), post_defense=make_post_defense(post),
    )  # fmt: skip
    return game, standing_still(game.action_size, game.observation_spec)


def main() -> None:
    """Plays and draws."""
    enable_compilation_cache()
    config = federation(0.5, TYPES)
    dataset = load("mnist")
    v3 = parse_contestant("v3", config.fl.num_sampled).player
    found = {name: [] for name in LINES}
    for s in range(FIRST, FIRST + WORLDS):
        base = world(trust_game(config), dataset, s, FINAL)
        for name in LINES:
            game, player = base, v3
            if name in ("mean", "FLTrust"):
                game, player = by_rule(base, name.lower(), config.game.assumed_share)
            each = [course(game, player, name == "perfect filter", k, s) for k in range(2)]
            found[name].append(each)
            print(s, name, np.round([e[-1] for e in each], 3).tolist(), flush=True)
    draw({name: np.mean(values, axis=0) for name, values in found.items()})


def draw(found: dict[str, np.ndarray]) -> None:
    """F64[2, rounds, 2] by name, to ``docs/picture.png``."""
    figure = Figure(figsize=(9.2, 3.5))
    left, right = figure.subplots(1, 2)
    for name, (color, style, width) in LINES.items():
        values = found[name]
        rounds = EVERY * np.arange(1, values.shape[1] + 1)
        for axis, line in ((left, values[0, :, 0]), (right, values[1, :, 1])):
            axis.plot(rounds, line, style, color=color, lw=width, label=name)
    left.set_title("accuracy, a fifth of the clients pushes the model back", fontsize=10)
    right.set_title("success of a backdoor that a fifth of the clients plants", fontsize=10)
    for axis in (left, right):
        axis.set_ylim(-0.02, 1.02)
        axis.set_xlabel("round")
        axis.grid(alpha=0.25)
    right.legend(frameon=False, loc="center right")
    figure.tight_layout()
    save(figure, Path("docs/picture.png"))


if __name__ == "__main__":
    main()
