"""Figure 2(b) on a residual network, small: its lines, and that a cut run goes on."""

import argparse
import dataclasses
import itertools
import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from metasg_jax.data import Dataset
from metasg_jax.presets.cpu import get_config

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))

import cifar10


@pytest.fixture
def toy(monkeypatch):
    """The stage of the figure with few, small images, five clients and ten rounds."""
    monkeypatch.setattr(cifar10, "RESNET", (2,))
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (400, 4, 4, 3), dtype=np.uint8)
    y = rng.integers(0, 10, 400).astype(np.int32)
    config = cifar10.stage(get_config("cifar10"), "resnet18")
    game = dataclasses.replace(
        config.game, num_root=20, num_validation=10, num_test=20, root_class_share=0.0
    )
    fl = dataclasses.replace(
        config.fl, num_clients=20, num_sampled=5, batch_size=4, local_steps=1, horizon=10
    )
    config = dataclasses.replace(config, game=game, fl=fl)
    return config, Dataset("cifar10", x[:350], y[:350], x[350:], y[350:], 10)


@pytest.mark.slow
def test_a_figure_that_was_cut_goes_on(toy, tmp_path, monkeypatch):
    path = tmp_path / "figure.json"
    args = argparse.Namespace(defender=["v3"], worlds=1, minutes=1.5)
    for lines in (["no attack"], ["no attack", "perfect filter"]):
        minutes = itertools.count()  # one goes by at each look
        clock = types.SimpleNamespace(monotonic=lambda m=minutes: 60.0 * next(m))
        monkeypatch.setattr(cifar10, "time", clock)
        found = cifar10.play_figure(*toy, args, path)
        played = {name: worlds for name, worlds in found.items() if worlds}
        assert list(played) == lines
        cifar10.draw_figure(found, path)  # of what there is
        assert path.with_suffix(".png").stat().st_size
        assert [name for name, worlds in json.loads(path.read_text()).items() if worlds] == lines
    [[[accuracy, success]]] = played["no attack"].values()
    assert 0 <= accuracy <= 1 and np.isnan(success)
    first, told = (worlds["310"] for worlds in played.values())
    assert np.isfinite(told).all() and told != first
