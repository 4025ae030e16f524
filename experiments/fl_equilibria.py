"""The FL game's part of experiments/equilibria.py: defenders trained for each concept, and judged.

Every defender gets as many FL rounds to learn from. Each is then met by attackers that answer *it*:
they start from the same fresh policy and climb J_A for as many steps, the defender adapting to them
all the while, if it adapts. Only types with knobs can answer.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.progress import track

from metasg_jax.config import FLConfig, GameConfig, MetaConfig, RunConfig
from metasg_jax.data import load
from metasg_jax.evaluation.controls import action_grid
from metasg_jax.evaluation.statistics import mean_se, paired_difference
from metasg_jax.evaluation.worlds import FINAL, SELECTION, world
from metasg_jax.game.rollout import Player, init_normalizer, rollout_groups
from metasg_jax.learning import adapt, attacker_player, defender_player, init_state, pretrain
from metasg_jax.learning.best_response import respond_step
from metasg_jax.learning.estimators import ESTIMATORS
from metasg_jax.policies import Fixed
from metasg_jax.presets.cpu import LEARNER
from metasg_jax.programs import budget


@dataclasses.dataclass(frozen=True)
class FLSettings:
    """The FL game's part."""

    types: tuple[str, ...] = ("none", "ipm:scale=2@0.2", "bfl@0.2", "rl:max_steps=2@0.2")
    """The prior, uniform."""
    rounds: int = 40
    """H."""
    meta_steps: int = 60
    """Of the meta-Stackelberg learner; the others get as many FL rounds."""
    adapt_lr: float = 0.03
    """eta of those that adapt."""
    attacker_steps: int = 2
    """N_A in training."""
    answer_steps: int = 30
    """Ascent steps of an attacker against a finished defender."""
    grid: tuple[int, int, int] = (4, 3, 3)
    """Of the best fixed action: clips x trims x post-training levels."""
    episodes: int = 16
    """Of each type, for a final value."""
    seeds: int = 3
    """Each a learner's seed and a fresh world."""


def run_config(args: FLSettings) -> RunConfig:
    """The digits, 50 clients; the learner of the preset cpu but for the adaptation."""
    meta = LEARNER.replace(
        rollouts_at_once=0, adapt_lr=args.adapt_lr, attacker_steps=args.attacker_steps
    )
    game = GameConfig(types=args.types, hidden=(32,), num_root=100, num_validation=200)
    fl = FLConfig(num_clients=50, batch_size=16, horizon=args.rounds)
    return RunConfig(game, fl, meta)


def concepts(args: FLSettings) -> dict[str, MetaConfig]:
    """A learner's settings for each concept."""
    meta = run_config(args).meta
    return {
        "Bayesian Stackelberg (1)": meta.replace(adapt_steps=0),
        "meta-defence (C3)": meta.replace(attacker_steps=0),
        "meta-Stackelberg (2)": meta,
    }


def steps_of(args: FLSettings, meta: MetaConfig) -> int:
    """Meta-steps that cost as many FL rounds as the meta-Stackelberg learner's."""
    config = run_config(args)
    whole = args.meta_steps * budget.rounds_per_step(config)
    each = budget.rounds_per_step(dataclasses.replace(config, meta=meta))
    return max(1, round(whole / each))


@functools.partial(jax.jit, static_argnames=("adapts", "steps", "groups"))
def judge(key, game, defender: Player, attackers: Player, opt_A, meta, adapts, steps, groups):
    """Mean reward per round against each type, f32[K]: (as the attackers were, once they answered).

    The defender adapts before it plays, and between the attackers' steps, if ``adapts``.
    """
    estimate = ESTIMATORS[meta.gradient]

    def adapted(key, xi, follower):
        if not adapts:
            return defender
        return adapt(key, game, xi, defender, follower, meta.adapt_lr, meta)[0]

    def value(key, xi, follower):
        key_adapt, key_play = jax.random.split(key)
        leader = adapted(key_adapt, xi, follower)
        played = rollout_groups(key_play, game, xi, leader, follower, groups, 1)
        return played.defender.reward.mean()

    def against(_, scanned):
        i, phi, opt, responds = scanned
        xi, follower = game.prior[i], attackers.replace(params=phi)
        keys = jax.random.split(jax.random.fold_in(key, i), 2)

        def step(carry, s):
            phi, opt = carry
            key_adapt, key_play = jax.random.split(jax.random.fold_in(keys[1], s))
            now = follower.replace(params=phi)
            leader = adapted(key_adapt, xi, now)
            _, ascent, _ = estimate(key_play, game, xi, leader, now, jnp.zeros((), bool), meta)
            return respond_step(phi, opt, ascent, meta), None

        def answer(carry):
            return jax.lax.scan(step, carry, jnp.arange(steps))[0]

        phi, _ = jax.lax.cond(responds, answer, lambda c: c, (phi, opt))
        key_before, key_after = jax.random.split(keys[0])
        before = value(key_before, xi, follower)
        return None, (before, value(key_after, xi, follower.replace(params=phi)))

    counter = jnp.arange(len(game.prior), dtype=jnp.int32)
    responds = jnp.array(game.prior.adaptive)
    return jax.lax.scan(against, None, (counter, attackers.params, opt_A, responds))[1]


def best_fixed(key, game, args: FLSettings, attackers: Player) -> np.ndarray:
    """The constant action with the highest mean reward against fresh attackers.

    The search gets as many FL rounds as a learner.
    """
    clips, trims, levels = args.grid
    total = args.meta_steps * budget.rounds_per_step(run_config(args))
    episodes = max(1, total // (clips * trims * levels * len(args.types) * args.rounds))
    actions = np.repeat(action_grid(clips, trims), levels, axis=0)
    actions[:, -1] = np.tile(np.linspace(1.0, -1.0, levels), clips * trims)

    @jax.jit
    def score(actions):
        normalizer, policy = init_normalizer(game.observation_spec), Fixed(game.action_size)

        def against(_, scanned):
            i, phi = scanned

            def one(action):
                leader = Player(action, normalizer, policy)
                follower = attackers.replace(params=phi)
                return rollout_groups(
                    key, game, game.prior[i], leader, follower, episodes, 1
                ).defender.reward.mean()

            with jax.debug_key_reuse(False):  # on purpose: all actions meet the same episodes
                return None, jax.lax.map(one, actions, batch_size=2)

        counter = jnp.arange(len(game.prior), dtype=jnp.int32)
        return jax.lax.scan(against, None, (counter, attackers.params))[1]

    return actions[np.argmax(game.prior.probabilities @ score(jnp.asarray(actions)))]


def fl_table(args: FLSettings, console: Console) -> tuple[str, list[str], list[list[str]]]:
    """(title, header, rows): mean reward per round over the prior, mean and error over seeds."""
    config, dataset = run_config(args), load("digits")
    values: dict[str, list[tuple[float, float]]] = {}
    for seed in track(range(args.seeds), "worlds of the FL game", console=console):
        training = world(config, dataset, seed, SELECTION)
        final = world(config, dataset, seed, FINAL)
        key_init, key_steps, key_judge = jax.random.split(jax.random.key(seed), 3)
        q = np.asarray(final.prior.probabilities)

        def judged(name, defender, state, meta, adapts, key=key_judge, game=final, q=q):
            # fresh attackers, the same for all; their normaliser is of those that trained
            fresh = init_state(jax.random.key(1000), game, config.meta)
            attackers = attacker_player(state, game, meta, slice(None)).replace(params=fresh.phi)
            with jax.debug_key_reuse(False):  # on purpose: the same randomness for all
                before, after = judge(
                    key, game, defender, attackers, fresh.opt_A, config.meta, adapts,
                    args.answer_steps, args.episodes,
                )  # fmt: skip
            pair = float(q @ np.asarray(before)), float(q @ np.asarray(after))
            values.setdefault(name, []).append(pair)

        for name, meta in concepts(args).items():
            with jax.debug_key_reuse(False):
                state = init_state(key_init, training, meta)
                state, _ = pretrain(key_steps, state, training, meta, steps_of(args, meta))
            defender = defender_player(state, final, meta)
            judged(name, defender, state, meta, False)
            judged(f"{name}, adapted", defender, state, meta, True)
        fresh = init_state(key_init, training, config.meta)
        attackers = attacker_player(fresh, training, config.meta, slice(None))
        action = best_fixed(jax.random.key(seed), training, args, attackers)
        leader = Player(
            jnp.asarray(action), init_normalizer(final.observation_spec), Fixed(final.action_size)
        )
        judged("best fixed action", leader, state, config.meta, False)
    meta_name = "meta-Stackelberg (2), adapted"
    rows = []
    for name in sorted(values, key=lambda n: np.mean([v[1] for v in values[n]])):
        each = np.array(values[name])
        mean, error = mean_se(each)
        lead, spread = paired_difference(np.array(values[meta_name])[:, 1], each[:, 1])
        minus = "" if name == meta_name else f"{lead:+.3f} ± {spread:.3f}"
        rows.append(
            [name, *(f"{m:.3f} ± {e:.3f}" for m, e in zip(mean, error, strict=True)), minus]
        )
    rows.append(["perfect Bayesian (PBE)", "", "", "not computable"])
    title = (
        f"FL game: digits, q = {config.game.level:g}, H = {args.rounds}, types "
        f"{', '.join(args.types)}; {args.meta_steps * budget.rounds_per_step(config):,} FL rounds "
        f"of training each, {args.seeds} seeds and worlds"
    )
    header = [
        "defender",
        "reward per round",
        "once the attacker answered",
        "(2), adapted, minus it",
    ]
    return title, header, rows
