"""Episodes measured along their rounds."""

import jax
import jax.numpy as jnp
import numpy as np

from metasg_jax.config import MetaConfig
from metasg_jax.evaluation.episodes import play_types
from metasg_jax.game.rollout import Player, init_normalizer
from metasg_jax.learning.state import attacker_player, init_state
from metasg_jax.policies import Fixed
from metasg_jax.testing import tiny_game


def test_curves_end_at_the_final_metrics():
    """The last part ends the episode, and so few images are all of them."""
    game = tiny_game(types=("none", "bfl@0.25"))
    actions = jnp.zeros((2, 1, game.action_size))
    normalizer = init_normalizer(game.observation_spec)
    defenders = Player(actions, normalizer, Fixed(game.action_size), True)
    meta = MetaConfig(hidden=(4,), group_size=2)
    attackers = attacker_player(init_state(jax.random.key(0), game, meta), game, meta, slice(None))
    played = play_types(jax.random.key(1), game, defenders, attackers, num_points=game.horizon)
    assert played.rounds[0, 0].tolist() == list(range(1, game.horizon + 1))
    np.testing.assert_allclose(played.accuracy[..., -1], played.final.accuracy, rtol=1e-6)
    np.testing.assert_allclose(played.asr[1, :, -1], played.final.asr[1], rtol=1e-6)
    assert np.isnan(played.asr[0]).all() and np.isfinite(played.asr[1]).all()
