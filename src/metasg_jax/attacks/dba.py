"""The distributed backdoor attack (Xie, Huang, Chen, Li; ICLR 2020)."""

import jax
import jax.numpy as jnp

from metasg_jax.attacks.bfl import BFL
from metasg_jax.errors import ConfigError
from metasg_jax.struct import field


class DBA(BFL):
    """As :class:`~metasg_jax.attacks.BFL`, but each malicious client stamps a part of the trigger.

    Client j of the attack holds part j mod ``parts`` for good; the success is that of the whole
    trigger, which no client has stamped. Parts are runs of equally many pixels in reading order:
    of the ``distributed`` trigger its four bars.

    The paper scales the update of an attacker by 100 in a single round (``boost`` here), or attacks
    in every round without scaling, the default here.

    Attributes:
        fraction: in [0, 1], share of the batch's images of other classes that is stamped.
        boost: factor on the update.
        replace_model: as in :class:`~metasg_jax.attacks.BFL`.
        parts: static, at least 1; 4 in the paper.
    """

    parts: int = field(static=True, default=4)

    def check_trigger(self, mask: jax.Array) -> None:
        """Refuses a trigger f32[h, w, c] that has fewer pixels than there are parts.

        Raises:
            ConfigError: then.
        """
        pixels = int((mask > 0).any(axis=-1).sum())
        if pixels < self.parts:
            raise ConfigError(
                f"dba: parts = {self.parts}: at most {pixels}, the pixels of the trigger; "
                "a larger trigger_size has more"
            )

    def plan(self, key, state, ctx, action):
        """Honest training on a batch stamped with the client's part."""
        plan, state, info = super().plan(key, state, ctx, action)
        masks = trigger_parts(ctx.trigger_mask, self.parts)
        own = masks[jnp.maximum(ctx.member, 0) % self.parts]
        return plan.replace(trigger_mask=own), state, info


def trigger_parts(mask: jax.Array, parts: int) -> jax.Array:
    """Cuts a trigger's mask f32[h, w, c] into masks f32[parts, h, w, c] that add up to it.

    Pixels are dealt in reading order, equally many to each part as far as possible.
    """
    used = (mask > 0).any(axis=-1).reshape(-1)
    rank = jnp.cumsum(used) - 1
    part = (rank * parts // jnp.maximum(used.sum(), 1)).reshape(mask.shape[:2])
    return jnp.where(part[None, :, :, None] == jnp.arange(parts)[:, None, None, None], mask, 0.0)
