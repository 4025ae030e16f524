"""Neuron clipping with learned bounds (Wang et al., "MM-BD", arXiv 2205.06900, 2022)."""

import jax
import jax.numpy as jnp
import optax

from metasg_jax.limits import ABOVE_ONE, POSITIVE, SHARE, STEPS, check_fields
from metasg_jax.post_defenses.neuron_clip import NeuronClip
from metasg_jax.post_defenses.root import agreement
from metasg_jax.struct import field


class LearnedClip(NeuronClip):
    """Bounds each hidden unit as tightly as the root images' accuracy allows.

    With ``a_u`` the largest activation of unit u on root images, bounds ``z_u = a_u exp(t_u)``,
    ``t <= 0``, minimise ``mean (f_z(x) - f(x))^2 + c mean_u (z_u / a_u)`` over root images x, where
    f are the logits and f_z those under the bounds. After each step of Adam, c is multiplied by
    ``pace`` if the accuracy under the bounds is at least ``keep`` times that without them, else
    divided. The smallest bounds on the way that kept the accuracy are taken.

    The paper has one bound a layer; here each unit has its own, relative to its maximum.
    ``range`` steers as in :class:`NeuronClip`, 0 being the learned bounds themselves.

    Attributes:
        range: in [-1, 1].
        min_range: positive; its inverse is ``max_range``, so that 0 is the bound as learned.
        max_range: positive, above ``min_range``.
        keep: in [0, 1], share of the accuracy to keep.
        cost: positive, c at the start.
        pace: above 1.
        lr: positive, step size of Adam on t.
        steps: of Adam, static.
    """

    min_range: float = 1 / 3
    keep: float = 0.95
    cost: float = 0.5
    pace: float = 1.2
    lr: float = 0.05
    steps: int = field(static=True, default=50)

    def check(self):
        """Raises ConfigError for a field out of range."""
        super().check()
        check_fields(self, keep=SHARE, cost=POSITIVE, pace=ABOVE_ONE, lr=POSITIVE, steps=STEPS)

    def calibrate(self, model, deployed, root_x, root_y):
        """Learned bounds f32[U], none above the largest activation on root images."""
        largest = super().calibrate(model, deployed, root_x, root_y)
        logits = model.apply(deployed.params, root_x, deployed.clip)
        needed = self.keep * agreement(logits, root_y)
        optimizer = optax.adam(self.lr)

        def size(t):
            return jnp.exp(t).mean()

        def objective(t, cost):
            clip = jnp.minimum(deployed.clip, largest * jnp.exp(t))
            bounded = model.apply(deployed.params, root_x, clip)
            value = jnp.mean((bounded - logits) ** 2) + cost * size(t)
            return value, agreement(bounded, root_y) >= needed

        def step(carry, _):
            t, moments, cost, best = carry
            gradient, kept = jax.grad(objective, has_aux=True)(t, cost)
            best = jnp.where(kept & (size(t) < size(best)), t, best)
            cost = jnp.where(kept, cost * self.pace, cost / self.pace)
            move, moments = optimizer.update(gradient, moments)
            return (jnp.minimum(t + move, 0.0), moments, cost, best), None

        # at 0 the bounds are the maxima, which change no logit of a root image
        start = jnp.zeros_like(largest)
        carry = start, optimizer.init(start), jnp.asarray(self.cost, jnp.float32), start
        (_, _, _, best), _ = jax.lax.scan(step, carry, None, length=self.steps)
        return largest * jnp.exp(best)
