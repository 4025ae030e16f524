"""The learner's state, and how it begins."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from metasg_jax.config import MetaConfig
from metasg_jax.errors import ConfigError
from metasg_jax.game.rollout import Normalizer, Player, init_normalizer
from metasg_jax.learning.check import check_game
from metasg_jax.learning.population import Population, empty_population
from metasg_jax.policies import Categorical, Gaussian, SetPolicy
from metasg_jax.struct import Struct
from metasg_jax.types import Key, Params, Policy


class MetaSGState(Struct):
    """All that a meta-step reads and writes; a pytree that checkpoints as it is.

    Attributes:
        theta: the defender's meta policy.
        phi: the attackers' policies, stacked over the K types; they persist from step to step.
        opt_D: state of the outer optimizer.
        opt_A: state of the attackers' optimizers, stacked over K.
        normalizer: of the defender's observations; frozen within a step, saved with the policy.
        normalizer_A: of the attackers' observations, one for all types.
        step: i32[], meta-steps done.
        population: attackers of earlier defenders, met again in every meta-step; None without.

    Example:
        >>> from metasg_jax.testing import bandit
        >>> state = init_state(jax.random.key(0), bandit(), MetaConfig())
        >>> state.replace(step=jnp.int32(5)).num_steps
        5
    """

    theta: Params
    phi: Params
    opt_D: Any
    opt_A: Any
    normalizer: Normalizer
    normalizer_A: Normalizer
    step: jax.Array
    population: Population | None = None

    @property
    def num_steps(self) -> int:
        """Meta-steps done, on the host."""
        return int(self.step)


def policies(game, config: MetaConfig) -> tuple[Policy, Policy]:
    """The defender's and the attacker's policy of a game; static.

    The defender's is ``config.policy`` where that is a policy. ``auto`` is a set policy where the
    defender decides about each client, and a network of a flat observation elsewhere.
    """

    def flat(size) -> Policy:
        if game.finite:
            return Categorical(size, tuple(config.hidden))
        return Gaussian(size, tuple(config.hidden), config.init_std, config.learn_std)

    attacker = flat(game.attacker_action_size)
    if not isinstance(config.policy, str):
        return config.policy, attacker
    num_trusted = getattr(game, "num_trusted", 0)
    if not num_trusted:
        return flat(game.action_size), attacker
    body = "deep_sets" if config.policy == "auto" else config.policy
    # a knob of a post-training defence begins in the middle, as all knobs of flat policies do
    more = game.action_size - num_trusted - len(KNOBS)
    knobs = KNOBS + (0.0,) * more
    hidden = tuple(config.set_hidden)
    return SetPolicy(num_trusted, knobs, hidden, body, config.init_std, config.learn_std), attacker


KNOBS = (0.0, -0.9, -0.98)
"""Where clip, trim and own begin: 1.7 times the median norm, 2 % a side, 1 % of the server's."""


def _optimizer(config: MetaConfig, lr) -> optax.GradientTransformation:
    if isinstance(config.optimizer, str):
        update = {"sgd": optax.sgd, "adam": optax.adam}[config.optimizer](lr)
    else:
        update = optax.chain(config.optimizer, optax.scale(lr))
    return optax.chain(optax.clip_by_global_norm(config.max_grad_norm), update)


def outer_optimizer(config: MetaConfig) -> optax.GradientTransformation:
    """The defender's outer update, fed with the negated pseudo-gradient."""
    return _optimizer(config, config.outer_lr)


def attacker_optimizer(config: MetaConfig) -> optax.GradientTransformation:
    """The attackers' update: plain ascent with kappa_A, or Adam with it as its step size."""
    return _optimizer(config, config.attacker_lr)


def init_state(key: Key, game, config: MetaConfig) -> MetaSGState:
    """A fresh learner for a game.

    Args:
        key: consumed.
        game: any :class:`~metasg_jax.types.Game` with a ``prior``.
        config: the learner's settings.

    Raises:
        ConfigError: where a setting is out of range, or does not go with the game, or the game is
            outside of the method's assumptions.

    Example:
        >>> from metasg_jax.testing import bandit
        >>> init_state(jax.random.key(0), bandit(), MetaConfig()).num_steps
        0
    """
    config.check()  # here and not below, where floats are traced
    check_game(game)
    if game.finite and config.gradient == "pathwise":
        raise ConfigError("gradient = 'pathwise': a finite game's actions have no derivative")
    if config.gradient == "credit" and not getattr(game, "num_trusted", 0):
        raise ConfigError("gradient = 'credit': the defender of this game decides about no client")
    return _fresh(key, game, config)


@jax.jit  # one program, not fifty of an operation each
def _fresh(key: Key, game, config: MetaConfig) -> MetaSGState:
    defender, attacker = policies(game, config)
    key_theta, key_phi = jax.random.split(key)
    theta = defender.init(key_theta, game.observation_spec)
    keys = jax.random.split(key_phi, len(game.prior))
    phi = jax.vmap(lambda k: attacker.init(k, game.attacker_observation_size))(keys)
    population = None
    if config.population:
        one = jax.tree.map(lambda leaf: leaf[0], phi)
        population = empty_population(config.population, one, game.attacker_observation_size)
    return MetaSGState(
        theta=theta,
        phi=phi,
        opt_D=outer_optimizer(config).init(theta),
        opt_A=jax.vmap(attacker_optimizer(config).init)(phi),
        normalizer=init_normalizer(game.observation_spec),
        normalizer_A=init_normalizer(game.attacker_observation_size),
        step=jnp.zeros((), jnp.int32),
        population=population,
    )


def defender_player(state: MetaSGState, game, config: MetaConfig, greedy: bool = False) -> Player:
    """The meta policy, ready to play."""
    return Player(state.theta, state.normalizer, policies(game, config)[0], greedy)


def attacker_player(
    state: MetaSGState, game, config: MetaConfig, index, greedy: bool = False
) -> Player:
    """The attacker of the type at ``index``, ready to play."""
    phi = jax.tree.map(lambda leaf: leaf[index], state.phi)
    return Player(phi, state.normalizer_A, policies(game, config)[1], greedy)
