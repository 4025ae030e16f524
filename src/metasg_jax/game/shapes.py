"""Games made apart that share a program: their lists of images are padded to one length."""

from collections.abc import Sequence

import jax.numpy as jnp

WIDTH = 1024
"""Lists of images are padded to a multiple of this, so that worlds made apart share a program."""


def of_shared_shape(game):
    """A game that shares its program with those made elsewhere."""
    return of_one_shape([game], WIDTH)[0]


def of_one_shape(games: Sequence, multiple: int = 1) -> list:
    """The same games, with lists of images padded to one length, so that one program plays them.

    Changes no result: what a client draws from is bounded by its own number of images.

    Args:
        games: of the same kinds.
        multiple: the length is one of it, so that games made elsewhere get the same.
    """
    width = max(game.data.index.shape[1] for game in games)
    width = -(-width // multiple) * multiple

    def padded(game):
        index = game.data.index
        repeats = -(-width // index.shape[1])
        data = game.data.replace(index=jnp.tile(index, (1, repeats))[:, :width])
        return game.replace(data=data)

    return [padded(game) for game in games]
