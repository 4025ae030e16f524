"""Client mods: the formulas of the attacks, on what one client knows; others stay honest."""

from collections import OrderedDict

import numpy as np
import pytest
from flwr.clientapp import ClientApp

from metasg_jax.errors import ConfigError, UnknownNameError
from metasg_jax.integrations.flower import InProcessGrid, poison, poison_data, poisoned
from metasg_jax.integrations.flower.sight import able
from tests.integrations.flower.test_strategy import FEW, hostile
from tests.integrations.flower.world import (
    MODEL,
    NODES,
    answer,
    client_app,
    images,
    number_of,
    record,
    train,
)
from tests.parameters import slow_but

FLOATS = [name for name, array in MODEL.items() if array.dtype.kind == "f"]


def answers(mods, rounds=1, app=None):
    """By round: node number -> the arrays that it sent, where all start from the same model."""
    from flwr.app import ConfigRecord, Message, RecordDict

    grid = InProcessGrid(app or client_app(mods=mods), NODES)
    out = []
    for round in range(1, rounds + 1):
        content = RecordDict(
            {"arrays": record(MODEL), "config": ConfigRecord({"server-round": round})}
        )
        messages = [Message(content, node, "train") for node in grid.get_node_ids()]
        replies = grid.send_and_receive(messages)
        out.append({
            number_of(grid.contexts[r.metadata.src_node_id]): OrderedDict(
                (n, a.numpy()) for n, a in r.content["arrays"].items()
            )
            for r in replies
        })  # fmt: skip
    return out


def honest(number, model=MODEL):
    return train(model, *images(number))


def moved(number, factor):
    """A model whose update is ``factor`` times the honest one."""
    own = honest(number)
    return {n: MODEL[n] + factor * (own[n] - MODEL[n]) for n in FLOATS}


@pytest.mark.parametrize(
    ("attack", "factor"),
    [("sign_flip:scale=3", -3.0), ("ipm:scale=0.5", -0.5), ("free_rider", 0.0), ("alie:z=9", 1.0)],
)
def test_updates_are_those_of_the_formula(attack, factor):
    (sent,) = answers([hostile(attack, count=2)])
    for number, arrays in sent.items():
        expected = moved(number, factor if number < 2 else 1.0)
        for name in FLOATS:
            np.testing.assert_allclose(arrays[name], expected[name], atol=1e-5)
        assert arrays["norm.num_batches_tracked"] == 5 and list(arrays) == list(MODEL)


def test_alie_alone_takes_the_deviation_of_its_own_last_updates():
    seed = iter(range(100))

    def varied(message, context, own):
        own = train(MODEL, *images(50 + next(seed)))
        log.append(own)
        return answer(message, own)

    log = []
    behave = {0: varied}
    app = client_app(behave, [hostile("alie:z=2", count=1)])
    rounds = answers(None, 3, app)
    updates = np.stack([MODEL["head.weight"] - own["head.weight"] for own in log])
    expected = MODEL["head.weight"] - (updates.mean(0) - 2 * updates.std(0))
    np.testing.assert_allclose(rounds[2][0]["head.weight"], expected, atol=1e-5)
    np.testing.assert_allclose(rounds[0][0]["head.weight"], log[0]["head.weight"], atol=1e-6)


def test_before_its_onset_a_client_is_honest():
    rounds = answers([poison("sign_flip", onset=3)], 3)
    for round, factor in zip(rounds, [1.0, 1.0, -1.0], strict=True):
        np.testing.assert_allclose(round[4]["head.bias"], moved(4, factor)["head.bias"], atol=1e-6)


AT_ONCE = ("none", "ipm", "label_flip", "bfl")  # of each kind one: the rest is slow


@pytest.mark.parametrize("name", slow_but(AT_ONCE, able()))
def test_every_attack_that_a_client_can_run_alone_runs(name):
    def looking(message, context, own):
        number = number_of(context)
        seen.append(poisoned(x, y))
        # other images each round: updates that are all alike deviate from nothing
        trained[number] = train(MODEL, *images(100 + len(seen)))
        return answer(message, trained[number])

    x, y = np.random.default_rng(0).random((40, 8, 8, 1), np.float32), np.arange(40) % 3
    seen, trained = [], {}
    app = client_app(
        dict.fromkeys(range(NODES), looking),
        [poison(name, num_classes=3, trigger="distributed" if name == "dba" else "square")],
    )
    rounds = answers(None, 2, app)
    assert len(seen) == 2 * NODES
    for arrays in rounds[1].values():
        assert all(np.isfinite(arrays[n]).all() for n in FLOATS)
        assert [a.shape for a in arrays.values()] == [a.shape for a in MODEL.values()]
    changed = any((a != x).any() or (b != y).any() for a, b in seen) or any(
        not np.allclose(rounds[1][i][n], trained[i][n]) for i in range(NODES) for n in FLOATS
    )
    assert changed == (name != "none")


def test_images_are_poisoned_while_a_hostile_client_trains_and_never_else():
    got = {}

    def looking(message, context, own):
        x, y = np.zeros((30, 1, 8, 8), np.uint8), np.arange(30) % 3
        got[number_of(context)] = poisoned(x, y, channels_first=True)
        return answer(message, own)

    app = client_app(
        dict.fromkeys(range(NODES), looking), [hostile("bfl:fraction=1,boost=2", count=1)]
    )
    (sent,) = answers(None, 1, app)
    x, y = got[0]
    assert x.dtype == np.uint8 and x.shape == (30, 1, 8, 8)
    assert (y == 0).all() and x[1].sum() == 9 * 255 and x[1, 0, 5:, 5:].all()
    assert x[0].sum() == 0  # of the target class already
    assert got[1][0].sum() == 0 and (got[1][1] == np.arange(30) % 3).all()
    np.testing.assert_allclose(sent[0]["head.bias"], moved(0, 2.0)["head.bias"], atol=1e-6)
    assert poisoned(x, y)[0] is x


def test_an_attack_on_images_that_the_app_does_not_hand_over_is_an_error():
    app = client_app(mods=[hostile("label_flip", count=1)])
    from metasg_jax.integrations.flower import TrustedFedAvg

    strategy = TrustedFedAvg(**FEW)
    grid = InProcessGrid(app, NODES)
    strategy.start(grid, record(MODEL), num_rounds=1)
    (said,) = strategy.report["refused"].values()
    assert "label_flip poisons images: hand them to" in said


@pytest.mark.parametrize(
    ("attack", "expected"),
    [("label_flip", [3, 2, 1, 0]), ("label_flip:map=shift", [1, 2, 3, 0]), ("none", [0, 1, 2, 3])],
)
def test_labels(attack, expected):
    y = np.arange(4, dtype=np.uint8)
    x = np.zeros((4, 4, 4, 1))
    new_x, new_y = poison_data(attack, x, y, num_classes=4)
    assert new_y.tolist() == expected and new_y.dtype == np.uint8
    np.testing.assert_array_equal(new_x, x)


def test_half_of_the_others_images_are_stamped():
    x, y = np.zeros((1000, 8, 8, 1), np.float32), np.arange(1000) % 10
    new_x, new_y = poison_data("bfl:fraction=0.5", x, y, trigger="plus", target=3)
    stamped = new_x.any(axis=(1, 2, 3))
    assert not stamped[y == 3].any() and (new_y[stamped] == 3).all()
    assert 0.4 < stamped[y != 3].mean() < 0.6
    assert (poison_data("bfl", x, y, seed=1)[1] != poison_data("bfl", x, y, seed=2)[1]).any()


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: poison("bfi"), UnknownNameError, "did you mean 'bfl'"),
        (lambda: poison("rl"), ConfigError, "takes more than one client's sight; use one of"),
        (lambda: poison("ipm:knowledge=all"), ConfigError, "takes more than one client's sight"),
        (lambda: poison("ipm:scale=-1"), ConfigError, "scale = -1: above 0"),
        (lambda: poison("bfl", onset=0), ConfigError, "onset = 0: a server round, 1 or later"),
        (lambda: poison("bfl", target=10), ConfigError, "target = 10: from 0 to 9"),
        (lambda: poison("bfl", trigger="cross"), UnknownNameError, "unknown trigger 'cross'"),
        (lambda: poison("alie", memory=-1), ConfigError, "memory = -1: at least 0"),
        (lambda: poison_data("bfl", np.zeros((2, 3)), np.zeros(2)), ConfigError, "images"),
    ],
)
def test_bad_arguments(call, error, said):
    with pytest.raises(error, match=said):
        call()


def test_evaluation_is_left_alone():
    from flwr.app import Message, RecordDict

    app = ClientApp()

    @app.evaluate(mods=[poison("sign_flip")])
    def evaluate(message, context):
        return answer(message, message.content["arrays"])

    grid = InProcessGrid(app, 2)
    content = RecordDict({"arrays": record(MODEL)})
    (reply, _) = grid.send_and_receive(
        [Message(content, node, "evaluate") for node in grid.get_node_ids()]
    )
    np.testing.assert_array_equal(
        reply.content["arrays"]["head.weight"].numpy(), MODEL["head.weight"]
    )
