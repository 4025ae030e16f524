"""Federations drawn at random differ in numbers and share a program."""

import jax
import numpy as np
import pytest

from metasg_jax.attacks import check_attack
from metasg_jax.config import FLConfig, GameConfig, RunConfig
from metasg_jax.game.draw import draw_blends, draw_game, draw_trigger, draw_types
from metasg_jax.testing import tiny_dataset

CONFIG = RunConfig(
    GameConfig(
        hidden=(6,), num_root=12, num_validation=30, rule="client_trust", observation="clients",
        post_defense="none",
    ),
    FLConfig(num_clients=20, num_sampled=4, batch_size=4, horizon=9),
)  # fmt: skip


def drawn(seed):
    return draw_game(np.random.default_rng(seed), CONFIG, tiny_dataset(side=8), None)[0]


def test_games_share_a_program_and_differ_in_numbers():
    first, second = drawn(0), drawn(1)
    assert jax.tree.structure(first) == jax.tree.structure(second)
    shapes = [jax.tree.map(lambda a: np.shape(a), g) for g in (first, second)]
    assert shapes[0] == shapes[1]
    for name in ("local_lr", "steps_share", "batch_share"):
        assert getattr(first.fl, name) != getattr(second.fl, name)
    assert all(0.25 <= share <= 1 for share in (first.fl.steps_share, first.fl.batch_share))
    assert not np.array_equal(first.prior.types.num_untargeted, second.prior.types.num_untargeted)
    assert not np.array_equal(first.prior.types.trigger_mask, second.prior.types.trigger_mask)


def test_the_same_seed_draws_the_same():
    for a, b in zip(jax.tree.leaves(drawn(3)), jax.tree.leaves(drawn(3)), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("seed", range(5))
def test_types_are_in_their_ranges(seed):
    specs = draw_types(np.random.default_rng(seed), 100, 30)
    assert specs[0].name == "none" and len({s.name for s in specs}) == len(specs)
    for spec in specs[1:]:
        assert 5 <= spec.num_untargeted + spec.num_backdoor <= 40 and 0 <= spec.onset < 30
        check_attack(spec.untargeted)
        check_attack(spec.backdoor)
    assert specs[-1].name == "mixed" and specs[-1].num_untargeted and specs[-1].num_backdoor


def test_the_blended_game_is_the_same_federation_with_attacks_that_can_be_diluted():
    fixed, blended = draw_game(np.random.default_rng(0), CONFIG, tiny_dataset(side=8), None)
    for a, b in zip(jax.tree.leaves(fixed.data), jax.tree.leaves(blended.data), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(
        fixed.prior.types.trigger_mask[0], blended.prior.types.trigger_mask[0]
    )
    assert all(blended.prior.adaptive) and not any(fixed.prior.adaptive)
    for seed in range(5):
        for spec in draw_blends(np.random.default_rng(seed), 100, 30):
            assert 5 <= spec.num_untargeted + spec.num_backdoor <= 35 and 0 <= spec.onset < 15
            check_attack(spec.untargeted)
            check_attack(spec.backdoor)


@pytest.mark.parametrize("shape", [(8, 8, 1), (28, 28, 1), (16, 16, 3)])
def test_triggers_fit_and_are_seen(shape):
    for seed in range(30):
        mask, pattern = draw_trigger(np.random.default_rng(seed), shape)
        assert mask.shape == pattern.shape == shape and set(np.unique(mask)) <= {0, 1}
        sides = [max(3, side // 4) for side in shape[:2]]
        assert 3 <= mask[..., 0].sum() <= np.prod(sides)
        assert (pattern[mask == 0] == 0).all() and pattern.min() >= 0 and pattern.max() <= 1
