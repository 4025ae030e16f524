"""DeepSight (Rieger, Nguyen, Miettinen, Sadeghi; NDSS 2022)."""

from typing import Any

import jax
import jax.numpy as jnp

from metasg_jax.aggregators.base import AggregatorBase
from metasg_jax.aggregators.clustering import cosine_distances, hdbscan
from metasg_jax.aggregators.geometry import mixture
from metasg_jax.aggregators.norms import clip_factors, median_norm
from metasg_jax.aggregators.presence import count_rejected, presence, present_norms
from metasg_jax.errors import ConfigError
from metasg_jax.numerics import row_norms
from metasg_jax.struct import field
from metasg_jax.types import Key, Model, Received

# Noise images of a set that go through a model at once: it bounds the memory.
CHUNK = 64
# Keeps a ratio of probabilities finite.
EPSILON = 1e-6


class DeepSight(AggregatorBase):
    """Filters out groups of clients whose output layers were trained towards few classes.

    Of each row, with the output layer's part of it (C neurons, kernel K f32[F, C], bias b f32[C]):

    - update energy e_c = |b_c| + sum_f |K_fc|, and NEUP_c = e_c^2 / sum_c e_c^2;
    - threshold exceedings, the number of neurons with NEUP_c > max(floor, 1 / C) max_c NEUP_c. A
      client is *suspicious* if it has at most half of the median number: few classes in its data;
    - division differences DDif_c, for each of ``num_seeds`` sets of ``num_inputs`` noise images,
      uniform in [0, 1]: the mean over the images of p_c(local model) / p_c(global model).

    HDBSCAN clusters the clients by the Euclidean distances of NEUPs, by those of each set's DDifs,
    and by the cosine distances of b. Two clients are then as far apart as the share of these
    clusterings that part them, where NEUPs, DDifs (all sets together) and biases count a third
    each; by this distance they are clustered once more. A cluster is accepted if less than
    ``max_suspicious`` of it is suspicious. Accepted rows are clipped to the median norm of all
    rows, and averaged unweighted; zero where none is accepted.

    Published implementations differ. Here:

    - a row in no cluster (HDBSCAN's noise) is a cluster of its own, both where distances are merged
      and in the end, so it is accepted if it isn't suspicious. Some implementations take all noise
      for one cluster when they merge, and some drop it in the end;
    - ``min_cluster_size`` is 2. The usual implementations keep the default of their package, 5,
      for rounds of many clients. Of 10 clients it could find halves at best and no malicious pair,
      and a round is mostly accepted or rejected as a whole;
    - ``min_samples`` counts the row itself, see :func:`~metasg_jax.aggregators.clustering.hdbscan`.
      Others have 1, 3 or 5 without it, hence 2, 4 or 6 here. With more than 2, a group of two is
      not dense, whatever its distance;
    - a single cluster is allowed in the last clustering and in none before it: some never allow
      it, some always;
    - exceedings are strict, with the floor 0.01, which matters from 100 classes on; some count
      equality and leave the floor out. "At most half of the median" is common, "less" occurs;
    - DDifs are ratios of probabilities, with 1e-6 added to the lower one, and not of the outputs
      as they are, nor of mean probabilities. The images are drawn anew each round, from ``key``:
      fixed ones could be trained for;
    - only biases enter the cosine distance, not the whole output layer.

    Equal distances, of which the last clustering has many, never depend on the order of rows. A row
    whose model predicts no finite number has no DDif, and is in no cluster of DDifs.

    Attributes:
        model: static: the model that clients train, whose output layer ``params["head"]`` has a
            kernel and a bias. Must be given.
        num_inputs: static, at least 1: noise images a set; 20,000 in the paper.
        num_seeds: static, at least 1: sets of noise images; 3 in the paper.
        min_cluster_size: static, at least 2.
        min_samples: static, at least 1.
        floor: in [0, 1).
        max_suspicious: in (0, 1].

    Example:
        >>> from metasg_jax.models import make_model
        >>> from metasg_jax.testing import received
        >>> model = make_model("mlp", (2, 2, 1), 3, (1,))
        >>> honest = [[0.1] * 5 + [0.3 - 0.1 * i, 0.2, 0.1 * i] * 2 for i in range(4)]
        >>> rows = received([*honest, [0.1] * 5 + [0.0, 0.0, -1.0] * 2])
        >>> rule = DeepSight(model=model, num_inputs=16)
        >>> _, _, info = jax.jit(rule)(jax.random.key(0), (), rows)
        >>> info["suspicious"].tolist()
        [False, False, False, False, True]
    """

    model: Any = field(static=True, default=None)
    num_inputs: int = field(static=True, default=256)
    num_seeds: int = field(static=True, default=3)
    min_cluster_size: int = field(static=True, default=2)
    min_samples: int = field(static=True, default=2)
    floor: float = 0.01
    max_suspicious: float = 1 / 3

    def check_clients(self, n: int) -> None:
        """Refuses a rule without a model, and numbers out of range.

        Raises:
            ConfigError: as said.
        """
        if self.model is None:
            raise ConfigError(
                "DeepSight: model = None: it looks into the clients' models, so it needs the one "
                "they train: DeepSight(model=make_model(...)), or the game's own model"
            )
        limits = {"num_inputs": 1, "num_seeds": 1, "min_cluster_size": 2, "min_samples": 1}
        for name, least in limits.items():
            if getattr(self, name) < least:
                raise ConfigError(f"DeepSight: {name} = {getattr(self, name)}: at least {least}")

    def __call__(self, key, state, received, action=None):
        """(f32[d], state, {selected: bool[n], suspicious: bool[n], rejected: i32[]}).

        Raises:
            ConfigError: as :meth:`check_clients`.
        """
        self.check_clients(received.updates.shape[0])
        present = presence(received)
        norms = present_norms(received, present)
        kernel, bias = _heads(self.model, received, present)
        energies = normalised_energies(kernel, bias)
        exceedings = threshold_exceedings(energies, self.floor)
        suspicious = present & (exceedings <= median_norm(exceedings, present) / 2)

        ratios = division_differences(key, self.model, received, self.num_inputs, self.num_seeds)
        predicts = present[None, :] & jnp.isfinite(ratios).all(axis=-1)
        ratios = jnp.where(predicts[:, :, None], ratios, 0.0)
        apart = [euclidean_distances(energies), cosine_distances(bias, row_norms(bias))]
        cluster = ensemble(
            jnp.concatenate([euclidean_distances(ratios), jnp.stack(apart)]),
            jnp.concatenate([predicts, jnp.stack([present, present])]),
            jnp.array([1.0] * self.num_seeds + [self.num_seeds] * 2, ratios.dtype),
            present,
            self.min_cluster_size,
            self.min_samples,
        )
        together = (cluster[:, None] == cluster[None, :]) & present[None, :]
        share = jnp.sum(together & suspicious[None, :], axis=1) / jnp.maximum(together.sum(1), 1)
        selected = present & (share < self.max_suspicious)

        weights = selected * clip_factors(norms, median_norm(norms, present))
        weights = weights / jnp.maximum(selected.sum(), 1)
        rejected = count_rejected(received, present)
        info = {"selected": selected, "suspicious": suspicious, "rejected": rejected}
        return mixture(weights, received.updates, present), state, info


def _heads(model: Model, received: Received, present: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The output layer's kernels f32[n, F, C] and biases f32[n, C] of updates, 0 where absent."""
    head = jax.vmap(lambda row: model.unravel(row)["head"])(received.updates)
    kernel = jnp.where(present[:, None, None], head["kernel"], 0.0)
    return kernel, jnp.where(present[:, None], head["bias"], 0.0)


def normalised_energies(kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """NEUPs f32[n, C]; all 0 where a client left the output layer as it was."""
    energies = jnp.abs(bias) + jnp.sum(jnp.abs(kernel), axis=1)
    # the largest first: squares of huge energies overflow
    energies = energies / jnp.maximum(energies.max(axis=1, keepdims=True), 1e-30)
    return energies**2 / jnp.maximum(jnp.sum(energies**2, axis=1, keepdims=True), 1e-30)


def threshold_exceedings(energies: jax.Array, floor: float | jax.Array) -> jax.Array:
    """How many neurons f32[n] have a NEUP above max(floor, 1 / C) times the client's largest."""
    share = jnp.maximum(floor, 1 / energies.shape[1])
    return jnp.sum(1.0 * (energies > share * energies.max(axis=1, keepdims=True)), axis=1)


def noise_images(key: Key, num_seeds: int, count: int, shape: tuple[int, ...]) -> jax.Array:
    """f32[num_seeds, count, *shape], uniform in [0, 1)."""
    return jax.random.uniform(key, (num_seeds, count, *shape), jnp.float32)


def division_differences(
    key: Key, model: Model, received: Received, num_inputs: int, num_seeds: int
) -> jax.Array:
    """DDifs f32[num_seeds, n, C]; not finite where a client's model predicts no finite number.

    One client and :data:`CHUNK` images a set at a time, so that the memory is that of one model's
    activations, whatever n and ``num_inputs`` are.
    """
    n, w_global = received.updates.shape[0], received.w_global
    chunks = -(-num_inputs // CHUNK)
    size = -(-num_inputs // chunks)

    def probabilities(w, images):
        return jax.nn.softmax(model.apply(model.unravel(w), images))

    def add(chunk, sums):
        noise = noise_images(jax.random.fold_in(key, chunk), num_seeds, size, model.input_shape)
        images = noise.reshape(num_seeds * size, *model.input_shape)
        base = probabilities(w_global, images) + EPSILON
        # the chunks are equal, so the last may hold images too many
        counted = chunk * size + jnp.arange(size) < num_inputs

        def compare(row):
            ratios = probabilities(w_global - row, images) / base
            ratios = ratios.reshape(num_seeds, size, -1)
            return jnp.sum(jnp.where(counted[None, :, None], ratios, 0.0), axis=1)

        return sums + jax.lax.map(compare, received.updates)

    start = jnp.zeros((n, num_seeds, model.num_classes), received.updates.dtype)
    return jax.lax.fori_loop(0, chunks, add, start).swapaxes(0, 1) / num_inputs


def euclidean_distances(points: jax.Array) -> jax.Array:
    """f32[.., n, n] of f32[.., n, C]; by differences, which lose no digits."""
    offsets = points[..., :, None, :] - points[..., None, :, :]
    return jnp.sqrt(jnp.sum(offsets**2, axis=-1))


def ensemble(
    distances: jax.Array,
    present: jax.Array,
    votes: jax.Array,
    all_present: jax.Array,
    min_cluster_size: int,
    min_samples: int,
) -> jax.Array:
    """Clusters i32[n] by the share of votes of k clusterings that part two rows.

    A row in no cluster is one of its own. A cluster is called by the index of its first row.

    Args:
        distances: f32[k, n, n], what each clustering goes by.
        present: bool[k, n], the rows that each clustering sees.
        votes: f32[k], whole numbers, so that equal sums are equal.
        all_present: bool[n], the rows that the last clustering sees.
        min_cluster_size: as of :func:`~metasg_jax.aggregators.clustering.hdbscan`.
        min_samples: likewise.
    """
    index, total = jnp.arange(distances.shape[1]), votes.sum()

    def cluster(apart, inputs):
        distances, present, votes, is_last = inputs
        distances = jnp.where(is_last, apart / total, distances)
        labels = hdbscan(distances, present, min_cluster_size, min_samples, is_last)
        labels = jnp.where(labels < 0, index, labels)
        return apart + votes * (labels[:, None] != labels[None, :]), labels

    # one more turn for the last clustering: it compiles once
    inputs = (
        jnp.concatenate([distances, distances[:1]]),
        jnp.concatenate([present, all_present[None]]),
        jnp.append(votes, 0.0),
        jnp.arange(len(votes) + 1) == len(votes),
    )
    _, labels = jax.lax.scan(cluster, jnp.zeros(distances.shape[1:], distances.dtype), inputs)
    return labels[-1]
