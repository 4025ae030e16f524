"""The strategy inside Flower's own loop: what it keeps, averages, counts and refuses."""

import json
from collections import OrderedDict

import numpy as np
import pytest
from flwr.app import ArrayRecord, MetricRecord
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg, FedMedian, Krum
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords

from metasg_jax.defender import save_defender
from metasg_jax.defender.files import CARD, find, read_defender
from metasg_jax.errors import CheckpointError, ConfigError
from metasg_jax.integrations.flower import (
    InProcessGrid,
    RootSGD,
    TrustedFedAvg,
    poison,
    to_params,
    to_record,
)
from tests.integrations.flower.world import (
    MODEL,
    NODES,
    ROOT,
    accuracy,
    answer,
    apply,
    client_app,
    number_of,
    record,
)

FEW = {"fraction_evaluate": 0.0, "min_train_nodes": NODES}


def play(strategy, app=None, rounds=3, seed=0, model=MODEL, **start):
    grid = InProcessGrid(app or client_app(), NODES, seed=seed)
    return strategy.start(grid, record(model), num_rounds=rounds, **start), grid


def hostile(attack="sign_flip:scale=3", count=2):
    return poison(lambda context: attack if number_of(context) < count else None)


def evil_nodes(grid, count=2):
    return {n for n, context in grid.contexts.items() if number_of(context) < count}


def test_flowers_loop_keeps_the_honest_and_names_the_others(seeing):
    strategy = TrustedFedAvg(defender=seeing, **FEW)
    result, grid = play(strategy, client_app(mods=[hostile()]), rounds=6)
    evil = evil_nodes(grid)
    assert set(strategy.tally.suspects()) == evil
    metrics = result.train_metrics_clientapp[6]
    for node in grid.get_node_ids():
        assert (metrics[f"trust/{node}"] < 0.5) == (node in evil)
    assert (metrics["clients-asked"], metrics["clients-kept"], metrics["clients-refused"]) == (
        6,
        4,
        0,
    )
    assert metrics["clients-left-out"] == 2 and metrics["defence-seconds"] > 0
    fooled, _ = play(FedAvg(**FEW), client_app(mods=[hostile()]), rounds=6)
    assert accuracy(result.arrays) > 0.8 > accuracy(fooled.arrays)
    assert max(grid.get_node_ids()) > 2**63  # beyond what JAX or a signed integer holds


def test_the_model_is_flowers_average_of_those_who_were_kept(blind):
    """Buffers and whole numbers too, but in the dtypes of the model."""
    sent = {}

    def weighing(message, context, own):
        weight = 90 if number_of(context) == 1 else 60
        sent[context.node_id] = answer(message, own, **{"num-examples": weight})
        return sent[context.node_id]

    strategy = TrustedFedAvg(defender=blind, **FEW)
    ours, _ = play(strategy, client_app(dict.fromkeys(range(NODES), weighing)), rounds=1)
    kept = strategy.report["kept"]
    assert len(kept) >= NODES - 1
    theirs = aggregate_arrayrecords([sent[node].content for node in kept], "num-examples")
    for name, array in ours.arrays.items():
        assert array.numpy().dtype == MODEL[name].dtype
        loose = 1e-5 if "norm" in name else 0.02  # the defender may trim parameters a little
        np.testing.assert_allclose(array.numpy(), theirs[name].numpy(), atol=loose, err_msg=name)
    assert ours.arrays["norm.num_batches_tracked"].numpy() == 5


def test_buffers_are_in_no_distance(blind):
    def shifted(message, context, own):
        own["norm.running_mean"] += 1e6
        own["norm.num_batches_tracked"] += 10**9
        return answer(message, own)

    honest, odd = TrustedFedAvg(defender=blind, **FEW), TrustedFedAvg(defender=blind, **FEW)
    play(honest, rounds=1)
    result, _ = play(odd, client_app({0: shifted}), rounds=1)
    assert odd.report["trust"] == honest.report["trust"]
    # and who is kept for an honest update can't carry the others' buffers away
    assert np.abs(result.arrays["norm.running_mean"].numpy()).max() < 100
    assert result.arrays["norm.num_batches_tracked"].numpy() == 5


def test_the_order_of_replies_changes_nothing(blind):
    first, second = (TrustedFedAvg(defender=blind, **FEW) for _ in range(2))
    a, grid = play(first, rounds=2)

    class Turned(InProcessGrid):
        def pull_messages(self, message_ids):
            return list(super().pull_messages(message_ids))[::-1]

    b = second.start(Turned(client_app(), NODES), record(MODEL), num_rounds=2)
    assert first.report["trust"] == second.report["trust"]
    for name in MODEL:
        np.testing.assert_array_equal(a.arrays[name].numpy(), b.arrays[name].numpy())


def test_detection_only_leaves_the_model_to_another_strategy(seeing):
    app = client_app(mods=[hostile()])
    strategy = TrustedFedAvg(defender=seeing, detect_only=True, strategy=FedMedian(**FEW), **FEW)
    watched, grid = play(strategy, app, rounds=3)
    alone, _ = play(FedMedian(**FEW), app, rounds=3)
    for name in MODEL:
        np.testing.assert_array_equal(watched.arrays[name].numpy(), alone.arrays[name].numpy())
    assert set(strategy.tally.suspects()) == evil_nodes(grid)
    plain = TrustedFedAvg(defender=seeing, detect_only=True, **FEW)
    watched, _ = play(plain, app, rounds=1)
    alone, _ = play(FedAvg(**FEW), app, rounds=1)
    np.testing.assert_allclose(
        watched.arrays["head.weight"].numpy(), alone.arrays["head.weight"].numpy(), rtol=1e-5
    )


def test_the_server_trains_on_its_own_images_or_receives_what_another_trained(seeing):
    given = []

    def train_root(arrays, round):
        given.append((round, list(arrays)))
        return {name: array - 0.01 for name, array in arrays.items()}

    strategy = TrustedFedAvg(defender=seeing, train_root=train_root, **FEW)
    play(strategy, rounds=2)
    assert given == [(1, list(MODEL)), (2, list(MODEL))]
    assert "root" not in strategy.report["missing"]
    strategy = TrustedFedAvg(root=ROOT, apply=apply, train_root=RootSGD(3, 0.1, 10), **FEW)
    strategy.defender = seeing  # the same, compiled already
    result, _ = play(strategy, rounds=1)
    assert result.train_metrics_clientapp[1]["root-seconds"] > 0
    assert "root" not in strategy.report["missing"]
    without = TrustedFedAvg(defender=seeing, **FEW)
    play(without, rounds=1)
    assert "root" in without.report["missing"]


def test_a_root_model_that_lacks_arrays_is_the_servers_fault(blind):
    strategy = TrustedFedAvg(defender=blind, train_root=lambda arrays, round: {}, **FEW)
    with pytest.raises(ConfigError, match=r"train_root: .* has no hidden\.weight"):
        play(strategy, rounds=1)


def test_a_model_of_jax_in_its_own_structure(blind):
    like = {"b": {"kernel": np.ones((4, 2), np.float32)}, "a": np.zeros(2, np.float32)}
    seen = []

    app = ClientApp()

    @app.train()
    def local(message, context):
        params = to_params(message.content["arrays"], like)
        seen.append(params["b"]["kernel"].shape)
        params = {"b": {"kernel": params["b"]["kernel"] - 0.1}, "a": params["a"] + 0.1}
        return answer(message, to_record(params))

    strategy = TrustedFedAvg(defender=blind, like=like, **FEW)
    result = strategy.start(InProcessGrid(app, NODES), to_record(like), num_rounds=1)
    assert list(result.arrays) == ["a", "b/kernel"] and set(seen) == {(4, 2)}
    np.testing.assert_allclose(result.arrays["b/kernel"].numpy(), 0.9, atol=1e-6)


def test_clients_metrics_are_averaged_over_those_who_were_kept(seeing):
    def boasting(message, context, own):
        turned = {n: 2 * MODEL[n] - a for n, a in own.items()}
        return answer(message, turned, loss=1e9)

    def decent(message, context, own):
        return answer(message, own, loss=1.0)

    app = client_app({i: boasting if i < 2 else decent for i in range(NODES)})
    strategy = TrustedFedAvg(defender=seeing, **FEW)
    result, _ = play(strategy, app, rounds=3)
    assert result.train_metrics_clientapp[3]["loss"] == pytest.approx(1.0)


def test_evaluation_survives_clients_that_report_nonsense(blind):
    app = client_app()

    @app.evaluate()
    def evaluate(message, context):
        if number_of(context) == 0:
            return answer(message, ArrayRecord(), accuracy=[1.0, 2.0])
        if number_of(context) == 1:
            raise ValueError("no")
        return answer(message, ArrayRecord(), accuracy=0.5)

    strategy = TrustedFedAvg(defender=blind, min_train_nodes=NODES, min_evaluate_nodes=NODES)
    result, _ = play(strategy, app, rounds=1)
    assert result.evaluate_metrics_clientapp[1]["accuracy"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"min_train_nodes": 1}, "min_train_nodes = 1: at least 2"),
        ({"strategy": FedAvg()}, "detect_only=True only"),
        ({"checkpoint_every": 0}, "checkpoint_every = 0: at least 1"),
        ({"train_root": RootSGD()}, "needs root and apply"),
        ({"apply": apply}, "apply is of use with the other only"),
    ],
)
def test_settings_that_do_not_fit(given, said):
    with pytest.raises(ConfigError, match=said):
        TrustedFedAvg(**given)


@pytest.mark.parametrize("given", [{"steps": 0}, {"batch_size": 0}, {"lr": 0.0}, {"lr": np.inf}])
def test_root_training_out_of_range(given):
    with pytest.raises(ConfigError, match=next(iter(given))):
        RootSGD(**given)


def test_a_defender_of_other_features_is_refused(tmp_path):
    save_defender(tmp_path, *read_defender(find("v1")))
    card = json.loads((tmp_path / CARD).read_text())
    card = {k: v for k, v in card.items() if k != "check"} | {"features": "of tomorrow"}
    (tmp_path / CARD).write_text(json.dumps(card))
    with pytest.raises(CheckpointError, match="features 'of tomorrow'"):
        TrustedFedAvg(defender=tmp_path)


def test_a_model_that_does_not_fit_is_refused_before_the_first_round():
    asked = []
    app = client_app({0: lambda *args: asked.append(args)})
    strategy = TrustedFedAvg(root=ROOT, apply=lambda p, x: x @ p["nothing"], **FEW)
    with pytest.raises(ConfigError, match="apply: it fails on this model"):
        play(strategy, app)
    with pytest.raises(ConfigError, match="no parameters among steps"):
        play(TrustedFedAvg(defender="v1", **FEW), model={"steps": np.array(3)})
    assert not asked


def test_a_server_that_changes_the_models_shape_is_told(blind):
    strategy = TrustedFedAvg(defender=blind, **FEW)
    play(strategy, rounds=1)
    wider = OrderedDict(MODEL, **{"head.bias": np.zeros(4, np.float32)})
    with pytest.raises(ConfigError, match="names or shapes are others than in the round before"):
        play(strategy, rounds=1, model=wider)


def test_no_root_data_works_and_says_what_it_costs(caplog):
    with caplog.at_level("WARNING", "flwr"):
        strategy = TrustedFedAvg(**FEW)
    assert "no root images" in caplog.text
    play(strategy, rounds=1)
    assert "root" in strategy.report["missing"]


def test_all_of_fedavgs_arguments_are_taken(blind):
    strategy = TrustedFedAvg(
        defender=blind,
        min_train_nodes=NODES,
        fraction_train=0.5,
        fraction_evaluate=0.0,
        weighted_by_key="size",
        arrayrecord_key="model",
        configrecord_key="settings",
        train_metrics_aggr_fn=lambda contents, key: MetricRecord({"mine": len(contents)}),
    )

    app = ClientApp()

    @app.train()
    def local(message, context):
        assert message.content["settings"]["server-round"] == 1
        return answer(message, message.content["model"], size=3)

    result = strategy.start(InProcessGrid(app, NODES), record(MODEL), num_rounds=1)
    metrics = result.train_metrics_clientapp[1]
    assert metrics["clients-asked"] == NODES and metrics["mine"] == metrics["clients-kept"]
    with pytest.raises(TypeError):
        TrustedFedAvg(fraction=0.5)


def test_krum_of_flower_runs_on_the_same_grid(blind):
    result, _ = play(Krum(num_malicious_nodes=1, **FEW), rounds=2)
    assert accuracy(result.arrays) > 0.3
