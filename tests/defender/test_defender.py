"""A defender for a server of one's own: hostile clients, ids of any kind, files."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metasg_jax import load_defender
from metasg_jax.defender import Defender, save_defender, shipped
from metasg_jax.defender.files import CARD, WEIGHTS, read_defender
from metasg_jax.defender.slots import assign, fingerprint
from metasg_jax.errors import CheckpointError, ConfigError, UnknownNameError
from metasg_jax.features.view import view_spec
from metasg_jax.files import read_json
from metasg_jax.game.rollout import Player, init_normalizer
from metasg_jax.learning.state import KNOBS
from metasg_jax.policies import SetPolicy
from tests.fl.hostile import HOSTILE_LEAVES, HOSTILE_TREES

RNG = np.random.default_rng(0)
MODEL = {
    "layer/w": RNG.normal(size=(6, 4)).astype(np.float32), "layer/b": np.zeros(4, np.float32),
    "out/w": RNG.normal(size=(4, 3)).astype(np.float32), "out/b": np.zeros(3, np.float32),
}  # fmt: skip
X, Y = RNG.normal(size=(9, 6)).astype(np.float32), np.arange(9) % 3


def apply(p, x):
    return jnp.maximum(x @ p["layer/w"] + p["layer/b"][None], 0) @ p["out/w"] + p["out/b"][None]


def moved(by, model=MODEL):
    return {k: (v + by).astype(v.dtype) for k, v in model.items()}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A fresh policy that keeps everybody: what is tested here is the way to it and back."""
    policy = SetPolicy(1, KNOBS, (4, 4))
    params = policy.init(jax.random.key(0), view_spec(1))
    params["network"]["trust"]["bias"] += 3.0
    player = Player(params, init_normalizer(view_spec(1)), policy, greedy=True)
    path = tmp_path_factory.mktemp("defender")
    save_defender(path, player, {"trained_on": {"worlds": []}})
    return path


@pytest.fixture(scope="module")
def defender(files) -> Defender:
    return load_defender(files, apply=apply, root=(X, Y))


@pytest.fixture(scope="module")
def blind(files) -> Defender:
    return load_defender(files)


def test_a_round_gives_the_next_model_and_says_what_it_did(defender):
    state = defender.init(MODEL)
    clients = [moved(0.1 * i) for i in (1, 2, 3)]
    model, state, report = defender.aggregate(
        state, MODEL, clients, client_ids=[2**70, "b", 3], root_params=moved(0.2)
    )
    assert report["kept"] == [2**70, "b", 3] and report["missing"] == []
    assert set(report["trust"]) == {2**70, "b", 3} and "3 of 3 clients kept" in report["note"]
    assert int(state.round) == 1 and (np.asarray(state.last_seen) == 0).sum() == 3
    step = model["out/w"] - MODEL["out/w"]
    assert (step > 0.05).all() and (step < 0.25).all() and model["out/w"].dtype == np.float32


def test_fine_tuning_descends_on_all_images_and_keeps_counters(files):
    """The loss of all the server's images falls, though the filter itself looks at few of them."""
    x = RNG.normal(size=(100, 6)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int32)
    sure = load_defender(files, apply=lambda p, x: apply(p["net"], x), root=(x, y))
    model = {"net": MODEL, "seen": np.int32(7)}
    tuned = sure.fine_tune(model, steps=100, lr=0.5)

    def right(p, x, y):
        return float((np.argmax(apply(p["net"], x), axis=1) == y).mean())

    assert right(tuned, x[64:], y[64:]) > max(right(model, x[64:], y[64:]) + 0.1, 0.8)
    assert tuned["seen"] == 7 and tuned["net"]["out/w"].dtype == np.float32


@pytest.mark.parametrize(
    ("settings", "message"),
    [(dict(steps=0), "steps = 0"), (dict(lr=0.0), "lr = 0"), (dict(lr=1e30), "lr = 1e")],
)
def test_fine_tuning_that_can_not_be_is_named(defender, settings, message):
    with pytest.raises(ConfigError, match=message):
        defender.fine_tune(MODEL, **settings)


def test_without_images_nothing_is_tuned(blind):
    with pytest.raises(ConfigError, match="no apply and root"):
        blind.fine_tune(MODEL)


def test_blind_and_of_few_it_takes_the_median(files):
    """Fewer than half believed and nothing of the server's own: the majority is right."""
    clients = [moved(by) for by in (0.1, 0.2, 0.3, 0.4, 50.0)]
    for given, unsure in (({}, True), (dict(apply=apply, root=(X, Y)), False)):
        each = load_defender(files, threshold=0.99, **given)  # of these it believes one
        model, _, report = each.aggregate(each.init(MODEL), MODEL, clients)
        assert report["unsure"] == unsure and len(report["kept"]) == (5 if unsure else 1)
        assert ("by their median" in report["note"]) == unsure
        assert np.allclose(model["out/w"], MODEL["out/w"] + 0.3, atol=1e-6) == unsure
    each = load_defender(files)  # believes all, and is as it was
    report = each.aggregate(each.init(MODEL), MODEL, clients)[2]
    assert not report["unsure"] and len(report["kept"]) == 5
    report = each.aggregate(each.init(MODEL), MODEL, clients, root_params=MODEL)[2]
    assert not report["unsure"]


def test_blind_v3_does_not_take_the_attackers_side():
    """Two of eight send their updates turned round, on a linear model that it was not taught on."""
    rng = np.random.default_rng(0)
    centres = 1.5 * rng.normal(size=(5, 20))

    def draw(count):
        y = rng.integers(0, 5, count)
        return centres[y] + 2 * rng.normal(size=(count, 20)), y

    def trained(w, x, y):
        for _ in range(10):
            p = np.exp(x @ w)
            w = w - 0.1 * x.T @ (p / p.sum(1, keepdims=True) - np.eye(5)[y]) / len(y)
        return w

    data, (x, y) = [draw(100) for _ in range(8)], draw(1000)
    defender, w = load_defender("v3"), np.zeros((20, 5), np.float32)
    state = defender.init({"w": w})
    for _ in range(3):
        honest = [trained(w, *each) for each in data]
        sent = [2 * w - each for each in honest[:2]] + honest[2:]
        clients = [{"w": each.astype(np.float32)} for each in sent]
        new, state, _ = defender.aggregate(state, {"w": w}, clients, client_ids=list(range(8)))
        w = np.asarray(new["w"])
    assert np.mean(np.argmax(x @ w, axis=1) == y) > 0.85


def test_a_threshold_leaves_out_who_is_not_sure_enough(files):
    """A fresh policy is sure by some 0.95 of everybody."""
    clients = [moved(0.1 * i) for i in (1, 2, 3)]
    kept = {}
    for threshold in (None, 0.99):
        each = load_defender(files, apply=apply, root=(X, Y), threshold=threshold)
        kept[threshold] = each.aggregate(each.init(MODEL), MODEL, clients)[2]["kept"]
    assert len(kept[None]) == 3 and len(kept[0.99]) == 1  # the likeliest of them
    with pytest.raises(ConfigError, match="threshold = 1"):
        load_defender(files, threshold=1.0)


def test_a_least_trim_drops_the_outermost_of_the_kept(files):
    """Two of five at each side leave the middle one; without it the others count too."""
    clients = [moved(by) for by in (0.1, 0.11, 0.12, 0.3, 0.4)]
    moves = {}
    for trim in (None, 0.4):
        each = load_defender(files, apply=apply, root=(X, Y), trim=trim)
        model, _, report = each.aggregate(each.init(MODEL), MODEL, clients)
        moves[trim] = model["out/w"] - MODEL["out/w"]
        assert len(report["kept"]) == 5
    np.testing.assert_allclose(moves[0.4], 0.12, atol=1e-5)
    assert (moves[None] > 0.13).all()
    with pytest.raises(ConfigError, match=r"trim = 0\.5: from 0 to 0\.45"):
        load_defender(files, trim=0.5)


@pytest.mark.parametrize(
    ("hostile", "why"),
    [
        (moved(np.nan), "not finite"),
        (moved(np.float32(1e30)), "too large"),
        ({**MODEL, "out/w": np.zeros((4, 9), np.float32)}, "out/w has shape"),
        ({"a": np.ones(3)}, "other structure"),
        ({**MODEL, "out/b": np.array(["x", "y", "z"])}, "out/b holds"),
        ({**MODEL, "out/b": np.array([object()] * 3)}, "out/b holds"),
        ({**MODEL, "out/b": np.ones(3, complex)}, "out/b holds"),
        (None, "other structure"),
    ],
)
def test_a_hostile_client_is_left_out_and_named(blind, hostile, why):
    clients = [moved(0.1), hostile, moved(0.1), moved(0.1)]
    model, _, report = blind.aggregate(blind.init(MODEL), MODEL, clients)
    assert list(report["rejected"]) == [1] and why in report["rejected"][1]
    np.testing.assert_allclose(model["out/b"], 0.1, rtol=1e-4)


def test_whatever_a_client_sends_is_named_and_raises_nothing(blind):
    """All that ``receive`` refuses by name, at once; and what stands where a counter is."""
    model = {"bias": np.zeros(3, np.float32), "seen": np.int32(5)}
    hostile = [{**model, "bias": leaf} for leaf in HOSTILE_LEAVES.values()]
    hostile += [{**model, "seen": bad} for bad in (np.nan, 3.0, 2**40, "5", HOSTILE_LEAVES["keys"])]
    hostile += HOSTILE_TREES.values()
    honest = [{"bias": np.full(3, 0.1, np.float32), "seen": np.int32(9)}] * 3
    new, _, report = blind.aggregate(blind.init(model), model, [*honest, *hostile])
    assert list(report["rejected"]) == list(range(3, 3 + len(hostile)))
    assert all(why.startswith("model: ") for why in report["rejected"].values())
    np.testing.assert_allclose(new["bias"], 0.1, rtol=1e-4)
    assert new["seen"] == 9 and new["seen"].dtype == np.int32


def test_a_root_model_that_diverged_is_left_out_and_said(blind):
    clients = [moved(0.1)] * 3
    model, _, report = blind.aggregate(
        blind.init(MODEL), MODEL, clients, root_params=moved(np.float32(np.nan))
    )
    np.testing.assert_allclose(model["out/b"], 0.1, rtol=1e-4)
    assert "root" in report["missing"] and "root_params not used" in report["note"]


def test_a_model_of_float64_keeps_its_digits(blind):
    """The row is float32, the model that it is taken from is not."""
    model = {"w": np.full((3, 2), 1 + 1e-12)}
    new, _, _ = blind.aggregate(blind.init(model), model, [model] * 3)
    np.testing.assert_array_equal(new["w"], model["w"])


def test_one_defender_serves_models_of_other_kinds(blind):
    """Models share names and shapes: what comes back is of the kind that was given."""
    for kind in (np.float32, np.float64):
        model = {"w": np.zeros((3, 2), kind), "n": np.array([1, 2])}
        new, _, _ = blind.aggregate(blind.init(model), model, [model] * 2)
        assert new["w"].dtype == kind and new["n"].dtype == np.int64
    model = {"w": np.zeros((3, 2), np.float32), "n": np.array([1.0, 2.0])}
    new, _, _ = blind.aggregate(blind.init(model), model, [model] * 2)
    assert new["n"].dtype == np.float64


def test_when_nothing_usable_came_the_model_stays(blind):
    model, _, report = blind.aggregate(blind.init(MODEL), MODEL, [None, moved(np.inf)])
    assert "stays as it was" in report["note"] and report["kept"] == []
    np.testing.assert_array_equal(model["out/w"], MODEL["out/w"])


@pytest.mark.parametrize("clients", [[MODEL] * 3, [moved(0.0)] * 2, [moved(0.1)]])
def test_rounds_of_one_kind_are_finite(blind, clients):
    """All rows zero, all alike, and one client alone."""
    model, _, report = blind.aggregate(blind.init(MODEL), MODEL, clients)
    assert all(np.isfinite(leaf).all() for leaf in model.values())
    assert np.isfinite(list(report["trust"].values())).all()


def test_a_claim_of_many_images_does_not_buy_the_round(blind):
    clients = [moved(0.1), moved(0.1), moved(-0.1)]
    model, _, _ = blind.aggregate(blind.init(MODEL), MODEL, clients, weights=[1, 1, 1e9])
    assert -0.01 <= model["out/b"][0] < 0.1


def test_counters_and_low_precision_keep_their_kinds(blind):
    """Whole numbers are no part of any distance, and are averaged over those that are kept."""
    model = {"w": jnp.zeros((3, 2), jnp.bfloat16), "seen": np.int64(5), "on": np.array(True)}
    clients = [
        {"w": jnp.full((3, 2), v, jnp.bfloat16), "seen": np.int64(s), "on": np.array(True)}
        for v, s in ((0.5, 10**12), (0.5, 10**12 + 2))
    ]
    new, _, report = blind.aggregate(blind.init(model), model, clients)
    assert new["w"].dtype == jnp.bfloat16 and new["seen"].dtype == np.int64
    assert int(new["seen"]) == 10**12 + 1 and bool(new["on"])
    assert np.asarray(new["w"], np.float32).min() > 0.3 and len(report["kept"]) == 2


class Tensor:
    """What is used of a PyTorch tensor, and its way of making another."""

    def __init__(self, array):
        self.array, self.dtype, self.shape = np.asarray(array), "float32", np.shape(array)

    def detach(self):
        return self

    cpu = detach

    def numpy(self):
        return self.array

    def new_empty(self, shape):
        return Tensor(np.empty(shape, np.float32))

    def new_tensor(self, array, dtype):
        return Tensor(array)


def test_tensors_come_back_as_tensors(blind):
    model = {k: Tensor(v) for k, v in MODEL.items()}
    clients = [{k: Tensor(v + 0.1) for k, v in MODEL.items()} for _ in range(3)]
    new, _, _ = blind.aggregate(blind.init(model), model, clients)
    assert isinstance(new["out/b"], Tensor)
    np.testing.assert_allclose(new["out/b"].numpy(), 0.1, rtol=1e-4)


def test_a_state_is_a_pytree_of_arrays_and_goes_on(blind):
    """Saved as NumPy arrays in mid-run, it gives the same next round."""
    rounds = [[moved(0.1 * i + t) for i in range(3)] for t in range(2)]
    state = blind.init(MODEL)
    _, state, _ = blind.aggregate(state, MODEL, rounds[0], client_ids=["a", "b", "c"])
    leaves, treedef = jax.tree.flatten(state)
    again = jax.tree.unflatten(treedef, [np.array(leaf) for leaf in leaves])
    first = blind.aggregate(state, MODEL, rounds[1], client_ids=["c", "d", "a"])
    second = blind.aggregate(again, MODEL, rounds[1], client_ids=["c", "d", "a"])
    for a, b in zip(jax.tree.leaves(first[:2]), jax.tree.leaves(second[:2]), strict=True):
        np.testing.assert_array_equal(a, b)
    counts = np.asarray(first[1].memory.counts)
    assert sorted(counts[counts > 0].tolist()) == [1, 1, 2, 2]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (dict(client_params=[]), "at least one model"),
        (dict(client_ids=[1]), "1 of them, not one for each of 2"),
        (dict(client_ids=[1, 1]), "1 is given twice"),
        (dict(client_ids=[1.5, 2.5]), "an integer, a string, bytes"),
        (dict(client_ids=[[1], [2]]), "an integer, a string, bytes"),
        (dict(weights=["1", "2"]), "weights.0. = 1: a real number"),
        (dict(weights=[1, 1e-46]), "weights.1. = 1e-46: 0 or at least"),
        (dict(weights=[1, -1]), "at least 0 and finite"),
        (dict(weights=[0, 0]), "all 0"),
        (dict(params={"other": np.ones(2)}), "not the model that the state was begun for"),
        (dict(params=moved(np.nan)), "not finite"),
        (dict(root_params={"other": np.ones(2)}), "root_params: other structure"),
    ],
)
def test_a_wrong_call_is_told(blind, arguments, error):
    call = {"params": MODEL, "client_params": [moved(0.1)] * 2, **arguments}
    with pytest.raises(ConfigError, match=error):
        blind.aggregate(blind.init(MODEL), call.pop("params"), call.pop("client_params"), **call)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (dict(apply=apply), "apply is of use with the other"),
        (dict(apply=apply, root=(X, Y[:3])), "one label an image"),
        (dict(apply=apply, root=(X, Y + 0.5)), "whole numbers"),
        (dict(apply=apply, root=(X, Y + 7)), "a label 9, but 3 classes"),
        (dict(apply=lambda p, x: float(x[0, 0]), root=(X, Y)), "it fails on this model"),
        (dict(apply=lambda p, x: x[0], root=(X, Y)), "logits of shape"),
        (dict(last="head"), "last = 'head': one of layer/b"),
    ],
)
def test_wrong_root_data_are_told(files, arguments, error):
    with pytest.raises(ConfigError, match=error):
        load_defender(files, **arguments).init(MODEL)


def test_slots_of_those_seen_longest_ago_are_given_away():
    ids, seen = np.zeros((3, 2), np.uint32), np.full(3, -1, np.int32)
    _, fresh, ids, seen = assign(ids, seen, ["a", "b", 3], 0)
    assert fresh.all()
    slots, fresh, ids, seen = assign(ids, seen, [np.int64(3), "a"], 1)
    assert not fresh.any()
    after, fresh, ids, seen = assign(ids, seen, ["new"], 2)
    assert fresh.tolist() == [True] and after[0] not in slots
    with pytest.raises(ConfigError, match="4 clients but 3 slots"):
        assign(ids, seen, list("wxyz"), 3)


def test_ids_that_differ_have_other_fingerprints():
    kinds = [1, "1", b"1", (1,), 2**32 + 1, -1, (1, 1), "a", ("a",)]
    assert len({fingerprint(each) for each in kinds}) == len(kinds)
    assert fingerprint(7) == fingerprint(np.uint64(7))


def test_files_come_back_as_they_were(files):
    player, card = read_defender(files)
    assert card["trained_on"] == {"worlds": []} and player.greedy
    assert float(player.params["network"]["trust"]["bias"][0]) == 3.0


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda card: {**card, "features": "other"}, "trained on features 'other'"),
        (lambda card: {**card, "format": 9}, "format 9"),
        (lambda card: {**card, "policy": {"x": 1}}, "names no policy"),
        (lambda card: {**card, "policy": {**card["policy"], "hidden": [5, 4]}}, "not \\("),
    ],
)
def test_files_that_do_not_fit_are_refused(files, tmp_path, change, error):
    card = read_json(files / CARD)
    (tmp_path / CARD).write_text(json.dumps(change(card)))
    (tmp_path / WEIGHTS).write_bytes((files / WEIGHTS).read_bytes())
    with pytest.raises(CheckpointError, match=error):
        read_defender(tmp_path)


def test_damaged_weights_are_refused(files, tmp_path):
    (tmp_path / CARD).write_bytes((files / CARD).read_bytes())
    (tmp_path / WEIGHTS).write_bytes((files / WEIGHTS).read_bytes()[:100])
    with pytest.raises(CheckpointError, match="can't be read"):
        load_defender(tmp_path)


def test_a_name_that_is_not_there_lists_those_that_are(tmp_path):
    with pytest.raises(UnknownNameError, match="v1"):
        load_defender("v9")
    with pytest.raises(CheckpointError, match="no defender"):
        load_defender(tmp_path)


def test_what_is_shipped_is_small_and_its_card_says_what_it_is():
    assert "v1" in shipped()
    defender = load_defender("v1")
    assert {"trained_on", "judged_on", "not_for", "summary"} <= set(defender.card)


def test_the_pure_step_is_what_aggregate_takes(blind):
    """Slots, an update to subtract, and a state: the same round by both ways."""
    from metasg_jax.fl import receive

    clients = [moved(0.1 * i) for i in range(1, 5)]
    model, _, _ = blind.aggregate(blind.init(MODEL), MODEL, clients, client_ids=[0, 1, 2, 3])
    got = receive(MODEL, clients)
    update, state, info = blind.step(blind.init(MODEL), got, server=blind.server(MODEL))
    assert info["kept"].all() and int(state.round) == 1
    flat = np.concatenate([model[k].ravel() for k in sorted(model)])
    np.testing.assert_allclose(flat, got.w_global - update, rtol=1e-4, atol=1e-6)


def test_the_pure_step_refuses_ids_that_are_no_slots(files):
    """The memory would read and write another client's."""
    from metasg_jax.fl import receive

    defender = load_defender(files, num_slots=4)
    got = receive(MODEL, [moved(0.1)] * 2, client_ids=[3, 4])
    with pytest.raises(ConfigError, match="client_ids: 4 is no slot: from 0 to 3"):
        defender.step(defender.init(MODEL), got, server=defender.server(MODEL))


@pytest.mark.parametrize("position", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("name", [CARD, WEIGHTS])
def test_a_flipped_byte_of_a_defender_is_refused(files, tmp_path, name, position):
    for each in (CARD, WEIGHTS):
        (tmp_path / each).write_bytes((files / each).read_bytes())
    content = bytearray((tmp_path / name).read_bytes())
    content[int(position * len(content))] ^= 1
    (tmp_path / name).write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        load_defender(tmp_path)
