"""Fine-tuning on clean images (the second half of fine-pruning: Liu et al., RAID 2018)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from metasg_jax.limits import KNOB, POSITIVE, STEPS, check_fields
from metasg_jax.post_defenses.root import cross_entropy
from metasg_jax.struct import Struct, field
from metasg_jax.types import Params


def descend(loss: Callable[[Params], jax.Array], params: Params, lr, steps: int) -> Params:
    """``steps`` steps of gradient descent on ``loss(params) -> f32[]``."""

    def step(params, _):
        gradient = jax.grad(loss)(params)
        return jax.tree.map(lambda p, g: p - lr * g, params, gradient), None

    return jax.lax.scan(step, params, None, length=steps)[0]


class FineTune(Struct):
    """Descends the root images' cross-entropy, all images a step, with the bounds in force.

    ``w_{k+1} = w_k - lr grad F(w_k)``, ``steps`` times. The knob ``tune`` is the share of the way
    from the model as it came (+1, exactly) to the tuned one (-1), in a straight line.

    Attributes:
        tune: in [-1, 1].
        lr: positive.
        steps: static.
    """

    tune: float = -1.0
    lr: float = 0.05
    steps: int = field(static=True, default=50)
    action_spec = ("tune",)

    def check(self):
        """Raises ConfigError for a field out of range."""
        check_fields(self, tune=KNOB, lr=POSITIVE, steps=STEPS)

    def calibrate(self, model, deployed, root_x, root_y):
        """The tuned parameters."""

        def loss(params):
            return cross_entropy(model, deployed.replace(params=params), root_x, root_y)

        return descend(loss, deployed.params, self.lr, self.steps)

    def __call__(self, key, state, deployed, action=None):
        """(Deployed, state, {tuned: share}); ``state`` is what ``calibrate`` returned."""
        value = self.tune if action is None else action[0]
        share = (1 - jnp.clip(value, -1.0, 1.0)) / 2

        def towards(p, tuned):
            # 0 times a tuned model that diverged would be NaN
            return jnp.where(share > 0, p + share * (tuned - p), p)

        params = jax.tree.map(towards, deployed.params, state)
        return deployed.replace(params=params), state, {"tuned": share}
