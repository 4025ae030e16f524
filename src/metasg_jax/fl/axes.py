"""Axes of a mesh as a program sees them: each device computes its part, then parts are gathered.

A program that is mapped over a mesh with the axes ``AXES`` (``jax.shard_map``, all arguments whole
on every device) shares out three kinds of work: types, rollouts of a batch, clients' training. What
is gathered is whole on every device and in the order of one device, so that all else is computed by
each of them alike. Elsewhere an axis has one device, and all of the work is its own.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

AXES = ("types", "rollouts", "clients")


def num_parts(axis: str) -> int:
    """Devices that share the work of an axis; 1 where no mesh with it is mapped over."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.shape[axis] if axis in mesh.manual_axes else 1


def over(axis: str, fun: Callable[[Any], Any], rows: Any) -> Any:
    """``fun(rows)``, trees with the leading axis n of ``rows``, each device computing a part.

    Where n is no multiple of the devices (the server's own row comes after the clients') the last
    of them repeat the last row; fewer rows than devices are computed by each.
    """
    across, n = num_parts(axis), len(jax.tree.leaves(rows)[0])
    if across == 1 or n < across:
        return fun(rows)
    width = -(-n // across)
    mine = jax.lax.axis_index(axis) * width + jnp.arange(width, dtype=jnp.int32)
    own = fun(jax.tree.map(lambda leaf: leaf[jnp.minimum(mine, n - 1)], rows))
    return jax.tree.map(lambda leaf: jax.lax.all_gather(leaf, axis, tiled=True)[:n], own)


def over_rollouts(
    play: Callable[[jax.Array, jax.Array, int, int], Any], num_groups: int, group_size: int
) -> Any:
    """A batch of groups of rollouts, leaves [num_groups, group_size, ..], each device doing a part.

    Whole groups where their number allows it, because their members share work.

    Args:
        play: (first group i32[], first member i32[], groups, members) -> leaves [groups, members,
            ..] of that block of the batch; the counts are static.
        num_groups: static.
        group_size: static; num_groups x group_size is a multiple of the devices of ``rollouts``.
    """
    across = num_parts("rollouts")
    if across == 1:
        return play(jnp.int32(0), jnp.int32(0), num_groups, group_size)
    wide = math.gcd(num_groups, across)
    deep = across // wide
    groups, members = num_groups // wide, group_size // deep
    place = jax.lax.axis_index("rollouts")
    own = play(place // deep * groups, place % deep * members, groups, members)

    def whole(leaf):
        parts = jax.lax.all_gather(leaf, "rollouts")
        parts = parts.reshape(wide, deep, groups, members, *leaf.shape[2:])
        return jnp.swapaxes(parts, 1, 2).reshape(num_groups, group_size, *leaf.shape[2:])

    return jax.tree.map(whole, own)
