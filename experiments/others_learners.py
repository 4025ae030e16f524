"""An off-the-shelf PPO as the defender that turns knobs, in the table of everybody else.

Needs gymnax and rejax: ``pip install 'metasg-jax[gymnax]' rejax``. ``python
experiments/others_learners.py`` trains PPO of rejax and this library's own learner for as many
rounds on a game of the embedded digits, three seeds each, chooses the best constant knobs on
selection worlds, plays all on final worlds and writes ``docs/results/other_learners.json``.
``--table`` prints what was played; training seeds are averaged.
"""

import argparse
import dataclasses
import itertools
import json
import re
import time
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from metasg_jax.config import RunConfig
from metasg_jax.data import load
from metasg_jax.evaluation.contestants import Contestant, parse_contestant
from metasg_jax.evaluation.episodes import score_actions
from metasg_jax.evaluation.judge import judge
from metasg_jax.evaluation.statistics import t_interval
from metasg_jax.evaluation.tables import markdown_table
from metasg_jax.evaluation.worlds import SELECTION, world
from metasg_jax.game.make import make_game
from metasg_jax.game.rollout import Player, init_normalizer
from metasg_jax.learning.meta_sl import meta_sl_step
from metasg_jax.learning.state import defender_player, init_state
from metasg_jax.policies import Fixed
from metasg_jax.presets.cpu import get_config
from metasg_jax.programs.device import enable_compilation_cache
from metasg_jax.types import Key, Params

OUT = Path("docs/results/other_learners.json")
RULE = "trusted_trimmed_mean"
"""Three knobs: how hard updates are clipped, how many are trimmed, what the server's own counts."""
TYPES = ("none", "ipm:scale=5@0.2", "bfl@0.2", "ipm:scale=2@0.1+bfl:boost=3@0.05")
"""Those of the preset for CIFAR-10: few kinds, which gymnax's vmap runs all in each round."""
ROUNDS = 48_000
"""Rounds of federated learning in which each learner is trained."""
FIRST, WORLDS = 400, 6
"""Final worlds that no other page uses."""
RULES = ("mean", "median", "fltrust", "fltrust / fine_tune")
PPO_NAME = "PPO of rejax"
ENVIRONMENTS, UPDATES = 8, 10
"""PPO's games side by side, and updates between two lines of progress."""
PPO_SETTINGS: dict[str, Any] = dict(
    num_envs=ENVIRONMENTS, num_minibatches=4, num_epochs=8, learning_rate=1e-3, gamma=0.9,
    gae_lambda=0.95, ent_coef=0.0, max_grad_norm=0.5, normalize_observations=True,
    normalize_rewards=True, reward_normalization_discount=0.9,
)  # fmt: skip
"""Usual values, not searched over; the discount is that of the library's own learner."""


def main() -> None:
    """Trains, plays, writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of each training")
    parser.add_argument("--worlds", type=int, default=WORLDS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the trainings")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--table", action="store_true", help="print what was played, in Markdown")
    args = parser.parse_args()
    if args.table:
        print(table(json.loads(args.out.read_text())))
        return
    enable_compilation_cache()
    config, dataset = knob_game(), load("digits")
    game = make_game(config.game, config.fl, dataset)
    fixed, cost = timed(lambda: best_fixed(config, dataset))
    print("best fixed knobs", np.round(fixed, 2).tolist(), f"{cost:.0f} s", flush=True)
    still = Player(fixed, nothing_seen(game), Fixed(game.action_size), True)
    steered = {"best fixed knobs": still}
    about: dict[str, Any] = {
        "rule": RULE, "training_rounds": args.rounds, "best_fixed": np.asarray(fixed).tolist(),
        "cpu_seconds": {"best fixed knobs": round(cost)}, "ppo": PPO_SETTINGS,
    }  # fmt: skip
    for seed in args.seeds:
        name = f"{PPO_NAME}, seed {seed}"
        (begun, trained), cost = timed(lambda s=seed: train_ppo(game, args.rounds, s))
        steered |= {f"{name}, untrained": begun, name: trained}
        about["cpu_seconds"][name] = round(cost)
        name = f"meta-Stackelberg, seed {seed}"
        steered[name], cost = timed(lambda s=seed: train_own(game, config, args.rounds, s))
        about["cpu_seconds"][name] = round(cost)
    contestants = [
        *(parse_contestant(name, config.fl.num_sampled) for name in ("told", "v1", "root_only")),
        *(Contestant(name, "rule", player, name, rule=RULE, observation=config.game.observation)
          for name, player in steered.items()),
        *(parse_contestant(name, config.fl.num_sampled) for name in RULES),
    ]  # fmt: skip
    worlds = range(FIRST, FIRST + args.worlds)
    judged, cost = timed(lambda: judge(contestants, config, dataset, worlds, on_progress=say))
    about["cpu_seconds"]["table"] = round(cost)
    found = {**judged.to_json(), **about, "observation": config.game.observation}
    args.out.write_text(json.dumps(found, indent=1) + "\n")
    print(table(found))


def knob_game() -> RunConfig:
    """The digits of the preset ``cpu`` with four types, and knobs for a trust in each client."""
    config = get_config("digits")
    game = dataclasses.replace(
        config.game, types=TYPES, rule=RULE, observation="statistics", post_defense="none"
    )
    return dataclasses.replace(config, game=game)


def train_ppo(game, rounds: int, seed: int) -> tuple[Player, Player]:
    """PPO of rejax, (as it begins, trained)."""
    from gymnax.wrappers import LegacyStepAPIWrapper
    from rejax import PPO

    from metasg_jax.integrations.gymnax import DefenderEnv

    class OldStep(LegacyStepAPIWrapper):
        """rejax 0.1.3 reads five values of a step, and copies what it is given."""

        def __deepcopy__(self, memo):
            return self

    env = OldStep(DefenderEnv(game))
    part = UPDATES * ENVIRONMENTS * game.horizon
    algorithm = PPO.create(
        env=env, env_params=env.default_params, num_steps=game.horizon, total_timesteps=part,
        eval_freq=part, skip_initial_evaluation=True, **PPO_SETTINGS,
    ).replace(eval_callback=lambda *_: ())  # fmt: skip

    # closed over, not an argument: rejax keeps the step size in a static field of its state
    begin = jax.jit(lambda key: algorithm.init_state(key))
    go_on = jax.jit(lambda state: algorithm.train(train_state=state)[0])

    def player(state) -> Player:
        policy = MeanOfGaussian(game.action_size, algorithm.actor)
        seen = state.obs_rms_state
        params = {"actor": state.actor_ts.params, "mean": seen.mean, "variance": seen.var}
        return Player(params, nothing_seen(game), policy, greedy=True)

    state = begun = begin(jax.random.key(seed))
    for done in range(0, rounds, part):
        state = go_on(state)
        spread = np.exp(state.actor_ts.params["params"]["action_log_std"])
        say(f"PPO, deviation {np.round(spread, 2)}", done + part, rounds)
    return player(begun), player(state)


@dataclasses.dataclass(frozen=True)
class MeanOfGaussian:
    """rejax's actor as a policy of this library: the mean of its Gaussian, cut to the knobs.

    Attributes:
        action_size: A.
        actor: ``rejax.networks.GaussianPolicy``.
    """

    action_size: int
    actor: nn.Module

    def mode(self, params: Params, obs: jax.Array) -> jax.Array:
        """f32[A] for an observation f32[O], which is normalised as rejax does."""
        obs = (obs - params["mean"]) / jnp.sqrt(params["variance"] + 1e-8)
        mean: Any = self.actor.apply(
            params["actor"], obs[None], method=lambda actor, x: actor.action_mean(actor.features(x))
        )
        return jnp.clip(mean[0], -1.0, 1.0)

    def sample(self, key: Key, params: Params, obs: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The mean, twice."""
        return self.mode(params, obs), self.mode(params, obs)


def train_own(game, config: RunConfig, rounds: int, seed: int) -> Player:
    """The library's learner on as many rounds: a meta-step adapts to each type, then plays it."""
    meta = config.meta.replace(rollouts_at_once=0)
    batch = meta.group_size * meta.num_groups * game.horizon
    steps = max(1, rounds // (len(game.prior) * (meta.adapt_steps + 1) * batch))
    state = init_state(jax.random.key(seed), game, meta)
    for step in range(steps):
        key = jax.random.fold_in(jax.random.key(seed + 1000), step)
        state, _ = meta_sl_step(key, state, game, meta)
        say("meta-Stackelberg", step + 1, steps)
    return defender_player(state, game, meta, greedy=True)


def best_fixed(config: RunConfig, dataset) -> jax.Array:
    """The constant action of a grid that scores best on two selection worlds' validation images."""
    grid = jnp.array(list(itertools.product((-1.0, 0.0, 1.0), repeat=3)))
    total = np.zeros(len(grid))
    for s in range(2):
        game = world(config, dataset, s, SELECTION)
        still = Player(
            jnp.zeros((len(game.prior), game.attacker_action_size)),
            init_normalizer(game.attacker_observation_size), Fixed(game.attacker_action_size), True,
        )  # fmt: skip
        for first in range(0, len(grid), 9):
            scores = score_actions(
                jax.random.key(s), game, grid[first : first + 9], jnp.zeros(1), still, "validation"
            )
            total[first : first + 9] += np.asarray(scores).mean(axis=(0, 2))
    return grid[int(total.argmax())]


def nothing_seen(game):
    """A normaliser that lets observations pass."""
    return init_normalizer(game.observation_spec)


def timed(work):
    """(what it returns, seconds of CPU)."""
    began = time.process_time()
    out = jax.block_until_ready(work())
    return out, time.process_time() - began


def say(what, done, total):
    """Progress."""
    print(what, f"{done}/{total}", flush=True)


def table(found: dict) -> str:
    """Mean score, PPO's minus it, and the score of each type; best first, with 95 % intervals over
    worlds.
    """
    of_seeds: dict[str, list] = {}
    for row in found["rows"]:
        of_seeds.setdefault(re.sub(r", seed \d+", "", row["contestant"]), []).append(row["score"])
    scores = {name: np.mean(each, axis=0) for name, each in of_seeds.items()}  # [S, K]
    mean = {name: score.mean(axis=1) for name, score in scores.items()}
    header = ["defence", "score", "±", "PPO minus it", "±", *found["types"]]
    rows = []
    for name in sorted(mean, key=lambda name: -mean[name].mean()):
        gap = ("", "") if name == PPO_NAME else t_interval(mean[PPO_NAME] - mean[name])
        numbers = (*t_interval(mean[name]), *gap, *scores[name].mean(axis=0))
        rows.append([name, *(f"{v:.3f}" if v != "" else "" for v in numbers)])
    return markdown_table(header, rows)


if __name__ == "__main__":
    main()
