"""FoolsGold (Fung, Yoon, Beschastnikh; RAID 2020)."""

import jax
import jax.numpy as jnp

from metasg_jax.aggregators.base import AggregatorBase
from metasg_jax.aggregators.geometry import products
from metasg_jax.aggregators.presence import count_rejected, present_norms, present_rows
from metasg_jax.errors import ConfigError
from metasg_jax.numerics import ratio, row_norms, shares, weighted_sum
from metasg_jax.struct import field

# Two rows this near to parallel are parallel: what is left is float32's rounding.
PARALLEL = 1e-5


class FoolsGold(AggregatorBase):
    """Weighs a client down by its largest cosine to another: sybils with one goal look alike.

    With h_i the sum of client i's updates so far, c_ij = cos(h_i, h_j) and v_i the largest c_ij,
    at least 0: c_ij is multiplied by v_i / v_j where v_j > v_i ("pardoning"). Then alpha_i is
    1 - max_j c_ij, divided by the largest alpha, put through ln(alpha / (1 - alpha)) + 1/2 and cut
    to [0, 1]. update = sum_i alpha_i u_i / sum_i alpha_i; zero where all clients look alike.

    It bounds no norm: one far row that looks like no other has the largest weight of all. Honest
    clients must differ more than malicious ones, as with very heterogeneous data.

    Published code differs in three places. The paper and its authors' code don't divide by
    sum_i alpha_i, so that the step grows with the number of clients; here, as in others, the rule
    returns an average. In the sum, the authors and some others use the updates cut to norm 1 that
    they remember, others the updates as they came, as here. All parameters are compared; the
    paper also tries the last layer's indicative ones.

    Attributes:
        num_clients: static: N, to keep a history f32[N, d] by ``received.client_ids``, in which an
            update longer than 1 counts as a unit vector (as in the authors' code). A client whose
            id is none of 0 .. N - 1 has no history: it is judged by this round's update, as all are
            with 0, which remembers nobody.

    Example:
        >>> from metasg_jax.testing import received
        >>> rows = [[3.0, 0.0], [0.0, 5.0], [2.0, 2.0], [2.0, 2.0]]
        >>> FoolsGold()(None, (), received(rows))[0].tolist()
        [1.5, 2.5]
    """

    num_clients: int = field(static=True, default=0)

    def init(self, n: int, d: int):
        """The history f32[num_clients, d], or nothing."""
        return jnp.zeros((self.num_clients, d), jnp.float32) if self.num_clients else ()

    def check_clients(self, n: int) -> None:
        """Refuses a history of fewer clients than are sampled.

        Raises:
            ConfigError: where num_clients is neither 0 nor at least n.
        """
        if self.num_clients and self.num_clients < n:
            raise ConfigError(
                f"FoolsGold: num_clients = {self.num_clients}: 0 or at least num_sampled = {n}"
            )

    def __call__(self, key, state, received, action=None):
        """(f32[d], the history, {alpha: f32[n], rejected: i32[]}); zero where no row is present."""
        updates, present = present_rows(received)
        history = updates
        if self.num_clients:
            ids = jnp.asarray(received.client_ids)
            known = (ids >= 0) & (ids < self.num_clients)
            # an index below 0 counts from the end, and one that is too large is the last
            ids = jnp.where(known, ids, self.num_clients)
            lengths = jnp.maximum(present_norms(received, present), 1.0)
            now = updates / lengths[:, None]
            state = state.at[ids].add(now, mode="drop")
            history = jnp.where(known[:, None], state.at[ids].get(mode="clip"), now)
        alpha = jnp.where(present, foolsgold_weights(history, present), 0.0)
        info = {"alpha": alpha, "rejected": count_rejected(received, present)}
        return weighted_sum(shares(alpha), updates), state, info


def foolsgold_weights(history: jax.Array, present: jax.Array) -> jax.Array:
    """Weights alpha f32[n] in [0, 1] of rows f32[n, d] that are finite; of absent rows, any."""
    n = history.shape[0]
    norms = row_norms(history)
    # a row of length 0 looks like no other
    directed = present & (norms > 0)
    norms = jnp.where(directed, norms, 1.0)
    cosines = ratio(ratio(products(history), norms[:, None]), norms[None, :])
    others = directed[:, None] & directed[None, :] & ~jnp.eye(n, dtype=bool)
    # 0 for the row itself, so that no maximum is negative
    cosines = jnp.where(others, cosines, 0.0)
    largest = cosines.max(axis=1)
    pardon = largest[:, None] / jnp.maximum(largest[None, :], 1e-12)
    pardoned = cosines * jnp.where(largest[None, :] > largest[:, None], pardon, 1.0)
    alpha = jnp.clip(1 - pardoned.max(axis=1), 0.0, 1.0)
    alpha = jnp.where(present & (alpha > PARALLEL), alpha, 0.0)
    alpha = alpha / jnp.maximum(alpha.max(), 1e-12)
    # 1 would be infinite; 0.99 is the paper's, and comes out as 1
    alpha = jnp.minimum(alpha, 0.99)
    logit = jnp.log(jnp.maximum(alpha, 1e-12) / (1 - alpha)) + 0.5
    return jnp.clip(logit, 0.0, 1.0)
