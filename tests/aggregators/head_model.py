"""A model of few parameters, by hand, for the rule that looks into models."""

import dataclasses

from metasg_jax.aggregators import AGGREGATORS

CLASSES = 3


@dataclasses.dataclass(frozen=True)
class HeadModel:
    """logits = (1 + sum of the body) * (mean of the image) * kernel + bias.

    Its parameters as a vector: body f32[body], kernel f32[1, 3], bias f32[3].
    """

    body: int
    input_shape: tuple[int, ...] = (2, 2, 1)
    num_classes: int = CLASSES

    def unravel(self, w):
        body, head = w[: self.body], w[self.body :]
        head = {"kernel": head[:CLASSES].reshape(1, CLASSES), "bias": head[CLASSES:]}
        return {"body": body, "head": head}

    def apply(self, params, x, clip=None):
        feature = (1 + params["body"].sum()) * x.mean(axis=(1, 2, 3))
        head = params["head"]
        return feature[:, None] * head["kernel"] + head["bias"][None]


def rule_of(name, d, **fields):
    """A registered rule, with a model of d parameters if it needs one."""
    if name == "deepsight":
        fields = {"model": HeadModel(d - 2 * CLASSES), "num_inputs": 16} | fields
    return AGGREGATORS[name](**fields)
