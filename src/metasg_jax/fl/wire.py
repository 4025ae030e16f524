"""What reaches the server when the clients' bandwidth is limited: compression with error feedback.

Seide et al. (Interspeech 2014), Karimireddy et al. (ICML 2019): a client adds to its update what it
could not send before, sends that compressed, and remembers what is now missing. So nothing is lost
for good: all that it sent, and its memory, add up to all its updates.
"""

from typing import Any

import jax
import jax.numpy as jnp

from metasg_jax.compressors import make_compressor
from metasg_jax.config import FLConfig
from metasg_jax.types import Key, Received

# A round's other keys are the first few of a split of the same one.
_OWN_KEY = 1_000_033


def init_unsent(fl: FLConfig, d: int) -> Any:
    """What all clients have still to send, f32[N, d], at the beginning; () without compression."""
    if make_compressor(fl.compression).lossless:
        return ()
    return jnp.zeros((fl.num_clients, d), jnp.float32)


def transmit(key: Key, fl: FLConfig, unsent: Any, received: Received) -> tuple[Received, Any]:
    """Sends the rows of a round through the compressor of ``fl``, honest and hostile ones alike.

    A hostile client is bound to the wire and no more: what it crafted goes the same way, with error
    feedback of its own. The server's own update does not travel.

    Args:
        key: of the round, read and not consumed.
        fl: ``compression`` says how; with ``none`` nothing is computed.
        unsent: f32[N, d] of :func:`init_unsent` or of the round before: each client's memory.
        received: with the rows as the clients would like to send them.

    Returns:
        (received with the rows that the server reads, unsent). What is not finite is forgotten, so
        that a client that has sent it can be heard again.
    """
    compressor = make_compressor(fl.compression)
    if compressor.lossless:
        return received, unsent
    wanted = received.updates + unsent[received.client_ids]
    keys = jax.random.split(jax.random.fold_in(key, _OWN_KEY), len(wanted))
    sent = jax.vmap(compressor)(keys, wanted)
    left = wanted - sent
    unsent = unsent.at[received.client_ids].set(jnp.where(jnp.isfinite(left), left, 0.0))
    return received.replace(updates=sent), unsent


def bytes_a_round(fl: FLConfig, d: int) -> tuple[int, int]:
    """What all clients of a round send together, and what is sent to them, in whole bytes.

    Every message is rounded up to whole bytes. The model of d parameters goes out uncompressed.

    Example:
        >>> bytes_a_round(FLConfig(num_sampled=10, compression="sign"), 1000)
        (1290, 40000)
    """
    message = -(-make_compressor(fl.compression).bits(d) // 8)
    return fl.num_sampled * message, fl.num_sampled * 4 * d
