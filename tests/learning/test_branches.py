"""What depends on the attacker's type stays a real branch, in whatever way the step is batched.

A ``cond`` or ``switch`` whose predicate got batched is rewritten to ``select_n``: every branch runs
for everyone. So the conds must all be left, and no select may have been added.
"""

import collections

import jax
import pytest
from jax.extend.core import ClosedJaxpr, Jaxpr

from metasg_jax.config import FLConfig, MetaConfig
from metasg_jax.game.rollout import rollout_groups
from metasg_jax.learning import init_state, meta_rl_update, meta_sl_update
from metasg_jax.learning.state import attacker_player, defender_player
from metasg_jax.testing import tiny_game

# two crafts, a plan with a second pass, a backdoor: every kind of branch that a type chooses
TYPES = ("none", "ipm:scale=2@0.25", "rl:max_steps=2@0.25", "bfl@0.25")
N, FL = 4, FLConfig(num_clients=8, num_sampled=4, batch_size=4, horizon=2, local_lr=0.5)
CONFIG = MetaConfig(group_size=2, num_groups=2, hidden=(4,), attacker_steps=1)


@pytest.fixture(scope="module")
def game():
    return tiny_game(TYPES, FL)


@pytest.fixture(scope="module")
def state(game):
    return init_state(jax.random.key(0), game, CONFIG)


def equations(jaxpr):
    """Every equation, those of inner programs too."""
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(equation.params, is_leaf=lambda v: isinstance(v, Jaxpr)):
            if isinstance(value, ClosedJaxpr):
                yield from equations(value.jaxpr)
            elif isinstance(value, Jaxpr):
                yield from equations(value)


def branches(fun, *args):
    """The conds by their numbers of branches, and the selects between blocks of rows [n, d]."""
    conds, selects = collections.Counter(), 0
    for equation in equations(jax.make_jaxpr(fun)(*args).jaxpr):
        if equation.primitive.name == "cond":
            assert equation.invars[0].aval.shape == ()
            conds[len(equation.params["branches"])] += 1
        if equation.primitive.name == "select_n":
            shape = equation.outvars[0].aval.shape
            selects += len(shape) >= 2 and shape[-2] == N and shape[-1] > 100
    return conds, selects


def step(game, config, update=meta_sl_update):
    return lambda key, state: update(key, state, game, config)


def test_the_branches_of_a_meta_step(game, state):
    conds, _ = branches(step(game, CONFIG), jax.random.key(1), state)
    # plan and craft of the untargeted attacks: none, ipm, rl
    assert conds[3] >= 2
    # plan and craft of the backdoors, the second pass, the backdoor's loss at reset and in a
    # round, types that can't respond
    assert conds[2] >= 6


@pytest.mark.slow
@pytest.mark.parametrize("update", [meta_sl_update, meta_rl_update])
@pytest.mark.parametrize("at_once", [0, 2, 1])
def test_seeds_and_chunks_leave_them(game, state, update, at_once):
    expected = branches(step(game, CONFIG, update), jax.random.key(1), state)
    config = CONFIG.replace(rollouts_at_once=at_once)
    alone = step(game, config, update)
    assert branches(alone, jax.random.key(1), state) == expected
    keys = jax.random.split(jax.random.key(1), 3)
    assert branches(jax.vmap(alone, in_axes=(0, None)), keys, state) == expected


@pytest.mark.slow
def test_sampled_types_keep_their_branches(game, state):
    """One branch more: a type that was not drawn costs nothing. The draw belongs to a seed."""
    conds, selects = branches(step(game, CONFIG), jax.random.key(1), state)
    config = CONFIG.replace(num_types=2)
    sampled, same_selects = branches(step(game, config), jax.random.key(1), state)
    assert sampled - conds == {2: 1} and same_selects == selects


@pytest.mark.slow
def test_a_batched_type_would_have_been_noticed(game, state):
    """The control: with one type a lane the attack's switches are gone and selects came."""

    def play(i):
        players = defender_player(state, game, CONFIG), attacker_player(state, game, CONFIG, 0)
        return rollout_groups(jax.random.key(1), game, game.prior[i], *players, 1, 2)

    conds, selects = branches(play, 0)
    with jax.debug_key_reuse(False):  # the checker would notice, too: all branches use the key
        batched, more = branches(jax.vmap(play), jax.numpy.arange(3))
    assert conds[3] >= 2 and batched[3] == 0
    assert more > selects
