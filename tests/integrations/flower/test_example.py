"""The example's arguments and tables; what it deploys is played by hand, see docs/flower.md."""

import numpy as np
import pytest
from examples.flower import run
from examples.flower.page import page
from examples.flower.table import numbers, summary, table

from metasg_jax.errors import ConfigError


def result(strategy="FedAvg", seed=0, accuracy=0.5, **more):
    rounds = [
        {"round": i, "accuracy": accuracy, "attack_success": 0.25, "seconds": 9.0 if i < 3 else 2.0}
        for i in range(8)
    ]
    setting = {"form": "in process", "dataset": "mnist", "framework": "jax", "attack": "bfl"}
    return {
        "strategy": strategy, "seed": seed, "rounds": rounds, "defence": [5.0, 1.0, 0.5, 0.5, 0.5],
        "failed": "", "tally": {}, **setting, **more,
    }  # fmt: skip


def test_numbers_leave_out_the_rounds_that_compile():
    found = numbers(result())
    assert found == {"accuracy": 0.5, "success": 0.25, "seconds": 2.0, "defence": 0.5}


def test_tables_have_means_and_spreads_over_seeds():
    results = [result(seed=s, accuracy=a) for s, a in enumerate((0.4, 0.6))]
    (row,) = summary(results)
    assert row["accuracy"] == pytest.approx(0.5) and row["seeds"] == 2
    assert row["accuracy_sd"] == pytest.approx(np.std([0.4, 0.6], ddof=1))
    assert "0.500 ± 0.141" in table(results)
    stopped = result("Bulyan", failed="InconsistentMessageReplies: no")
    text = page("# Title\n\n**Bottom line.**", [*results, stopped])
    assert text.startswith("# Title") and "| FedAvg | 0.500 ± 0.141 | 0.250 ± 0.000 |" in text
    assert "Bulyan stopped: InconsistentMessageReplies: no" in text
    assert "attack success" not in page("", [result(attack="none")])
    several = [result(attack="none"), result("FedMedian", attack="none")]
    assert "| FedMedian |" in page("", several) and "attack success" not in page("", several)
    # who met an attack alone has a line, but for what a line can't say
    assert "| FedAvg, `ipm` |" in page("", [result(attack="ipm")])
    assert "attack success" in page("", [result()])
    assert "stopped: no" in page("", [result(attack="ipm", failed="no")])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("--strategies Mean", "--strategies Mean: of TrustedFedAvg, FedAvg"),
        ("--strategies Krum:v1", "--strategies Krum:v1: of .* or TrustedFedAvg:DEFENDER"),
        ("--malicious 10", "--malicious 10: from 0 to 9"),
    ],
)
def test_bad_arguments(given, said):
    with pytest.raises(ConfigError, match=said):
        run.arguments(given.split())


def test_only_the_first_nodes_are_hostile():
    args = run.arguments(["--malicious", "1"])
    assert run.node_config(args, "bfl", 0)["attack"] == "bfl"
    assert "attack" not in run.node_config(args, "bfl", 1)
    assert "attack" not in run.node_config(args, "none", 0)
    assert run.arguments(["--strategies", "all"]).strategies == list(run.STRATEGIES)


def test_a_federation_of_digits_in_process(tmp_path, capsys):
    """The clients, mods and strategies of the example itself, for a round."""
    out = tmp_path / "found.json"
    given = "--in-process --dataset digits --clients 4 --malicious 1 --images 60 --rounds 1"
    given += f" --strategies FedAvg --attacks sign_flip:scale=3 --work {tmp_path} --out {out}"
    run.main(given.split())
    printed = capsys.readouterr().out
    assert "sign_flip:scale=3" in printed and "FedAvg" in printed
    run.main(given.split())  # what is there is not played again
    assert capsys.readouterr().out.count("FedAvg") == 1
