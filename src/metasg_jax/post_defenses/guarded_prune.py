"""Pruning as far as root accuracy allows, then a clean-up of extreme weights.

Wu et al., "Mitigating backdoor attacks in federated learning", arXiv 2011.01767, 2020; pruning of
dormant units is of Liu et al., "Fine-pruning", RAID 2018. In the former, clients rank the units and
vote; here the server does, on its root images.
"""

import jax
import jax.numpy as jnp

from metasg_jax.limits import COUNT, KNOB, POSITIVE, SHARE, check_fields
from metasg_jax.numerics import largest_divisor
from metasg_jax.post_defenses.root import accuracy
from metasg_jax.struct import Struct, field

# prunings that are measured side by side; bounds memory for convolutional networks
_AT_ONCE = 16
# accuracies are sums of float32: equal ones must not differ by their rounding
_ROUNDING = 1e-5


class Path(Struct):
    """Steps from the model as it came to the last that the guard allows.

    Attributes:
        rank: i32[U], 0 for the most dormant unit.
        num_pruned: i32[], how many units may go.
        num_cleaned: i32[], how many levels of the clean-up may follow.
    """

    rank: jax.Array
    num_pruned: jax.Array
    num_cleaned: jax.Array


class GuardedPrune(Struct):
    """Takes dormant units away, then extreme weights, while root accuracy stays.

    Units are ranked by their mean activation on root images and pruned from the most dormant on,
    as long as root accuracy is at least what it was minus ``tolerance``. Then weights further than
    delta standard deviations from their kernel's mean are set to 0, in every kernel but the
    head's, with delta falling from ``max_delta`` to ``min_delta`` under the same guard.

    The knob ``rate`` says how far along this path, in steps (a unit, a level of delta), from
    nothing (+1) to its end (-1). Every step on it has been measured, so the guard holds for every
    rate.

    Attributes:
        rate: in [-1, 1].
        tolerance: in [0, 1], root accuracy that may be lost.
        max_delta: positive, the mildest clean-up.
        min_delta: positive, the strictest, below ``max_delta``.
        levels: of delta, equally spaced, static.
    """

    rate: float = -1.0
    tolerance: float = 0.02
    max_delta: float = 5.0
    min_delta: float = 1.0
    levels: int = field(static=True, default=17)
    action_spec = ("rate",)

    def check(self):
        """Raises ConfigError for a field out of range."""
        check_fields(self, rate=KNOB, tolerance=SHARE, min_delta=POSITIVE, levels=COUNT)
        above = (lambda v: v > self.min_delta, f"above min_delta = {self.min_delta:g}")
        check_fields(self, max_delta=above)

    def calibrate(self, model, deployed, root_x, root_y):
        """The :class:`Path`; at least one unit stays."""
        activity = model.activations(deployed.params, root_x, deployed.clip).mean(axis=0)
        rank = jnp.argsort(jnp.argsort(activity))
        units = rank.shape[0]
        needed = accuracy(model, deployed, root_x, root_y) - self.tolerance - _ROUNDING

        def enough(candidate):
            return accuracy(model, candidate, root_x, root_y) >= needed

        num_pruned = _leading(
            jax.lax.map(
                lambda count: enough(prune(deployed, rank, count)),
                jnp.arange(1, units),
                batch_size=largest_divisor(units - 1, _AT_ONCE),
            )
        )
        pruned = prune(deployed, rank, num_pruned)
        num_cleaned = _leading(
            jax.lax.map(lambda delta: enough(clean_up(pruned, delta)), self._deltas)
        )
        return Path(rank, num_pruned, num_cleaned)

    def __call__(self, key, state, deployed, action=None):
        """(Deployed, state, {pruned: share, delta}); ``state`` is what ``calibrate`` returned."""
        value = self.rate if action is None else action[0]
        share = (1 - jnp.clip(value, -1.0, 1.0)) / 2
        taken = jnp.floor(share * (state.num_pruned + state.num_cleaned) + 1e-4)
        count = jnp.minimum(taken, state.num_pruned)
        deltas = jnp.append(jnp.inf, self._deltas)
        delta = deltas[(taken - count).astype(jnp.int32)]
        info = {"pruned": count / state.rank.shape[0], "delta": delta}
        return clean_up(prune(deployed, state.rank, count), delta), state, info

    @property
    def _deltas(self):
        return jnp.linspace(self.max_delta, self.min_delta, self.levels, dtype=jnp.float32)


def prune(deployed, rank, count):
    """Bounds the ``count`` units of lowest rank by 0."""
    return deployed.replace(clip=jnp.where(rank < count, 0.0, deployed.clip))


def clean_up(deployed, delta):
    """Zeroes weights further than ``delta`` deviations from their kernel's mean, the head's not."""

    def cleaned(path, leaf):
        names = [entry.key for entry in path]
        if names[-1] != "kernel" or "head" in names:
            return leaf
        return jnp.where(jnp.abs(leaf - leaf.mean()) > delta * leaf.std(), 0.0, leaf)

    return deployed.replace(params=jax.tree_util.tree_map_with_path(cleaned, deployed.params))


def _leading(holds):
    """How many of bool[J] are true before the first that is not."""
    return jnp.cumprod(holds.astype(jnp.int32)).sum()
