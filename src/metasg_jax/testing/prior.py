"""Tables of attacker types of the closed-form games, with the prior Q over them."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metasg_jax.errors import ConfigError
from metasg_jax.game.types import TypeTable


def type_table(
    types: Sequence[Any],
    names: Sequence[str] = (),
    adaptive: Sequence[bool] = (),
    probabilities: Sequence[float] = (),
) -> TypeTable:
    """Stacks types into a table and numbers them.

    Args:
        types: K of the same class, each with a field ``index``, which is overwritten.
        names: K strings; ``type 0`` and so on by default.
        adaptive: K booleans; all true by default.
        probabilities: K non-negative numbers of sum 1; uniform by default.

    Raises:
        ConfigError: for no types, a number of names, flags or probabilities that isn't K,
            probabilities that aren't a distribution, and payoffs that aren't finite.
    """
    k = len(types)
    if k == 0:
        raise ConfigError("types = (): at least one attacker type; the prior Q needs a support")
    names = tuple(names) or tuple(f"type {i}" for i in range(k))
    adaptive = tuple(bool(a) for a in adaptive) or (True,) * k
    q = tuple(probabilities) or (1 / k,) * k
    for what, values in (("names", names), ("adaptive", adaptive), ("probabilities", q)):
        if len(values) != k:
            raise ConfigError(f"{what} = {values!r}: one for each of the {k} types")
    if min(q) < 0 or abs(sum(q) - 1) > 1e-6:
        raise ConfigError(f"probabilities = {q!r}: non-negative, of sum 1")
    numbered = [xi.replace(index=jnp.int32(i)) for i, xi in enumerate(types)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(a) for a in leaves]), *numbered)
    for path, leaf in jax.tree_util.tree_leaves_with_path(stacked):
        if not np.isfinite(np.asarray(leaf)).all():
            raise ConfigError(f"types{jax.tree_util.keystr(path)}: not finite")
    return TypeTable(stacked, jnp.asarray(q, jnp.float32), names, adaptive)
