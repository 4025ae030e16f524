"""An attacker that becomes another one in mid-run: what a settled defence has to notice."""

from typing import Any

import jax
import jax.numpy as jnp

from metasg_jax.struct import Struct


class Switch(Struct):
    """Who comes after whom.

    Attributes:
        then: i32[K], the place in the prior of the type that follows each type.
        at: i32[], the first round of the second type.
    """

    then: jax.Array
    at: jax.Array


def cycle(num_types: int, step: int, at: int) -> Switch:
    """Each type is followed by the one ``step`` places on.

    Example:
        >>> cycle(3, 1, 50).then.tolist()
        [1, 2, 0]
    """
    then = (jnp.arange(num_types, dtype=jnp.int32) + step) % num_types
    return Switch(then, jnp.asarray(at, jnp.int32))


def second(game, i: jax.Array, switch: Switch | None) -> tuple[Any, tuple[Any, jax.Array] | None]:
    """(the type that is there at the end, ``later`` of :func:`metasg_jax.game.rollout.rollout`).

    Args:
        game: with a prior.
        i: i32[], the first type; not batched.
        switch: None where nobody switches.
    """
    if switch is None:
        return game.prior[i], None
    xi = game.prior[switch.then[i]]
    return xi, (xi, switch.at)
