"""Which clients answer, and which of their images they train on. Both cost O(what is drawn)."""

import jax
import jax.numpy as jnp

from metasg_jax.types import Key


def sample_clients(key: Key, num_clients: int, num_sampled: int) -> jax.Array:
    """Draws ``num_sampled`` different clients, every set of that size equally likely.

    Floyd's algorithm (Bentley and Floyd, CACM 1987): n draws, never a permutation of all N.

    Args:
        key: consumed.
        num_clients: N, static.
        num_sampled: n <= N, static.

    Returns:
        i32[n], all different.
    """
    first = num_clients - num_sampled
    tops = jnp.arange(first, num_clients, dtype=jnp.int32)
    draws = jax.random.randint(key, (num_sampled,), 0, tops + 1)

    def insert(i, chosen):
        pick = jnp.where((chosen == draws[i]).any(), tops[i], draws[i])
        return chosen.at[i].set(pick)

    return jax.lax.fori_loop(0, num_sampled, insert, jnp.full((num_sampled,), -1, jnp.int32))


def sample_positions(key: Key, sizes: jax.Array, steps: int, batch_size: int) -> jax.Array:
    """Draws the positions of each client's batches within its own (shuffled) list of images.

    A client with at least a batch of images draws without replacement within the batch: its list
    is cut into B strata of almost equal length, starting at a random place, and one image is drawn
    from each; every image is equally likely. A smaller client draws with replacement.

    Args:
        key: consumed.
        sizes: i32[n], images of each client, at least 1.
        steps: S, static.
        batch_size: B, static.

    Returns:
        i32[n, S, B] in [0, size of the client).
    """
    key_offset, key_within = jax.random.split(key)
    shape = (sizes.shape[0], steps, batch_size)
    size = sizes[:, None, None]
    u = jax.random.uniform(key_within, shape, jnp.float32)
    offset = jax.random.randint(key_offset, shape[:2], 0, sizes[:, None])[..., None]
    j = jnp.arange(batch_size, dtype=jnp.int32)[None, None]
    # j * size overflows nothing: images times batch stays far below 2^31
    low, high = (j * size) // batch_size, ((j + 1) * size) // batch_size
    within = jnp.minimum(jnp.floor(u * (high - low)).astype(jnp.int32), high - low - 1)
    without_replacement = (offset + low + within) % size
    with_replacement = jnp.minimum(jnp.floor(u * size).astype(jnp.int32), size - 1)
    return jnp.where(size >= batch_size, without_replacement, with_replacement)
