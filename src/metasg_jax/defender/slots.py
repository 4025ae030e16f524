"""From client ids of any kind to slots of the memory, on the host: least recently seen out."""

import hashlib
from collections.abc import Hashable, Sequence

import numpy as np

from metasg_jax.errors import ConfigError


def fingerprint(client_id: Hashable) -> tuple[int, int]:
    """64 bits of an id as two numbers below 2^32, never (0, 0), the same in every process.

    Integers of any size and their NumPy kinds are one kind; so are strings; so are bytes.

    Raises:
        ConfigError: for an id that is neither of these, nor a tuple of them.
    """
    text = hashlib.blake2b(_spelled(client_id).encode(), digest_size=8).digest()
    first, second = (int.from_bytes(part, "little") for part in (text[:4], text[4:]))
    return first, second or 1


def _spelled(client_id) -> str:
    if isinstance(client_id, (bool, np.bool_)):
        raise ConfigError(
            f"client_ids: {client_id!r}: an integer, a string, bytes or a tuple of them"
        )
    if isinstance(client_id, (int, np.integer)):
        return f"i{int(client_id)}"
    if isinstance(client_id, (str, np.str_)):
        return f"s{client_id}"
    if isinstance(client_id, (bytes, np.bytes_)):
        return f"b{bytes(client_id).hex()}"
    if isinstance(client_id, tuple):
        return "(" + ",".join(_spelled(part) for part in client_id) + ")"
    raise ConfigError(f"client_ids: {client_id!r}: an integer, a string, bytes or a tuple of them")


def assign(
    ids: np.ndarray, last_seen: np.ndarray, clients: Sequence[Hashable], round: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Finds each client's slot, or gives it the one that was seen longest ago.

    Args:
        ids: u32[N, 2], fingerprints by slot; 0 where a slot is free.
        last_seen: i32[N], the round; -1 where a slot is free.
        clients: n different ids, n at most N.
        round: of now.

    Returns:
        (slots i32[n], fresh bool[n]: the slot's memory is another's and must go, ids, last_seen).

    Raises:
        ConfigError: for more clients than slots, an id given twice, or one of another kind.
    """
    if len(clients) > len(ids):
        raise ConfigError(f"client_ids: {len(clients)} clients but {len(ids)} slots of memory")
    wanted = np.array([fingerprint(each) for each in clients], np.uint32).reshape(-1, 2)
    keys = wanted[:, 0].astype(np.uint64) << np.uint64(32) | wanted[:, 1].astype(np.uint64)
    if len(np.unique(keys)) < len(keys):
        twice = [each for i, each in enumerate(clients) if (keys[:i] == keys[i]).any()]
        raise ConfigError(f"client_ids: {twice[0]!r} is given twice")
    ids, last_seen = ids.copy(), last_seen.copy()
    have = ids[:, 0].astype(np.uint64) << np.uint64(32) | ids[:, 1].astype(np.uint64)
    place = {int(key): i for i, key in enumerate(have.tolist()) if key}
    slots = np.array([place.get(int(key), -1) for key in keys], np.int32)
    fresh = slots < 0
    last_seen[slots[~fresh]] = round
    oldest = np.argsort(last_seen, kind="stable")[: int(fresh.sum())]
    slots[fresh] = oldest
    ids[oldest], last_seen[oldest] = wanted[fresh], round
    return slots, fresh, ids, last_seen
