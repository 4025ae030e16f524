"""Rounds of the double oracle: a best response to the present defender joins the population.

The other half, a defender that is good against prior and population, is
:func:`~metasg_jax.learning.meta_sl.meta_sl_update`.
"""

import jax
import jax.numpy as jnp

from metasg_jax.config import MetaConfig
from metasg_jax.errors import ConfigError
from metasg_jax.learning.population import admit
from metasg_jax.learning.respond import best_response_step
from metasg_jax.learning.search import best_constant
from metasg_jax.learning.state import MetaSGState, defender_player, policies
from metasg_jax.policies import Gaussian
from metasg_jax.types import Info, Key


def add_responses(
    key: Key, state: MetaSGState, game, config: MetaConfig, tries: int, steps: int = 0
) -> tuple[MetaSGState, list[Info]]:
    """The state with best responses of all adaptive types in its population; on the host.

    Two oracles, one after the other: the best of ``tries`` constant actions, and from there
    ``steps`` batches of learning (:func:`~metasg_jax.learning.respond.best_response_step`).

    Args:
        key: consumed.
        state: with a population; the defender plays its mode and stands still.
        game: not finite.
        config: of the learner.
        tries: at least 1.
        steps: 0 for the first oracle alone.

    Returns:
        (state, a row for each adaptive type: its name, what it earns a round at its end, whether it
        was admitted). One whose oracle diverged is not: ``admitted`` is False.

    Raises:
        ConfigError: where the state keeps no population, or no type has anything to respond with.
    """
    if state.population is None:
        raise ConfigError("population = 0: there is no place for a response; at least 1")
    adaptive = [i for i, yes in enumerate(game.prior.adaptive) if yes]
    if not adaptive:
        raise ConfigError("types: none has knobs to respond with; add blended_bfl@0.2 or brl@0.2")
    attacker = policies(game, config)[1]
    assert isinstance(attacker, Gaussian)
    defender = defender_player(state, game, config, greedy=True)
    key_search, key_learn = jax.random.split(key)
    phi, earned = state.phi, {}
    for i in adaptive:
        action, earned[i] = best_constant(
            jax.random.fold_in(key_search, i), game, jnp.int32(i), defender, tries
        )
        own = jax.tree.map(lambda leaf, i=i: leaf[i], phi)
        constant = attacker.constant(own, action, 0.95)
        phi = jax.tree.map(lambda leaf, new, i=i: leaf.at[i].set(new), phi, constant)
    learner = state.replace(phi=phi)
    for step in range(steps):
        learner, info = best_response_step(
            jax.random.fold_in(key_learn, step), learner, game, config
        )
        if step == steps - 1:
            # over whole episodes, where the search counts their last quarter
            earned = {i: info["type/return_A"][i] for i in adaptive}
    population, rows = state.population, []
    for i in adaptive:
        own = jax.tree.map(lambda leaf, i=i: leaf[i], learner.phi)
        population, admitted = admit(
            population, jnp.int32(i), own, learner.normalizer_A, earned[i], state.step
        )
        rows.append(
            {
                "type": game.prior.names[i],
                "earned": float(earned[i]),
                "admitted": bool(admitted),
            }
        )
    return state.replace(population=population), rows
