"""Classifiers that clients train: a linen module behind ``Model(init, apply, activations)``."""

from metasg_jax.errors import ConfigError
from metasg_jax.limits import MOST
from metasg_jax.models.cnn import CNN
from metasg_jax.models.linen import LinenModel
from metasg_jax.models.mlp import MLP
from metasg_jax.models.resnet import ResNet8, ResNet18, ResNet20
from metasg_jax.registry import Registry

MODELS = Registry(
    "model",
    {"mlp": MLP, "cnn": CNN, "resnet8": ResNet8, "resnet18": ResNet18, "resnet20": ResNet20},
)


def make_model(name: str, input_shape, num_classes: int, hidden, shift=(), scale=()) -> LinenModel:
    """Builds a registered model.

    Args:
        name: a key of :data:`MODELS`.
        input_shape: (h, w, c) of an image.
        num_classes: C.
        hidden: widths of the hidden layers; for ``cnn`` (channels, channels, width), for a
            ``resnet`` the channels of its stages.
        shift: see :class:`LinenModel`.
        scale: see :class:`LinenModel`.

    Raises:
        UnknownNameError: for a name that is not registered.
        ConfigError: for widths or images that the model can't have.

    Example:
        >>> make_model("mlp", (8, 8, 1), 10, (16,)).num_params
        1210
    """
    module, hidden = MODELS[name], tuple(hidden)
    if not hidden or min(hidden) < 1:
        raise ConfigError(f"hidden = {hidden}: at least one width, and each at least 1")
    if max(hidden) > MOST:
        raise ConfigError(f"hidden = {hidden}: each at most {MOST:,}")
    module.check(hidden, tuple(input_shape))
    return LinenModel(
        module(hidden, num_classes), tuple(input_shape), num_classes, tuple(shift), tuple(scale)
    )


__all__ = ["CNN", "MLP", "MODELS", "LinenModel", "make_model"]
