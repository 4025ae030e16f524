"""What the attacker sees before it acts; of one kind, so it is in no registry."""

import jax
import jax.numpy as jnp

from metasg_jax.config import FLConfig
from metasg_jax.game.observations.head import flat_head
from metasg_jax.game.observations.paper import PaperObservation
from metasg_jax.numerics import safe_sqrt
from metasg_jax.types import Model

_TINY = 1e-12
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
    head = flat_head(model, w)
    norm = safe_sqrt(jnp.vdot(head, head))
    projected = projection @ head / jnp.maximum(norm, _TINY)
    log_norm = jnp.log(jnp.maximum(norm, 1e-6))
    projected, log_norm, loss = (
        jnp.where(sees_model, each, 0.0) for each in (projected, log_norm, loss)
    )
    extra = jnp.stack([log_norm, malicious_share, progress, loss])
    return jnp.concatenate([projected, extra])
