"""Adaptation online: what it may see, and that it does what its name says."""

import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metasg_jax.config import FLConfig, MetaConfig
from metasg_jax.game.bsmg import GameState
from metasg_jax.learning.state import attacker_player, defender_player, init_state
from metasg_jax.online import (
    PSI,
    Hidden,
    OnlineView,
    OwnWorld,
    Server,
    ServerState,
    begin,
    begin_run,
    learn_belief,
    look_ahead,
    next_block,
    play_adapting,
    play_block,
)
from metasg_jax.online.belief import likely
from metasg_jax.online.guard import Trust, hold, no_promise
from metasg_jax.online.misfit import STRANGE, misfit
from metasg_jax.online.run import candidate_of
from metasg_jax.testing import tiny_game
from tests.parameters import slow_but
from tests.worlds import WITH_FUSIONS

TYPES = ("none", "ipm:scale=10@0.25", "bfl:boost=3@0.25")
META = MetaConfig(hidden=(4,), group_size=2)
SMALL = {
    "imagined": PSI["imagined"](batches=1, rounds=2, group_size=2),
    "planned": PSI["planned"](clips=2, trims=2, levels=2, rounds=2),
    "mixture": PSI["mixture"](clips=2, trims=2, levels=2),
    "trajectory": PSI["trajectory"](),
    "frozen": PSI["frozen"](),
    "sampled": PSI["sampled"](),
}
FL = FLConfig(num_clients=8, num_sampled=4, batch_size=4, horizon=4, local_lr=0.5)
BLOCK = 2


@pytest.fixture(scope="module")
def made():
    """(own world, meta policy, the real game, its attacker)."""
    game = tiny_game(types=TYPES, fl=FL)
    state = init_state(jax.random.key(0), game, META)
    own = OwnWorld(game, attacker_player(state, game, META, slice(None), True))
    real = tiny_game(types=("ipm:scale=10@0.25",), fl=FL, seed=3)
    return own, defender_player(state, game, META, True), real, own.attacker(1)


@pytest.fixture(scope="module")
def belief(made):
    own, meta, *_ = made
    return learn_belief(jax.random.key(1), own, meta.replace(greedy=False))


def block_of(made, game=None, key=2):
    own, meta, real, attacker = made
    game = real if game is None else game
    run = begin_run(jax.random.key(key), game, jnp.int32(0))
    return play_block(
        jax.random.key(key + 1),
        run,
        game,
        jnp.int32(0),
        meta.replace(greedy=False),
        attacker,
        BLOCK,
    )


def test_a_view_holds_what_a_server_has_and_nothing_else(made):
    """Neither test images nor the trigger that is hidden change it, nor who is malicious."""
    own, meta, real, attacker = made
    _, view, truth = block_of(made)
    assert set(OnlineView.__dataclass_fields__) == {
        "before", "server", "observation", "raw", "log_prob", "action", "loss", "success",
        "trigger",
    }  # fmt: skip
    hidden = set(GameState.__dataclass_fields__) - set(ServerState.__dataclass_fields__)
    assert hidden == {"client_ids", "attack_states", "unsent"}
    other = real.replace(
        test_x=255 - real.test_x, validation_x=255 - real.validation_x,
        prior=real.prior.replace(types=real.prior.types.replace(
            trigger_pattern=1 - real.prior.types.trigger_pattern,
            target=real.prior.types.target + 1,
        )),
    )  # fmt: skip
    _, again, _ = block_of(made, other)
    jax.tree.map(np.testing.assert_array_equal, view, again)
    assert view.observation.shape[0] == BLOCK and truth.reward.shape == (BLOCK,)


@pytest.mark.parametrize("name", slow_but(["frozen"], PSI))
def test_every_psi_has_one_interface_and_is_handed_no_real_game(name, made, belief):
    own, meta, *_ = made
    psi = SMALL[name]
    wanted = ["key", "state", "own", "meta", "current", "view", "belief"]
    assert list(inspect.signature(psi).parameters) == wanted
    assert list(inspect.signature(psi.begin).parameters) == ["key", "own", "meta"]
    _, view, _ = block_of(made)
    current = meta.replace(greedy=not psi.explores)
    state = psi.begin(jax.random.key(4), own, meta)
    candidate, after, info = candidate_of(
        jax.random.key(5), state, own, meta, current, view, belief(view), psi
    )
    assert jax.tree.structure(candidate) == jax.tree.structure(current)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((candidate.params, info)))
    pairs = zip(jax.tree.leaves(candidate.params), jax.tree.leaves(current.params), strict=True)
    assert psi.adapts == any(not np.array_equal(a, b) for a, b in pairs)


def test_an_imagined_run_stands_where_the_real_one_does(made):
    own, *_ = made
    _, view, _ = block_of(made)
    state = own.at(jax.random.key(0), 1, view.server)
    for name in ServerState.__dataclass_fields__:
        jax.tree.map(
            np.testing.assert_array_equal, getattr(state, name), getattr(view.server, name)
        )
    assert int(state.round) == BLOCK


def test_the_belief_finds_an_attack_that_shows(made, belief):
    _, view, _ = block_of(made)
    now = np.asarray(belief(view))
    assert now.shape == (3,) and now.sum() == pytest.approx(1, abs=1e-5)
    assert now[1] == now.max()


def test_unlikely_types_are_left_out_and_never_all_of_them():
    np.testing.assert_allclose(likely(jnp.array([0.02, 0.58, 0.4])), [0, 0.58 / 0.98, 0.4 / 0.98])
    np.testing.assert_allclose(likely(jnp.ones(30) / 30), np.ones(30) / 30, rtol=1e-6)


def test_the_mixture_plays_the_belief(made):
    own, meta, *_ = made
    psi = SMALL["mixture"]
    actions = psi.begin(jax.random.key(4), own, meta)
    assert actions.shape == (3, own.game.action_size)
    _, view, _ = block_of(made)
    for belief in (jnp.eye(3)[1], jnp.array([0.5, 0.0, 0.5])):
        candidate, *_ = candidate_of(jax.random.key(5), actions, own, meta, meta, view, belief, psi)
        mode = candidate.policy.mode(candidate.params, view.observation[0])
        np.testing.assert_allclose(mode, belief @ actions, atol=1e-5)


def test_a_plan_is_what_earns_most_ahead(made):
    """Under IPM of scale 10: the best of the grid leads the bare mean, and is led by nothing."""
    own, meta, *_ = made
    _, view, _ = block_of(made)
    belief, psi = jnp.eye(3)[1], SMALL["planned"]
    bare = meta.replace(params=meta.policy.constant(meta.params, jnp.array((1.0, -1.0, 1.0))))
    candidate, _, info = candidate_of(jax.random.key(5), (), own, bare, bare, view, belief, psi)
    mode_of = jax.jit(candidate.policy.mode, compiler_options=WITH_FUSIONS)
    mode = np.asarray(mode_of(candidate.params, view.observation[0]))
    assert np.abs(mode).min() == 1 and not np.array_equal(mode, (1.0, -1.0, 1.0))
    assert float(info["planned gain"]) > 0
    best = meta.replace(params=candidate.params)
    again, _, info = candidate_of(jax.random.key(5), (), own, best, best, view, belief, psi)
    assert float(info["planned gain"]) == pytest.approx(0, abs=1e-6)


def test_steps_of_no_size_and_rewards_that_do_not_change_teach_nothing(made):
    own, meta, *_ = made
    _, view, _ = block_of(made)
    belief = jnp.ones((3,)) / 3
    still = SMALL["imagined"].replace(lr=0.0)
    flat = view.replace(loss=jnp.ones((BLOCK,)), success=jnp.zeros((BLOCK,)))
    for psi, seen in ((still, view), (SMALL["trajectory"], flat)):
        state = psi.begin(jax.random.key(4), own, meta)
        current = meta.replace(greedy=not psi.explores)
        candidate, *_ = candidate_of(
            jax.random.key(5), state, own, meta, current, seen, belief, psi
        )
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7),
            candidate.params, meta.params,
        )  # fmt: skip


def test_a_batch_moves_the_policy_no_farther_than_it_may(made):
    own, meta, *_ = made
    _, view, _ = block_of(made)
    belief = jnp.eye(3)[1]

    def after(**limits):
        psi = SMALL["imagined"].replace(lr=0.02, **limits)
        candidate, *_ = candidate_of(jax.random.key(5), (), own, meta, meta, view, belief, psi)
        pairs = zip(*map(jax.tree.leaves, (candidate.params, meta.params)), strict=True)
        return max(float(jnp.abs(a - b).max()) for a, b in pairs)

    assert after(most_kl=0.0) < 1e-4
    assert 0 < after(most_kl=0.05) < after()


def test_a_planted_trigger_is_that_of_the_own_world(made):
    """Where the real model obeys a patch, runs that begin at it are judged under that patch."""
    own, *_ = made
    _, view, _ = block_of(made)
    mask, pattern, target = view.trigger
    assert mask.shape == pattern.shape == own.game.root_x.shape[1:] and target.shape == ()

    def told(success):
        types = own.suspecting(view.replace(success=jnp.full((BLOCK,), success))).game.prior.types
        return types.trigger_mask, types.trigger_pattern, types.target

    types = own.game.prior.types
    before = types.trigger_mask, types.trigger_pattern, types.target
    chex.assert_trees_all_equal(told(0.4), before)
    for found, seen in zip(told(0.6), view.trigger, strict=True):
        assert found.shape[0] == len(TYPES)
        np.testing.assert_allclose(found, np.broadcast_to(seen, found.shape))


def test_a_view_tells_the_density_of_the_draws_under_the_policy_that_drew(made):
    """So steps on the real trajectory know who played, whoever adapts from there."""
    own, meta, *_ = made
    _, view, _ = block_of(made)
    obs = jax.vmap(meta.normalizer)(view.observation)
    for t in range(BLOCK):
        density = meta.policy.log_prob(meta.params, obs[t], view.raw[t])
        np.testing.assert_allclose(view.log_prob[t], density, rtol=1e-4)
    psi = SMALL["trajectory"]
    other = meta.replace(params=jax.tree.map(lambda leaf: leaf + 0.1, meta.params), greedy=False)
    _, so_far, _ = candidate_of(
        jax.random.key(5), psi.begin(jax.random.key(4), own, meta), own, meta, other, view,
        jnp.ones((3,)) / 3, psi,
    )  # fmt: skip
    np.testing.assert_array_equal(so_far.behaviour[:BLOCK], view.log_prob)


@pytest.mark.slow
def test_the_guard_looks_ahead_with_the_policy_that_plays(made):
    """One that samples is tried sampling: it is another than its mode, and promises another."""
    own, meta, *_ = made
    _, view, _ = block_of(made)

    def promised(player):
        belief = jnp.eye(3)[1]
        return look_ahead(
            jax.random.key(6), own, belief, view.server, player, player, 0.0, 2, 4
        ).loss

    assert float(promised(meta)) != float(promised(meta.replace(greedy=False)))


@pytest.mark.slow
def test_steps_on_imagined_rounds_forget_refused_ones(made):
    """What a Psi made of a block depends on the policy that plays, not on what was refused."""
    own, meta, *_ = made
    _, view, _ = block_of(made)
    psi, belief = SMALL["imagined"], jnp.eye(3)[1]
    state = psi.begin(jax.random.key(4), own, meta)
    first, after, _ = candidate_of(jax.random.key(5), state, own, meta, meta, view, belief, psi)
    again, *_ = candidate_of(jax.random.key(5), after, own, meta, meta, view, belief, psi)
    chex.assert_trees_all_equal(first.params, again.params)


@pytest.mark.slow
def test_the_guard_lets_in_what_earns_more(made):
    """Under IPM of scale 10: trimming against the bare mean; and never a policy like itself."""
    own, meta, *_ = made
    _, view, _ = block_of(made)
    belief = jnp.eye(3)[1]

    def playing(*action):
        params = meta.policy.constant(meta.params, jnp.array(action))
        return meta.replace(params=params)

    bare, trims = playing(1.0, -1.0, 1.0), playing(-1.0, 1.0, 1.0)

    def verdict(current, candidate, doubt=0.0):
        return look_ahead(
            jax.random.key(6), own, belief, view.server, current, candidate, doubt, 2, 4, 12
        )

    assert bool(verdict(bare, trims).accepted) and float(verdict(bare, trims).gain) > 0
    assert not bool(verdict(trims, bare).accepted)
    assert float(verdict(bare, trims).gain) == pytest.approx(-float(verdict(trims, bare).gain))
    same = verdict(trims, trims)
    assert float(same.gain) == 0 and not bool(same.accepted)
    found = verdict(bare, trims)
    # one-sided, at 5 %: with 12 repeats Student's t of 11 degrees of freedom
    sure = float(found.gain) - 1.7959 * float(found.error)
    assert 0 < sure < float(found.gain)
    doubted = verdict(bare, trims, 1.01 * sure)
    assert not bool(doubted.accepted) and bool(verdict(bare, trims, 0.99 * sure).accepted)
    # what is promised is of the policy that will play: the bare mean's, which is worse
    assert float(doubted.loss) > float(verdict(bare, trims).loss) > 0


def test_a_promise_is_held_against_what_came(made):
    _, view, _ = block_of(made)
    assert not bool(hold(no_promise(), view, 1.0)[1])
    came = float(view.loss.mean())
    for loss, spread, broken in ((came + 0.1, 0.0, False), (came - 0.1, 0.0, True),
                                 (came - 0.1, 0.06, False)):  # fmt: skip
        promised = Trust(*map(jnp.float32, (loss, spread, 0.02, 1.0, 1)))
        trust, found = hold(promised, view, 1.0)
        assert bool(found) == broken
        assert float(trust.doubt) == pytest.approx(0.1 if broken else 0.02, abs=1e-5)


def test_what_no_type_explains_is_a_stranger(made):
    """It is the mean over blocks that counts."""
    _, view, _ = block_of(made)
    trust, found = no_promise(), []
    for block in (1.0, 9.0, 1.0, 9.0, 1.0):
        trust, _ = hold(trust, view, jnp.float32(block))
        found.append((float(trust.misfit), bool(trust.strange)))
    averages = [1.0, 5.0, 11 / 3, 5.0, 4.2]
    assert found == [(pytest.approx(each), each > STRANGE) for each in averages]


@pytest.mark.slow
def test_a_block_fits_the_type_that_played_it_and_no_other(made):
    """The own world itself is played: IPM of scale 10 looks like nothing else there."""
    own, meta, *_ = made
    run = begin_run(jax.random.key(2), own.game, jnp.int32(1))
    player = meta.replace(greedy=False)
    _, view, _ = play_block(
        jax.random.key(3), run, own.game, jnp.int32(1), player, own.attacker(1), BLOCK
    )
    explained = float(misfit(jax.random.key(4), own, player, view))
    assert explained < STRANGE
    prior = own.game.prior.replace(types=jax.tree.map(lambda a: a[jnp.array([0, 0, 2])],
                                                      own.game.prior.types))  # fmt: skip
    without = own.replace(game=own.game.replace(prior=prior))
    assert float(misfit(jax.random.key(4), without, player, view)) > 1.5 * explained


@pytest.mark.slow
def test_for_a_stranger_the_meta_policy_plays(made, belief, monkeypatch):
    """And nothing is promised. Every candidate is let in otherwise."""
    from metasg_jax.online import run

    own, meta, real, attacker = made
    attackers = attacker.replace(params=jax.tree.map(lambda a: a[None], attacker.params))
    hidden, key = Hidden(real, (0, 0), attackers), jax.random.key(7)
    server, ahead = Server(own, meta, belief, SMALL["mixture"]), run.look_ahead
    monkeypatch.setattr(
        run, "look_ahead", lambda *a: ahead(*a).replace(accepted=jnp.bool_(True), loss=jnp.ones(()))
    )
    monkeypatch.setattr(run, "misfit", lambda *a: jnp.float32(next(found)))
    found = iter((1.0, 9.0))
    standing = begin(key, hidden, server, server.psi.begin(jax.random.key(4), own, meta))
    standing, first = next_block(key, standing, hidden, server)
    assert bool(first.verdict.accepted) and not same(standing.player.params, meta.params)
    standing, second = next_block(key, standing, hidden, server)
    assert (first.misfit, second.misfit) == (1.0, 5.0) and second.verdict is None
    assert same(standing.player.params, meta.params) and np.isnan(standing.trust.loss)
    assert second.doubt == first.doubt == 0 and second.strange and not first.strange


@pytest.mark.slow
def test_a_policy_that_broke_its_promise_gives_way(made, belief, monkeypatch):
    """Every candidate is let in, and promises a loss of 0."""
    from metasg_jax.online import run

    own, meta, real, attacker = made
    attackers = attacker.replace(params=jax.tree.map(lambda a: a[None], attacker.params))
    hidden, key = Hidden(real, (0, 0), attackers), jax.random.key(7)
    server = Server(own, meta, belief, SMALL["mixture"])
    ahead, seen = run.look_ahead, []

    def promising(*arguments):
        seen.append(arguments[4].params)
        return ahead(*arguments).replace(
            accepted=jnp.bool_(True), loss=jnp.zeros(()), spread=jnp.zeros(())
        )

    monkeypatch.setattr(run, "look_ahead", promising)
    monkeypatch.setattr(run, "misfit", lambda *a: jnp.ones(()))
    standing = begin(key, hidden, server, server.psi.begin(jax.random.key(4), own, meta))
    standing, first = next_block(key, standing, hidden, server)
    assert first.doubt == 0 and not same(standing.player.params, meta.params)
    _, second = next_block(key, standing, hidden, server)
    assert second.doubt == pytest.approx(float(second.view.loss.mean()))
    # the next candidate is held against the meta policy again
    assert same(seen[1], meta.params)


def same(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(x, y) for x, y in pairs)


@pytest.mark.slow
def test_a_run_with_a_guard_that_rejects_all_is_the_frozen_run(made, belief, monkeypatch):
    from metasg_jax.online import run

    own, meta, real, attacker = made
    attackers = attacker.replace(params=jax.tree.map(lambda a: a[None], attacker.params))

    def played(psi, guard):
        prepared = psi.begin(jax.random.key(4), own, meta)
        hidden = Hidden(real, (0, 0), attackers)
        return play_adapting(
            jax.random.key(7), hidden, Server(own, meta, belief, psi, guard), prepared
        )

    _, frozen = played(SMALL["frozen"], True)
    assert len(frozen) == 2 and all(block.verdict is None for block in frozen)
    _, moved = played(SMALL["mixture"], False)
    ahead = run.look_ahead
    monkeypatch.setattr(
        run, "look_ahead", lambda *a: ahead(*a).replace(accepted=jnp.zeros((), bool))
    )
    monkeypatch.setattr(run, "misfit", lambda *a: jnp.ones(()))
    _, held = played(SMALL["mixture"], True)
    assert all(block.verdict is not None for block in held)
    for place, alike in ((0, True), (1, False)):
        one, two, three = (each[place].view for each in (frozen, held, moved))
        np.testing.assert_array_equal(one.action, two.action)
        np.testing.assert_array_equal(one.server.w, two.server.w)
        assert np.array_equal(one.action, three.action) == alike


@pytest.mark.slow
def test_a_type_may_begin_late_or_change(made, belief):
    """The first block is that of no attack, the second another one."""
    own, meta, *_ = made
    psi = SMALL["frozen"]

    def played(*types):
        hidden = Hidden(own.game, types, own.attackers)
        return play_adapting(jax.random.key(7), hidden, Server(own, meta, belief, psi), ())[1]

    honest, late = played(0, 0), played(0, 1)
    np.testing.assert_array_equal(honest[0].view.server.w, late[0].view.server.w)
    assert not np.array_equal(honest[1].view.server.w, late[1].view.server.w)
    assert late[0].truth.malicious.sum() == 0
