"""The outside federation itself is right, on digits with a small perceptron."""

import json

import numpy as np
import pytest

from tests.outside import run
from tests.outside.attacks import ATTACKS
from tests.outside.federation import (
    ConvNet,
    Federation,
    Learner,
    Perceptron,
    deal,
    dice,
    uneven_sizes,
)
from tests.outside.rules import RULES, Shipped

ROUNDS = 12


@pytest.fixture(scope="module")
def federation():
    pictures = run.pictures_of("digits")
    model = Perceptron(pictures.train_x.shape[1:], hidden=32)
    return Federation(
        pictures,
        model,
        clients=20,
        sampled=6,
        malicious_share=0.3,
        alpha=1.0,
        images=1200,
        root=100,
    )


def play(federation, rule, attack="none", rounds=ROUNDS):
    rule = RULES[rule]() if isinstance(rule, str) else rule
    return federation.run(rule, ATTACKS[attack](0, 10, rounds), rounds, judged=3)


def test_training_lowers_the_loss(federation):
    learner, client = federation.learner, federation.clients[0]
    before = federation.model.fresh(dice(0, 1))
    after = learner.train(before, *client.batches(0, 10, 20))
    lost = [float(learner.loss(m, client.images, client.labels)) for m in (before, after)]
    assert lost[1] < 0.7 * lost[0]
    assert {k: v.shape for k, v in after.items()} == {k: v.shape for k, v in before.items()}


def test_a_convnet_trains_too():
    rng = np.random.default_rng(0)
    net = ConvNet((8, 8, 1))
    before = net.fresh(rng)
    images = rng.integers(0, 256, (2, 4, 8, 8, 1)).astype(np.uint8)
    after = Learner(net, 0.5, 0.3, lr=0.1).train(before, images, np.ones((2, 4), np.int32))
    assert sorted(after) == sorted(before)
    assert all(np.abs(after[k] - before[k]).max() > 0 for k in before)


def test_clients_hold_different_numbers_of_different_images():
    labels = np.random.default_rng(0).integers(0, 10, 1500)
    sizes = uneven_sizes(12, 1500, np.random.default_rng(1))
    assert sizes.sum() == 1500 and sizes.min() >= 30 and sizes.max() > 2 * sizes.min()
    hands = deal(labels, sizes, 0.5, np.random.default_rng(2))
    assert [len(h) for h in hands] == list(sizes)
    assert sorted(np.concatenate(hands)) == list(range(1500))  # each image once, none left
    most = [np.bincount(labels[h]).max() / len(h) for h in hands]
    assert np.mean(most) > 0.25  # classes are shared out unevenly


def test_what_the_server_holds(federation):
    assert list(np.bincount(federation.root_y)) == [10] * 10
    ids = [c.id for c in federation.clients]
    assert len(set(ids)) == 20 and max(ids) > 2**63 and all(type(i) is int for i in ids)
    assert sum(c.malicious for c in federation.clients) == 6
    x, y = federation.root_for_defender()
    assert federation.model.apply(federation.model.fresh(dice(0, 1)), x).shape == (len(y), 10)


def test_sign_flip_breaks_the_mean_and_not_the_perfect_filter(federation):
    assert play(federation, "mean").accuracy > 0.8
    assert play(federation, "mean", "sign_flip").accuracy < 0.4
    perfect = play(federation, "perfect", "sign_flip")
    assert perfect.score == perfect.accuracy > 0.8
    assert (perfect.kept_honest, perfect.kept_malicious) == (1.0, 0.0)


def test_a_backdoor_gets_into_the_mean(federation):
    mean, perfect = (play(federation, rule, "backdoor") for rule in ("mean", "perfect"))
    assert mean.success > 0.7 > 0.3 > perfect.success
    assert mean.score == pytest.approx(mean.accuracy - mean.success)
    assert mean.accuracy > 0.7


@pytest.mark.parametrize("attack", ATTACKS)
def test_every_attack_changes_what_is_sent(federation, attack):
    class Keep(RULES["perfect"]):
        def aggregate(self, delivery):
            bad = np.array(delivery.malicious)
            rows = [np.concatenate([np.ravel(v) for v in m.values()]) for m in delivery.models]
            seen.extend(r for r, b in zip(rows, bad, strict=True) if b)
            return super().aggregate(delivery)

    seen = []
    play(federation, Keep(), attack, rounds=2)
    if attack == "none":
        assert not seen  # nobody is malicious
    else:
        honest, tampered = [], seen
        seen = honest

        class Harmless(ATTACKS["none"]):
            name = "harmless"

        federation.run(Keep(), Harmless(), 2, judged=1)
        assert len(honest) == len(tampered) > 0
        assert any(not np.array_equal(a, b) for a, b in zip(honest, tampered, strict=True))


def test_nan_stops_the_mean_alone(federation):
    assert play(federation, "mean", "nan").accuracy < 0.2
    for rule in ("median", "trimmed", "multi_krum", "fltrust", "root_only"):
        assert play(federation, rule, "nan").accuracy > 0.5


def test_late_backdoor_sleeps_until_the_middle():
    attack = ATTACKS["late_backdoor"](0, 10, 60)
    assert not attack.awake(29) and attack.awake(30)


def test_rules_meet_the_same_clients_batches_and_start(federation):
    mean, median = (play(federation, rule, "label_shift", 4) for rule in ("mean", "median"))
    assert mean.sampled == median.sampled
    assert len({tuple(ids) for ids in mean.sampled}) == 4
    client = federation.clients[3]
    again, later = client.batches(2, 10, 20), client.batches(3, 10, 20)
    np.testing.assert_array_equal(client.batches(2, 10, 20)[0], again[0])
    assert (again[1] != later[1]).any()
    np.testing.assert_array_equal(  # and the whole run
        play(federation, "mean", "random_direction", 3).final["w1"],
        play(federation, "mean", "random_direction", 3).final["w1"],
    )


class Stub:
    """The interface of a defender; keeps who has an even id."""

    def __init__(self, of):
        self.of = of

    def init(self, params):
        return 0

    def aggregate(self, state, params, client_params, *, client_ids, weights, root_params=None):
        assert len(client_params) == len(client_ids) == len(weights)
        assert (root_params is not None) == self.of
        trust = {i: float(i % 2 == 0) for i in client_ids}
        return (
            {k: np.mean([m[k] for m in client_params], 0) for k in params},
            state + 1,
            {"trust": trust},
        )


@pytest.mark.parametrize("own_model", [True, False])
def test_a_shipped_defender_is_called_as_documented(federation, own_model):
    rule = Shipped(Stub(own_model), own_model=own_model)
    outcome = play(federation, rule, rounds=5)
    assert rule.state == 5
    even = [i % 2 == 0 for ids in outcome.sampled for i in ids]
    assert outcome.kept_honest == pytest.approx(np.mean(even))


def test_the_runner_writes_what_it_prints(tmp_path, capsys):
    out = tmp_path / "scores.json"
    run.main(
        "--dataset digits --attacks none sign_flip --defences perfect mean --rounds 3 --clients 10 "
        f"--sampled 4 --images-per-client 80 --root 50 --out {out}".split()
    )
    whole = json.loads(out.read_text())
    assert [(r["attack"], r["defence"]) for r in whole["records"]] == [
        ("none", "perfect"),
        ("none", "mean"),
        ("sign_flip", "perfect"),
        ("sign_flip", "mean"),
    ]
    perfect = whole["summary"]["perfect"]
    assert perfect["regret_mean"] == 0 and perfect["kept_malicious"] in (0, None)
    printed = capsys.readouterr().out
    assert f"{whole['summary']['mean']['mean']:.3f}" in printed
