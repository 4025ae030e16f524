"""The learner's state, and how it begins."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from metasg_jax.config import MetaConfig
from metasg_jax.errors import ConfigError
from metasg_jax.game.rollout import Normalizer, Player, init_normalizer
from metasg_jax.learning.check import check_game
from metasg_jax.policies import Categorical, Gaussian
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
    """

    theta: Params
    phi: Params
    opt_D: Any
    opt_A: Any
    normalizer: Normalizer
    normalizer_A: Normalizer
    step: jax.Array

    @property
    def num_steps(self) -> int:
        """Meta-steps done, on the host."""
        return int(self.step)


def policies(game, config: MetaConfig) -> tuple[Policy, Policy]:
    """The defender's and the attacker's policy of a game; static."""

    def policy(size) -> Policy:
        if game.finite:
            return Categorical(size, tuple(config.hidden))
        return Gaussian(size, tuple(config.hidden), config.init_std, config.learn_std)

    return policy(game.action_size), policy(game.attacker_action_size)


def outer_optimizer(config: MetaConfig) -> optax.GradientTransformation:
    """The defender's outer update, fed with the negated pseudo-gradient."""
    update = {"sgd": optax.sgd, "adam": optax.adam}[config.optimizer](config.outer_lr)
    return optax.chain(optax.clip_by_global_norm(config.max_grad_norm), update)


def attacker_optimizer(config: MetaConfig) -> optax.GradientTransformation:
    """The attackers' update: plain ascent with kappa_A, or Adam with it as its step size."""
    update = {"sgd": optax.sgd, "adam": optax.adam}[config.optimizer](config.attacker_lr)
    return optax.chain(optax.clip_by_global_norm(config.max_grad_norm), update)


def init_state(key: Key, game, config: MetaConfig) -> MetaSGState:
    """A fresh learner for a game.

    Args:
        key: consumed.
        game: any :class:`~metasg_jax.types.Game` with a ``prior``.
        config: the learner's settings.

    Raises:
        ConfigError: where a setting is out of range, or does not go with the game, or the game is
            outside of the method's assumptions.
    """
    config.check()  # here and not below, where floats are traced
    check_game(game)
    if game.finite and config.gradient == "pathwise":
        raise ConfigError("gradient = 'pathwise': a finite game's actions have no derivative")
    return _fresh(key, game, config)


@jax.jit  # one program, not fifty of an operation each
def _fresh(key: Key, game, config: MetaConfig) -> MetaSGState:
    defender, attacker = policies(game, config)
    key_theta, key_phi = jax.random.split(key)
    theta = defender.init(key_theta, game.observation_size)
    keys = jax.random.split(key_phi, len(game.prior))
    phi = jax.vmap(lambda k: attacker.init(k, game.attacker_observation_size))(keys)
    return MetaSGState(
        theta=theta,
        phi=phi,
        opt_D=outer_optimizer(config).init(theta),
        opt_A=jax.vmap(attacker_optimizer(config).init)(phi),
        normalizer=init_normalizer(game.observation_size),
        normalizer_A=init_normalizer(game.attacker_observation_size),
        step=jnp.zeros((), jnp.int32),
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
