"""Federated learning under one attack and one fixed rule: rounds and nothing else."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from metasg_jax.config import FLConfig
from metasg_jax.fl.colluders import Attackers, Colluders
from metasg_jax.fl.data import ClientData
from metasg_jax.fl.federation import Call, Federation
from metasg_jax.fl.round import aggregate, collect
from metasg_jax.fl.sampling import sample_clients
from metasg_jax.fl.wire import init_unsent, transmit
from metasg_jax.struct import Struct
from metasg_jax.types import Aggregator, Key, Model


class SimulationState(Struct):
    """Between two rounds.

    Attributes:
        w: f32[d], the global model; may be non-finite after a successful attack.
        round: i32[].
        rule_state: of the rule.
        attack_states: of each group of colluders.
        rejected: f32[], rows so far that the rule left out as not finite.
        unsent: f32[N, d], what compression has kept back of each client's updates; () without.
    """

    w: jax.Array
    round: jax.Array
    rule_state: Any
    attack_states: tuple[Any, ...]
    rejected: jax.Array
    unsent: Any


def start(
    key: Key, model: Model, fl: FLConfig, rule: Aggregator, colluders: tuple[Colluders, ...] = ()
) -> SimulationState:
    """A fresh model. ``key`` is consumed."""
    w = model.ravel(model.init(key))
    n, d = fl.num_sampled, w.shape[0]
    return SimulationState(
        w=w,
        round=jnp.zeros((), jnp.int32),
        rule_state=rule.init(n, d),
        attack_states=tuple(group.table.init(n, d) for group in colluders),
        rejected=jnp.zeros((), jnp.float32),
        unsent=init_unsent(fl, d),
    )


@functools.partial(jax.jit, static_argnames=("model", "num_rounds"))
def simulate(
    key: Key,
    state: SimulationState,
    model: Model,
    fl: FLConfig,
    data: ClientData,
    rule: Aggregator,
    colluders: tuple[Colluders, ...] = (),
    *,
    num_rounds: int,
) -> SimulationState:
    """Plays ``num_rounds`` rounds on from ``state``.

    Nothing is evaluated on the way: play a stretch, measure ``state.w``, play on. Adaptive attacks
    play the centre of their action range.

    Args:
        key: the same for all stretches of a run; round t draws from ``fold_in(key, t)``.
        state: of :func:`start` or of the stretch before.
        model: static.
        fl: counts static, learning rates traced.
        data: images of clients and server.
        rule: any rule; its floats are traced.
        colluders: the groups of attackers, see :meth:`metasg_jax.game.types.Prior.colluders`.
        num_rounds: static.

    Example:
        >>> from metasg_jax.aggregators import Median
        >>> from metasg_jax.testing import tiny_game
        >>> game = tiny_game(("none",), FLConfig(num_clients=8, num_sampled=4, batch_size=4))
        >>> run = start(jax.random.key(0), game.model, game.fl, Median())
        >>> run = simulate(
        ...     jax.random.key(1), run, game.model, game.fl, game.data, Median(), num_rounds=2
        ... )
        >>> int(run.round)
        2
    """
    actions = tuple(
        jnp.zeros((max(1, group.table.action_size),), jnp.float32) for group in colluders
    )

    def play(state, _):
        key_sample, key_collect, key_rule = jax.random.split(
            jax.random.fold_in(key, state.round), 3
        )
        received, attack_states = collect(
            key_collect,
            Federation(model, fl, data),
            Call(state.w, sample_clients(key_sample, fl.num_clients, fl.num_sampled), state.round),
            Attackers(colluders, state.attack_states, actions),
            rule,
            rule.needs_root,
        )
        received, unsent = transmit(key_collect, fl, state.unsent, received)
        w, rule_state, info = aggregate(key_rule, rule, state.rule_state, received, fl.server_lr)
        rejected = state.rejected + info.get("rejected", 0)
        state = SimulationState(w, state.round + 1, rule_state, attack_states, rejected, unsent)
        return state, None

    return jax.lax.scan(play, state, None, length=num_rounds)[0]
