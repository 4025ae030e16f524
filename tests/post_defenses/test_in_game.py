"""A game deploys under composed defences, each with its own knobs."""

import jax
import jax.numpy as jnp
import numpy as np

from metasg_jax.config import FLConfig
from metasg_jax.post_defenses import Composed, FineTune, GuardedPrune, LearnedClip, Prune
from metasg_jax.testing import tiny_game

FL = FLConfig(num_clients=10, num_sampled=4, horizon=2)


def test_knobs_after_those_of_the_rule_reach_the_parts_in_order():
    game = tiny_game(("none",), FL)
    parts = Prune(max_rate=0.5), FineTune(steps=2)
    game = game.replace(post_defense=Composed(parts))
    assert game.action_names == ("clip", "trim", "rate", "tune")
    w = game.model.ravel(game.model.init(jax.random.key(0)))
    deploy = jax.jit(lambda game, w, action: game.deploy(jax.random.key(1), w, action))

    def at(*knobs):
        deployed, info = deploy(game, w, jnp.array([0.0, 0.0, *knobs]))
        moved = game.model.ravel(deployed.params) - w
        return (deployed.clip == 0).mean(), np.abs(moved).max(), info

    pruned, moved, info = at(-1.0, 1.0)
    assert pruned == 0.5 and moved == 0 and info["tuned"] == 0
    pruned, moved, _ = at(1.0, -1.0)
    assert pruned == 0 and moved > 0
    pruned, moved, _ = at(1.0, 1.0)
    assert pruned == 0 and moved == 0


def test_defences_that_read_labels_get_them():
    """The same root images with other labels: another guard, other bounds."""
    game = tiny_game(("none",), FL)
    w = game.model.ravel(game.model.init(jax.random.key(0)))
    said = game.model.apply(game.model.unravel(w), game.root_x).argmax(axis=-1)
    deploy = jax.jit(lambda game, w, action: game.deploy(jax.random.key(1), w, action)[0])
    for defence in (GuardedPrune(), LearnedClip(steps=20, lr=0.2)):
        clips = [
            deploy(
                game.replace(post_defense=defence, root_y=labels), w, jnp.array([0.0, 0.0, -1.0])
            ).clip
            for labels in (said, (said + 1) % game.model.num_classes)
        ]
        # where no image is right, there is nothing to keep
        nothing_kept, kept = (np.minimum(clip, 1e6).sum() for clip in reversed(clips))
        assert nothing_kept < kept
