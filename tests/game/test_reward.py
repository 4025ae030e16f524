"""Rewards: bounded, of the right sign, at the floor for a diverged model."""

import jax.numpy as jnp
import pytest

from metasg_jax.game.reward import (
    Losses,
    attacker_ceiling,
    attacker_reward,
    defender_reward,
    image_loss,
    stamp,
    worst_losses,
)


def losses(clean, backdoor, success):
    return Losses(*(jnp.asarray(v, jnp.float32) for v in (clean, backdoor, success)))


def test_untargeted_attacker_wants_loss_and_backdoor_attacker_wants_its_label():
    good, bad = losses(0.1, 0.9, 0.1), losses(0.8, 0.9, 0.1)
    planted = losses(0.1, 0.1, 0.9)
    sampled = jnp.asarray(True)
    assert attacker_reward(bad, 0.0, sampled) > attacker_reward(good, 0.0, sampled)
    assert attacker_reward(planted, 1.0, sampled) > attacker_reward(good, 1.0, sampled)
    assert attacker_reward(bad, 0.0, jnp.asarray(False)) == 0


def test_untargeted_game_is_strictly_competitive_when_a_malicious_client_is_sampled():
    for clean in (0.0, 0.3, 1.0):
        value = losses(clean, 1.0, 0.0)
        assert attacker_reward(value, 0.0, jnp.asarray(True)) == -defender_reward(value, "clean", 1)


def test_only_the_second_reward_pays_for_removing_a_backdoor():
    clean, planted = losses(0.1, 0.9, 0.0), losses(0.1, 0.1, 1.0)
    assert defender_reward(clean, "clean", 2.0) == defender_reward(planted, "clean", 2.0)
    gap = defender_reward(clean, "clean+backdoor", 2.0) - defender_reward(
        planted, "clean+backdoor", 2.0
    )
    assert gap == pytest.approx(2.0)


@pytest.mark.parametrize("kind", ["probability", "cross_entropy"])
def test_image_loss_is_bounded_whatever_the_logits(kind):
    logits = jnp.asarray([[1e9, -1e9], [-1e9, 1e9], [0.0, 0.0], [jnp.nan, 0.0], [jnp.inf, 0.0]])
    out = image_loss(logits, jnp.zeros((5,), jnp.int32), kind)
    assert ((out >= 0) & (out <= 1)).all()
    assert out[0] == 0 and out[1] == 1 and out[3] == 1


def test_a_diverged_model_is_the_floor_and_the_ceiling():
    worst = worst_losses(jnp.asarray(True))
    for clean in (0.0, 1.0):
        for success in (0.0, 1.0):
            other = losses(clean, 1 - success, success)
            assert defender_reward(worst, "clean+backdoor", 1.0) <= defender_reward(
                other, "clean+backdoor", 1.0
            )
    for rho in (0.0, 0.3, 1.0):
        best = max(
            float(attacker_reward(losses(c, b, 0.0), rho, jnp.asarray(True)))
            for c in (0.0, 1.0)
            for b in (0.0, 1.0)
        )
        assert attacker_ceiling(jnp.asarray(rho), jnp.asarray(3)) >= best - 1e-6
    assert attacker_ceiling(jnp.asarray(0.0), jnp.asarray(0)) == 0


def test_stamp_touches_the_mask_only():
    x = jnp.full((2, 3, 3, 1), 0.5)
    mask = jnp.zeros((3, 3, 1)).at[0, 0].set(1.0)
    out = stamp(x, mask, jnp.ones((3, 3, 1)))
    assert (out[:, 0, 0] == 1).all() and float(out.sum()) == pytest.approx(2 * (8 * 0.5 + 1))
