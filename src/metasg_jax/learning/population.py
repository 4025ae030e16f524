"""Attackers of earlier defenders, played again ever after: the double oracle's other half.

A best response to today's defender says little of tomorrow's: what is learned against it alone may
be forgotten. So each best response that was found is kept, and met in every meta-step from then on
(McMahan, Gordon and Blum, ICML 2003; Lanctot et al., NeurIPS 2017).
"""

from typing import Any

import jax
import jax.numpy as jnp

from metasg_jax.game.rollout import Normalizer, init_normalizer
from metasg_jax.struct import Struct
from metasg_jax.types import Params


class Population(Struct):
    """P places for attackers; the leading axis of every leaf is P.

    Attributes:
        index: i32[P], the type of the prior that each is of.
        phi: parameters of their policies.
        normalizer: of their observations, as it was when they were found.
        taken: f32[P], what each earned against the defender that it was found for, a round; -inf
            where a place is empty.
        step: i32[P], meta-steps done when it was found.
    """

    index: jax.Array
    phi: Params
    normalizer: Normalizer
    taken: jax.Array
    step: jax.Array

    @property
    def size(self) -> int:
        """P, the places."""
        return self.taken.shape[0]

    @property
    def present(self) -> jax.Array:
        """bool[P], which places are filled."""
        return self.taken > -jnp.inf

    def __len__(self) -> int:
        """Attackers in it, on the host."""
        return int(self.present.sum())


def empty_population(size: int, phi: Params, observation_size: int) -> Population:
    """A population of ``size`` empty places for policies with parameters like ``phi``."""

    def places(leaf):
        return jnp.zeros((size, *jnp.shape(leaf)), jnp.result_type(leaf))

    return Population(
        index=jnp.zeros((size,), jnp.int32),
        phi=jax.tree.map(places, phi),
        normalizer=jax.tree.map(places, init_normalizer(observation_size)),
        taken=jnp.full((size,), -jnp.inf, jnp.float32),
        step=jnp.zeros((size,), jnp.int32),
    )


def admit(
    population: Population,
    index: jax.Array,
    phi: Params,
    normalizer: Normalizer,
    taken: jax.Array,
    step: jax.Array,
) -> tuple[Population, jax.Array]:
    """Puts an attacker into an empty place, or in the place of the weakest if it is stronger.

    Args:
        population: as it is.
        index: i32[], its type.
        phi: its parameters.
        normalizer: of its observations.
        taken: f32[], what it earns a round; one that is not finite is not admitted: its oracle
            diverged.
        step: i32[], meta-steps done.

    Returns:
        (population, bool[] whether it was admitted).
    """
    finite = jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(phi)]).all()
    place = jnp.argmin(population.taken)
    admitted = finite & jnp.isfinite(taken) & (taken > population.taken[place])

    def put(leaves: Any, leaf: Any):
        return leaves.at[place].set(jnp.where(admitted, leaf, leaves[place]))

    new = Population(index, phi, normalizer, taken, step)
    return jax.tree.map(put, population, new), admitted
