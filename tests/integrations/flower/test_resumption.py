"""A server killed at any round goes on, to the bit; damaged and foreign checkpoints are refused."""

import numpy as np
import pytest

from metasg_jax.errors import CheckpointError
from metasg_jax.integrations.flower import InProcessGrid, TrustedFedAvg, poison
from tests.integrations.flower.test_strategy import FEW, hostile
from tests.integrations.flower.world import MODEL, NODES, accuracy, client_app, record
from tests.parameters import slow_but

ROUNDS = 4


class Killed(RuntimeError):
    pass


class DyingGrid(InProcessGrid):
    """Its server dies in one round: before clients work, or when all have answered."""

    def __init__(self, *args, dies, when, **kwargs):
        super().__init__(*args, **kwargs)
        self.dies, self.when, self.rounds = dies, when, 0

    def send_and_receive(self, messages, *, timeout=None):
        messages = list(messages)
        if messages:  # evaluation is off: it sends none
            self.rounds += 1
        if messages and self.rounds == self.dies and self.when == "before":
            raise Killed
        replies = super().send_and_receive(messages, timeout=timeout)
        if messages and self.rounds == self.dies:
            raise Killed
        return replies


def serve(defender, folder, grid=None, model=MODEL, rounds=ROUNDS, **settings):
    strategy = TrustedFedAvg(defender=defender, checkpoint_dir=folder, **FEW, **settings)
    grid = grid or InProcessGrid(client_app(mods=[hostile()]), NODES)
    seen = []

    def evaluate(round, arrays):
        seen.append(round)

    result = strategy.start(grid, record(model), num_rounds=rounds, evaluate_fn=evaluate)
    return strategy, result, seen


@pytest.fixture(scope="module")
def whole(blind, tmp_path_factory):
    """What an undisturbed server ends with."""
    return serve(blind, tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("dies", slow_but((1, ROUNDS), range(1, ROUNDS + 1)))
def test_killed_at_any_round_it_ends_where_it_would_have(blind, whole, tmp_path, dies, when):
    grid = DyingGrid(client_app(mods=[hostile()]), NODES, dies=dies, when=when)
    with pytest.raises(Killed):
        serve(blind, tmp_path, grid)
    strategy, result, seen = serve(blind, tmp_path)
    assert seen == list(range(dies - 1, ROUNDS + 1))
    assert list(result.train_metrics_clientapp) == list(range(dies, ROUNDS + 1))
    assert strategy.report["trust"] == whole[0].report["trust"]
    assert strategy.tally.all() == whole[0].tally.all()
    for name in MODEL:
        np.testing.assert_array_equal(result.arrays[name].numpy(), whole[1].arrays[name].numpy())


def test_every_other_round_is_kept_and_two_checkpoints_are_left(blind, tmp_path):
    serve(blind, tmp_path, rounds=7, checkpoint_every=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "round-000004.safetensors",
        "round-000006.safetensors",
    ]
    _, _, seen = serve(blind, tmp_path, rounds=8)
    assert seen == [6, 7, 8]


def test_a_federation_that_is_done_gives_its_model_again(blind, whole, tmp_path):
    serve(blind, tmp_path)
    _, result, seen = serve(blind, tmp_path)
    assert seen == [ROUNDS] and not result.train_metrics_clientapp
    assert accuracy(result.arrays) == accuracy(whole[1].arrays)


@pytest.mark.parametrize("damage", ["cut", "a bit", "empty", "text"])
def test_damage_is_refused_and_the_one_before_is_named(blind, tmp_path, damage):
    serve(blind, tmp_path, rounds=2)
    path = tmp_path / "round-000002.safetensors"
    data = bytearray(path.read_bytes())
    if damage == "a bit":
        data[len(data) // 2] ^= 1
    path.write_bytes(
        {"cut": data[:-100], "a bit": data, "empty": b"", "text": b"model" * 99}[damage]
    )
    with pytest.raises(CheckpointError, match=r"000002.*damaged.*go on from round-000001"):
        serve(blind, tmp_path)
    path.unlink()
    assert serve(blind, tmp_path, rounds=2)[2] == [1, 2]


def test_a_checkpoint_of_something_else_is_refused(blind, tmp_path):
    serve(blind, tmp_path, rounds=1)
    other = MODEL | {"more": np.ones(2, np.float32)}
    with pytest.raises(CheckpointError, match="of another model"):
        serve(blind, tmp_path, model=other)
    with pytest.raises(CheckpointError, match="other weights made it"):
        serve("v3", tmp_path)


def test_what_a_client_remembers_of_itself_is_bounded():
    """For its own honest updates, which attacks by one client look at."""
    app = client_app(mods=[poison("alie", memory=2)])
    grid = InProcessGrid(app, NODES)
    TrustedFedAvg(**FEW).start(grid, record(MODEL), num_rounds=4)
    for context in grid.contexts.values():
        assert len(context.state["metasg-poison"]) == 2
