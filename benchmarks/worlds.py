"""Random images in the forms that this library plays on; the peers' environment has none of it."""

import jax.numpy as jnp
import numpy as np

from benchmarks import inputs
from metasg_jax.data import Dataset
from metasg_jax.fl.data import ClientData


def dataset(count: int, held_out: int, shape=(28, 28, 1)) -> Dataset:
    """``count`` train and ``held_out`` test images, of MNIST's shape if nothing is said."""
    x, y = inputs.images(count + held_out, shape)
    return Dataset("random", x[:count], y[:count], x[count:], y[count:], inputs.NUM_CLASSES)


def dealt(num_clients: int, images_each: int) -> ClientData:
    """So many images for each client; the server holds those of the first."""
    owned = np.arange(num_clients * images_each).reshape(num_clients, -1)
    return indexed(owned.size, np.concatenate([owned, owned[:1]]))


def indexed(num_images: int, index: np.ndarray) -> ClientData:
    """Images of which owner i holds those at ``index[i]``."""
    x, y = inputs.images(num_images)
    return ClientData(
        images=jnp.asarray(x),
        labels=jnp.asarray(y),
        index=jnp.asarray(index, jnp.int32),
        sizes=jnp.full((len(index),), index.shape[1], jnp.int32),
    )
