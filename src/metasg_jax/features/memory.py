"""What a server remembers of its clients and of its federation."""

import jax
import jax.numpy as jnp

from metasg_jax.struct import Struct


class ClientMemory(Struct):
    """Sums over the rounds that a client answered in, a slot a client, and the federation's spread.

    Attributes:
        sums: f32[N, 2 F], of features and of their deviations from the round's median.
        counts: f32[N], rounds that are in them.
        spread: f32[F], running mean of the rounds' median absolute deviations.
        rounds: f32[], rounds so far.
    """

    sums: jax.Array
    counts: jax.Array
    spread: jax.Array
    rounds: jax.Array


def init_memory(num_slots: int, num_features: int) -> ClientMemory:
    """Nothing known; ``num_slots`` is N, at least 1."""
    return ClientMemory(
        sums=jnp.zeros((num_slots, 2 * num_features), jnp.float32),
        counts=jnp.zeros((num_slots,), jnp.float32),
        spread=jnp.zeros((num_features,), jnp.float32),
        rounds=jnp.zeros((), jnp.float32),
    )


def recall(memory: ClientMemory, slots: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Means f32[n, 2 F] of what was seen of these clients before, 0 if nothing; counts f32[n]."""
    counts = memory.counts[slots]
    return memory.sums[slots] / jnp.maximum(counts, 1.0)[:, None], counts


def remember(
    memory: ClientMemory, slots: jax.Array, seen: jax.Array, present: jax.Array, spread: jax.Array
) -> ClientMemory:
    """The memory after a round: absent rows teach nothing.

    Args:
        memory: before it.
        slots: i32[n], all different.
        seen: f32[n, 2 F].
        present: bool[n].
        spread: f32[F], as it is to be from now on.
    """
    return ClientMemory(
        sums=memory.sums.at[slots].add(jnp.where(present[:, None], seen, 0.0)),
        counts=memory.counts.at[slots].add(present.astype(jnp.float32)),
        spread=spread,
        rounds=memory.rounds + 1,
    )
