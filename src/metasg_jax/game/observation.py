"""What the players see. ``init() -> memory``; ``observe(memory, ...) -> (obs f32[O], memory)``.

The defender's observations are static objects; their memory is part of the game's state.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metasg_jax.aggregators.norms import median_norm
from metasg_jax.aggregators.presence import present_rows
from metasg_jax.config import FLConfig
from metasg_jax.features import ServerData, layout_of
from metasg_jax.features.view import begin, describe, view_spec
from metasg_jax.fl.trigger_inversion import begin_search, continue_search, estimate_asr
from metasg_jax.numerics import row_norms, safe_sqrt, weighted_sum
from metasg_jax.post_defenses import undefended
from metasg_jax.registry import Registry
from metasg_jax.struct import field
from metasg_jax.types import Model, Received

_TINY = 1e-12


@dataclasses.dataclass(frozen=True)
class PaperObservation:
    """The last global model, blind to this round's updates (section 2.2: o_D = w_g).

    Compressed to the parameters of the last layer, as in the authors' later work.
    """

    needs_root = False

    def spec(self, model: Model, fl: FLConfig, action_size: int) -> int:
        """O: parameters of the last layer."""
        w = jax.eval_shape(lambda: _head(model, model.ravel(model.init(jax.random.key(0)))))
        return w.shape[0]

    def init(self, model: Model, fl: FLConfig, action_size: int) -> Any:
        """No memory."""
        return ()

    def __call__(
        self, model: Model, memory, received: Received, root, loss, previous_action, progress
    ) -> tuple[jax.Array, Any]:
        """(f32[O], memory)."""
        return _head(model, received.w_global), memory


@dataclasses.dataclass(frozen=True)
class StatisticsObservation:
    """Scale-free summaries of what was received this round, and their moving averages.

    Norms relative to their median, cosines between rows (of the last layer) and to the server's
    own update, spread, drift of the last layer's biases (sorted, so that no class is special), the
    share of rows that arrived, the root loss and its change; then the round's share of the episode
    and the previous action.

    Attributes:
        decay: of the moving averages, in [0, 1).
    """

    decay: float = 0.9
    needs_root = True

    def spec(self, model: Model, fl: FLConfig, action_size: int) -> int:
        """O."""
        return 2 * _NUM_STATISTICS + 1 + action_size

    def init(self, model: Model, fl: FLConfig, action_size: int) -> Any:
        """(moving averages, weight they have gathered, previous root loss)."""
        return (
            jnp.zeros((_NUM_STATISTICS,), jnp.float32),
            jnp.zeros((), jnp.float32),
            jnp.zeros((), jnp.float32),
        )

    def __call__(
        self, model: Model, memory, received: Received, root, loss, previous_action, progress
    ) -> tuple[jax.Array, Any]:
        """Sees the round before the defender acts.

        Args:
            model: static.
            memory: from :meth:`init` or the previous round.
            received: with ``root_update``.
            root: the server's own images f32[R, h, w, c] and labels i32[R].
            loss: f32[], root loss of the model that was sent out.
            previous_action: f32[A] in [-1, 1].
            progress: f32[] in [0, 1], round / horizon.
        """
        averages, gathered, previous_loss = memory
        change = jnp.where(gathered > 0, loss - previous_loss, 0.0)
        now = jnp.concatenate([round_statistics(model, received), jnp.stack([loss, change])])
        averages = self.decay * averages + (1 - self.decay) * now
        gathered = self.decay * gathered + (1 - self.decay)
        obs = jnp.concatenate([now, averages / gathered, progress[None], previous_action])
        return obs, (averages, gathered, loss)


@dataclasses.dataclass(frozen=True)
class InversionObservation:
    """The statistics, and how well a patch can send the server's own images to one label.

    A backdoor of honest size shows in no norm and hardly in a cosine. So the server looks for the
    trigger in the model that it sends out: a patch for each label, improved by a step a round
    (:func:`metasg_jax.fl.trigger_inversion.continue_search`). Of the labels' mean probabilities
    under their patches it sees the largest, the second, the median, and ``(first - second) / (1 -
    second)``, an estimate of the attack's success; now and as moving averages.

    Attributes:
        decay: of all moving averages, in [0, 1).
        side: of the patch, in pixels.
        images: of the root set, a round.
    """

    decay: float = 0.9
    side: int = 3
    images: int = 64
    needs_root = True

    @property
    def _statistics(self) -> StatisticsObservation:
        return StatisticsObservation(self.decay)

    def spec(self, model: Model, fl: FLConfig, action_size: int) -> int:
        """O."""
        return self._statistics.spec(model, fl, action_size) + 2 * _NUM_PATCHED

    def init(self, model: Model, fl: FLConfig, action_size: int) -> Any:
        """(the statistics' memory, the search, moving averages of what it found)."""
        return (
            self._statistics.init(model, fl, action_size),
            begin_search(model, self.side),
            jnp.zeros((_NUM_PATCHED,), jnp.float32),
        )

    def __call__(
        self, model: Model, memory, received: Received, root, loss, previous_action, progress
    ) -> tuple[jax.Array, Any]:
        """As :class:`StatisticsObservation`."""
        before, search, averages = memory
        obs, after = self._statistics(
            model, before, received, root, loss, previous_action, progress
        )
        sent_out = undefended(model, model.unravel(received.w_global))
        search, success = continue_search(
            search, model, sent_out, *root, side=self.side, images=self.images
        )
        now = patch_features(success)
        averages = self.decay * averages + (1 - self.decay) * now
        _, gathered, _ = after  # the statistics' averages are as old
        return jnp.concatenate([obs, now, averages / gathered]), (after, search, averages)


@dataclasses.dataclass(frozen=True)
class ReservoirObservation:
    """The statistics of this round, and a recurrent cell that has read those of all before it.

    A fixed random network, an echo state network (Jaeger and Haas, Science, 2004):
    ``h' = (1 - leak) h + leak tanh(W h + V x)``, W with spectral radius ``radius``. The policy
    learns to read it; nothing has to be learned through time.

    Attributes:
        units: of the cell.
        leak: in (0, 1]; small is slow.
        radius: in (0, 1); large remembers longer.
    """

    units: int = 64
    leak: float = 0.3
    radius: float = 0.9
    needs_root = True

    def spec(self, model: Model, fl: FLConfig, action_size: int) -> int:
        """O."""
        return _NUM_STATISTICS + self.units + 1 + action_size

    def init(self, model: Model, fl: FLConfig, action_size: int) -> Any:
        """(state of the cell, rounds seen, previous root loss)."""
        return (
            jnp.zeros((self.units,), jnp.float32),
            jnp.zeros((), jnp.float32),
            jnp.zeros((), jnp.float32),
        )

    def weights(self) -> tuple[jax.Array, jax.Array]:
        """W f32[U, U] and V f32[U, S], the same in every run."""
        rng = np.random.default_rng(0)
        inner = rng.normal(size=(self.units, self.units))
        inner *= self.radius / np.abs(np.linalg.eigvals(inner)).max()
        outer = rng.normal(size=(self.units, _NUM_STATISTICS)) / np.sqrt(_NUM_STATISTICS)
        return jnp.asarray(inner, jnp.float32), jnp.asarray(outer, jnp.float32)

    def __call__(
        self, model: Model, memory, received: Received, root, loss, previous_action, progress
    ) -> tuple[jax.Array, Any]:
        """As :class:`StatisticsObservation`."""
        cell, seen, previous_loss = memory
        change = jnp.where(seen > 0, loss - previous_loss, 0.0)
        now = jnp.concatenate([round_statistics(model, received), jnp.stack([loss, change])])
        inner, outer = self.weights()
        cell = (1 - self.leak) * cell + self.leak * jnp.tanh(inner @ cell + outer @ now)
        obs = jnp.concatenate([now, cell, progress[None], previous_action])
        return obs, (cell, seen + 1, loss)


@dataclasses.dataclass(frozen=True)
class ClientsObservation:
    """What the server can tell of each client, and of the round: for a set policy.

    See :func:`metasg_jax.features.view.describe`. A client's id is its slot of the memory.

    Attributes:
        memory: ``ids``, clients are known again; ``none``, a federation without identities.
        influence: ``on`` or ``off``; what each row does to the root images costs n forward passes
            over up to 64 of them.
        root: ``on`` or ``off``, the server has no images: no influence, and no update of its own to
            compare with.
    """

    memory: str = field(static=True, default="ids", choices=("ids", "none"))
    influence: str = field(static=True, default="on", choices=("on", "off"))
    root: str = field(static=True, default="on", choices=("on", "off"))
    needs_root = True

    def spec(self, model: Model, fl: FLConfig, action_size: int) -> Any:
        """A :class:`~metasg_jax.features.view.ClientView` of n clients."""
        return view_spec(fl.num_sampled)

    def init(self, model: Model, fl: FLConfig, action_size: int) -> Any:
        """A :class:`~metasg_jax.features.memory.ClientMemory` with a slot a client."""
        return begin(fl.num_clients if self.memory == "ids" else 1)

    def __call__(
        self, model: Model, memory, received: Received, root, loss, previous_action, progress
    ) -> tuple[Any, Any]:
        """Sees the round before the defender acts; reads no loss, no action and no progress."""
        if self.root == "off":
            received = received.replace(root_update=None)
        return describe(
            received,
            server_data(model, root),
            memory,
            remembers=self.memory == "ids",
            without=() if (self.influence, self.root) == ("on", "on") else ("influence",),
        )


@functools.lru_cache
def _layout(model: Model):
    # concrete even when first asked for under a trace
    with jax.ensure_compile_time_eval():
        params = model.init(jax.random.key(0))
        x = jax.random.uniform(jax.random.key(0), (4, *model.input_shape), jnp.float32)
        return layout_of(params, model.apply, x)


@functools.lru_cache
def _apply_flat(model: Model):
    return lambda w, x: model.apply(model.unravel(w), x)


def server_data(model: Model, root) -> ServerData:
    """What the simulator's server has beside the updates: its images, labels and model."""
    return ServerData(*root, layout=_layout(model), apply=_apply_flat(model))


_NUM_PATCHED = 4


def patch_features(success: jax.Array) -> jax.Array:
    """Largest, second, median and estimated attack success of f32[C], whatever the labels."""
    ordered = jnp.sort(success)
    _, estimated = estimate_asr(success)
    return jnp.stack([ordered[-1], ordered[-2], jnp.median(ordered), estimated])


_QUANTILES = (0.0, 0.1, 0.25, 0.75, 0.9, 1.0)
_COSINE_QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
_ROOT_QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
_NUM_STATISTICS = len(_QUANTILES) + len(_COSINE_QUANTILES) + len(_ROOT_QUANTILES) + 4 + 9 + 2


def round_statistics(model: Model, received: Received) -> jax.Array:
    """The scale-free summaries of one round, f32[...]; finite for any input.

    A round of which nothing is present gives zeros in place of every quantile.

    Raises:
        ValueError: where ``received.root_update`` is None.
    """
    updates, present = present_rows(received)
    count = present.sum()
    root = received.root_update
    if root is None:
        raise ValueError("this observation needs received.root_update, the server's own update")
    norms = row_norms(updates)
    middle = jnp.maximum(median_norm(norms, present), _TINY)
    root_norm = jnp.maximum(safe_sqrt(jnp.vdot(root, root)), _TINY)
    log_norms = jnp.log(jnp.maximum(norms, 1e-6 * middle) / middle)

    # between rows, on the last layer: as telling as on all of it, and a twentieth of the work
    head = jax.vmap(lambda u: _head(model, u))(updates)
    head = head / jnp.maximum(row_norms(head), _TINY)[:, None]
    cosines = head @ head.T
    n = updates.shape[0]
    pairs = present[:, None] & present[None, :] & jnp.tri(n, k=-1, dtype=bool)
    root_cosines = updates @ root / (jnp.maximum(norms, _TINY) * root_norm)

    share = present.astype(updates.dtype) / jnp.maximum(count, 1)
    mean = weighted_sum(share, updates)
    mean_norm = jnp.maximum(safe_sqrt(jnp.vdot(mean, mean)), _TINY)
    # sum over coordinates of the variance over rows
    spread = safe_sqrt(jnp.maximum(share @ norms**2 - mean_norm**2, 0.0)) / middle

    bias = jax.vmap(lambda u: _head_bias(model, u))(updates)
    bias_mean = share @ bias
    scale = jnp.maximum(safe_sqrt(share @ jnp.sum(bias**2, axis=1)), _TINY)
    drift = jnp.sort(bias_mean) / scale
    extremes = jnp.sort(jnp.where(present[:, None], bias, 0.0).min(axis=0)) / scale
    return jnp.concatenate(
        [
            masked_quantiles(log_norms, present, _QUANTILES),
            masked_quantiles(cosines.reshape(-1), pairs.reshape(-1), _COSINE_QUANTILES),
            masked_quantiles(root_cosines, present, _ROOT_QUANTILES),
            jnp.stack(
                [
                    jnp.log(middle / root_norm),
                    spread,
                    jnp.vdot(mean, root) / (mean_norm * root_norm),
                    count.astype(updates.dtype) / n,
                ]
            ),
            drift[:3],
            drift[-3:],
            extremes[:3],
        ]
    )


def masked_quantiles(values: jax.Array, mask: jax.Array, quantiles) -> jax.Array:
    """Linearly interpolated quantiles of the marked values; 0 where none is marked."""
    count = mask.sum()
    ordered = jnp.sort(jnp.where(mask, values, jnp.inf))
    place = jnp.asarray(quantiles, values.dtype) * jnp.maximum(count - 1, 0)
    low = jnp.floor(place).astype(jnp.int32)
    high = jnp.minimum(low + 1, jnp.maximum(count - 1, 0))
    part = place - low
    result = ordered[low] * (1 - part) + jnp.where(part > 0, ordered[high], 0.0) * part
    return jnp.where(count > 0, result, 0.0)


ATTACKER_FEATURES = 16
ATTACKER_OBSERVATION_SIZE = ATTACKER_FEATURES + 4


def attacker_projection(model: Model) -> jax.Array:
    """The fixed random directions f32[F, P] through which an attacker sees the last layer."""
    size = PaperObservation().spec(model, FLConfig(), 0)
    return jax.random.normal(jax.random.key(0), (ATTACKER_FEATURES, size), jnp.float32)


def attacker_observation(
    model: Model, projection: jax.Array, w, malicious_share, progress, loss, sees_model=True
) -> jax.Array:
    """What the attacker sees before it acts: f32[ATTACKER_OBSERVATION_SIZE].

    The global model's last layer by a random projection of its direction, its log norm, the share
    of malicious clients among those sampled, the episode's progress and the model's loss. Without
    ``sees_model`` share and progress are left, and the rest is 0.
    """
    head = _head(model, w)
    norm = safe_sqrt(jnp.vdot(head, head))
    projected = projection @ head / jnp.maximum(norm, _TINY)
    log_norm = jnp.log(jnp.maximum(norm, 1e-6))
    projected, log_norm, loss = (
        jnp.where(sees_model, each, 0.0) for each in (projected, log_norm, loss)
    )
    extra = jnp.stack([log_norm, malicious_share, progress, loss])
    return jnp.concatenate([projected, extra])


def _head(model: Model, w: jax.Array) -> jax.Array:
    head = model.unravel(w)["head"]
    return jnp.concatenate([head["kernel"].reshape(-1), head["bias"]])


def _head_bias(model: Model, update: jax.Array) -> jax.Array:
    return model.unravel(update)["head"]["bias"]


OBSERVATIONS = Registry(
    "observation",
    {
        "clients": ClientsObservation,
        "statistics": StatisticsObservation,
        "reservoir": ReservoirObservation,
        "inversion": InversionObservation,
        "paper": PaperObservation,
    },
)
