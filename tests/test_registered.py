"""Experiments with registered settings: results belong to them, and their arithmetic is right."""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from metasg_jax.game import make_rule, parse_type
from metasg_jax.models import make_model

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "experiments"))

import card  # noqa: E402
import literature  # noqa: E402


def test_the_card_was_played_with_the_settings_that_are_registered():
    """Whoever changes a setting has to play the final worlds anew."""
    played = json.loads((ROOT / "docs" / "results" / "card.json").read_text())
    assert played == json.loads(json.dumps(dataclasses.asdict(card.Card())))


def test_final_worlds_are_neither_training_nor_selection_worlds():
    config = card.settings(card.Card(), "inversion")
    assert config.game.level == 0.9 and config.meta.adapt_steps == 0
    assert card.FINAL != card.SELECTION
    assert max(card.Card().training_seeds) < min(card.FINAL, card.SELECTION)


def test_references_by_hand():
    """Two worlds, two types, three actions: one is best on average, another for each type."""
    scores = np.array(
        [[[0.5, 0.9, 0.0], [0.5, 0.0, 0.8]], [[0.7, 0.9, 0.2], [0.5, 0.2, 0.8]]], float
    )
    q = np.array([0.5, 0.5])
    actions = np.array([[0.0], [1.0], [2.0]])
    best, per_type = card.chosen(scores, actions, q)
    assert best.tolist() == [0.0] and per_type.tolist() == [[1.0], [2.0]]
    fixed, oracle = card.hindsight({"hindsight": scores}, q)
    np.testing.assert_allclose(fixed, [[0.5, 0.5], [0.7, 0.5]])
    np.testing.assert_allclose(oracle, [[0.9, 0.8], [0.9, 0.8]])


@pytest.mark.parametrize(
    ("equal", "differences", "verdict"),
    [
        (False, [0.3, 0.31, 0.29, 0.3], "agrees"),
        (False, [0.05, 0.06, 0.05, 0.06], "**does not**"),  # below the margin
        (False, [0.9, -0.3, 0.9, -0.3], "undecided"),  # the interval holds 0
        (True, [0.01, -0.01, 0.0, 0.01], "agrees"),
        (True, [0.3, -0.3, 0.3, -0.3], "undecided"),  # too uncertain to be called equal
        (True, [0.2, 0.21, 0.2, 0.21], "**does not**"),
    ],
)
def test_verdicts(equal, differences, verdict):
    claim = dataclasses.replace(literature.CLAIMS[0], margin=0.1, equal=equal)
    assert literature.verdict(claim, np.array(differences))[1] == verdict


def test_every_claim_can_be_played():
    model = make_model("mlp", (14, 14, 1), 10, (64,))
    for claim in literature.CLAIMS:
        assert claim.high.world == claim.low.world and claim.quantity in ("accuracy", "asr")
        for cell in (claim.high, claim.low):
            fl, _ = literature.WORLDS[cell.world]
            parse_type(cell.attack, fl.num_clients)
            make_rule(cell.rule, fl.num_sampled, cell.share, model)
