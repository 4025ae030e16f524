"""``metasg adapt``: what it leaves, that it goes on, and what it refuses."""

import dataclasses
import json

import chex
import jax
import numpy as np
import pytest
from rich.console import Console

from metasg_jax import cli
from metasg_jax.config import Adaptation, FLConfig, GameConfig, MetaConfig, RunConfig
from metasg_jax.errors import CheckpointError, ConfigError, UnknownNameError
from metasg_jax.game import parse_type
from metasg_jax.learning import init_state
from metasg_jax.presets.cpu import TRUST
from metasg_jax.programs import adapt
from metasg_jax.programs.adapt import adapt_program
from metasg_jax.programs.pretrain import training_games
from metasg_jax.testing import tiny_dataset
from tests.runs import untrained

DATASET = tiny_dataset(side=6)
GAME = GameConfig(
    hidden=(6,), level=0.5, num_root=12, num_validation=30, target=1,
    types=("none", "ipm:scale=10@0.25"),
)  # fmt: skip
FL = FLConfig(num_clients=8, num_sampled=4, batch_size=4, horizon=4, local_lr=0.5)
CONFIG = RunConfig(GAME, FL, MetaConfig(hidden=(4,), adapt_steps=0, group_size=2), steps=1)
ASKED = Adaptation("bfl@0.25", "mixture:clips=2,trims=2,levels=2", block=2, num_simulated=60)
QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(directory, state) of a defender that has not learned."""
    folder = tmp_path_factory.mktemp("runs") / "defender"
    return folder, untrained(CONFIG, DATASET, folder)


def lines(folder):
    """Lines of adapt.csv, but for the seconds and the checksum of the line."""
    return [line.rsplit(",", 2)[0] for line in (folder / "adapt.csv").read_text().splitlines()]


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_to_the_same_end(trained, tmp_path, monkeypatch):
    _, state = trained
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    result = adapt_program(state, CONFIG, DATASET, ASKED, whole, False, QUIET)
    assert {path.name for path in whole.iterdir()} == {
        "adapt.csv", "adapt.json", "adapt.png", "checkpoints",
    }  # fmt: skip
    assert result["score"] == pytest.approx(result["accuracy"] - result["asr"])

    saved = adapt.checkpoint.save

    def then_stops(directory, step, tree, config):
        saved(directory, step, tree, config)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(adapt.checkpoint, "save", then_stops)
        with pytest.raises(KeyboardInterrupt):
            adapt_program(state, CONFIG, DATASET, ASKED, cut, False, QUIET)
    assert len(lines(cut)) == 2 and "score" not in json.loads((cut / "adapt.json").read_text())
    other = dataclasses.replace(ASKED, guard=False)
    with pytest.raises(CheckpointError, match="guard: True, not False"):
        adapt_program(state, CONFIG, DATASET, other, cut, True, QUIET)
    again = adapt_program(state, CONFIG, DATASET, ASKED, cut, True, QUIET)
    assert again == result and lines(cut) == lines(whole)


@pytest.mark.slow
def test_the_servers_world_does_not_read_the_clients(trained, tmp_path):
    """Other images of clients change what the server sees, not what it made up."""
    _, state = trained
    seed = adapt.world_settings(CONFIG, DATASET, 0).seed
    root = adapt.own_world(state, CONFIG, DATASET, seed, num_simulated=60).game
    held = {image.tobytes() for image in np.asarray(root.data.images)[-12:]}
    others = np.array([image.tobytes() not in held for image in DATASET.train_x])
    noise = np.array(DATASET.train_x)
    noise[others] = 255 - noise[others]
    elsewhere = dataclasses.replace(DATASET, train_x=noise, test_x=255 - DATASET.test_x)
    again = adapt.own_world(state, CONFIG, elsewhere, seed, num_simulated=60).game
    np.testing.assert_array_equal(root.data.images, again.data.images)
    np.testing.assert_array_equal(root.test_x, again.test_x)


def test_a_wider_table_keeps_the_attackers_of_the_pre_training(trained):
    """Each type finds its own parameters again, wherever it stands; others are fresh."""
    _, state = trained
    types = ("ipm:scale=10@0.25", "bfl@0.25", "none")
    own = adapt.own_world(state, CONFIG, DATASET, 1, num_simulated=60, types=types)
    assert own.game.prior.names == types
    np.testing.assert_allclose(own.game.prior.probabilities, 1 / 3)
    for place, before in ((0, 1), (2, 0)):
        chex.assert_trees_all_equal(
            own.attacker(place).params, jax.tree.map(lambda leaf, b=before: leaf[b], state.phi)
        )


def test_actions_can_not_be_mixed_where_clients_are_decided_about(trained, tmp_path):
    game = dataclasses.replace(CONFIG.game, **TRUST)
    trusting = dataclasses.replace(CONFIG, game=game)
    asked = dataclasses.replace(ASKED, psi="mixture")
    with pytest.raises(ConfigError, match="psi = mixture: mixes actions of knobs; for a policy"):
        adapt_program(trained[1], trusting, DATASET, asked, tmp_path / "no", False, QUIET)
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"block": 3}, ConfigError, "block = 3: a divisor of the 4 rounds"),
        ({"conceal": 1}, ConfigError, "conceal = 1: a multiple of block = 2 below 4"),
        ({"world": -1}, ConfigError, "world = -1: at least 0"),
        ({"psi": "imagine"}, UnknownNameError, "did you mean 'imagined'"),
        ({"psi": "imagined:steps=2"}, ConfigError, "steps"),
        ({"attack": "bfl@2"}, ConfigError, "bfl@2"),
        ({"imagine": ("none", "ipm@2")}, ConfigError, "ipm@2"),
        ({"clients": "dreamed"}, UnknownNameError, "repeated, augmented, generated"),
        ({"num_simulated": 5}, ConfigError, "num_simulated = 5: at least 30"),
    ],
)
def test_bad_input_is_named(change, error, message, trained, tmp_path):
    _, state = trained
    asked = dataclasses.replace(ASKED, **change)
    with pytest.raises(error, match=message):
        adapt_program(state, CONFIG, DATASET, asked, tmp_path / "out", False, QUIET)


def test_the_command_refuses_what_is_no_defender(trained, tmp_path, capsys):
    assert cli.main(["adapt", "--run", str(tmp_path)]) == 1
    assert cli.main(["adapt", "--run", str(trained[0]), "--resume"]) == 2
    taken = ["--block", "2", "--out", str(trained[0])]
    assert cli.main(["adapt", "--run", str(trained[0]), *taken]) == 2
    assert "add --resume, or name another" in capsys.readouterr().err


ADAPTIVE = ("none", "rl:max_steps=2@0.25", "brl:max_steps=2@0.25")


@pytest.fixture(scope="module")
def adaptive():
    """(settings, state) of a pre-training whose table has attackers that learn."""
    config = dataclasses.replace(CONFIG, game=dataclasses.replace(GAME, types=ADAPTIVE))
    game = training_games(config, DATASET)[0]
    return config, init_state(jax.random.key(3), game, config.meta)


def actions(attackers, place, obs):
    player = attackers.of(place)
    return np.asarray(player.policy.mode(player.params, obs))


@pytest.mark.slow
@pytest.mark.parametrize(
    "types", [("none", "bfl@0.25"), ("none", ADAPTIVE[2]), (ADAPTIVE[1], "ipm@0.25"), ADAPTIVE]
)
def test_a_type_of_the_pre_training_acts_the_same_in_a_table_of_other_knobs(adaptive, types):
    config, state = adaptive
    own = adapt.own_world(state, config, DATASET, 0, num_simulated=60, types=ADAPTIVE)
    game = adapt.own_world(state, config, DATASET, 0, num_simulated=60, types=types)
    obs = jax.random.normal(jax.random.key(0), (own.game.attacker_observation_size,))
    num_untargeted = len(parse_type(ADAPTIVE[1], 8).untargeted.action_spec)
    for text in set(types) & set(ADAPTIVE):
        before = actions(own.attackers, ADAPTIVE.index(text), obs)
        after = actions(game.attackers, types.index(text), obs)
        if "brl" in text:  # its knobs are the last ones
            count = len(before) - num_untargeted
            before, after = before[-count:], after[-count:]
        elif "rl" in text:
            before, after = before[:num_untargeted], after[:num_untargeted]
        else:
            continue
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("attack", ["bfl@0.25", ADAPTIVE[1], "brl:max_steps=3@0.25"])
def test_any_attack_hides_from_any_pre_training(adaptive, trained, tmp_path, attack):
    """Its table has as many knobs as its own types read, whatever the pre-training's had."""
    for config, state in (adaptive, (CONFIG, trained[1])):
        game = dataclasses.replace(config.game, types=("none", attack), probabilities=())
        made = adapt.make_game(game, config.fl, DATASET)
        hidden = adapt.attackers_of(game.types, state, config, made)
        obs = np.zeros(made.attacker_observation_size, np.float32)
        assert actions(hidden, 1, obs).shape == (made.attacker_action_size,)
