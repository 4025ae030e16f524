"""Experiments with registered settings: results belong to them, and their arithmetic is right."""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from metasg_jax.cli import parse_pretrain
from metasg_jax.game import make_rule, parse_type
from metasg_jax.models import make_model

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "experiments"))

import actions  # noqa: E402
import card  # noqa: E402
import colluders  # noqa: E402
import gap_map  # noqa: E402
import literature  # noqa: E402
import methods  # noqa: E402
import paper_setting  # noqa: E402
import switching  # noqa: E402
import transfer  # noqa: E402
import unknown  # noqa: E402
from study.program import settings  # noqa: E402
from study.training import LEARNERS, command  # noqa: E402

from metasg_jax.evaluation.worlds import FINAL, SELECTION  # noqa: E402

EXPERIMENTS = {
    each.__name__: each.STUDIES
    for each in (
        actions,
        card,
        colluders,
        gap_map,
        methods,
        paper_setting,
        switching,
        transfer,
        unknown,
    )
}
PLAYED = [name for name in EXPERIMENTS if (ROOT / "docs/results" / f"{name}.json").is_file()]


@pytest.mark.parametrize("name", PLAYED)
def test_an_experiment_was_played_with_the_settings_that_are_registered(name):
    """Whoever changes a setting has to play the final worlds anew."""
    played = json.loads((ROOT / "docs" / "results" / f"{name}.json").read_text())
    assert played == settings(EXPERIMENTS[name])


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments_can_be_built(name):
    for study in EXPERIMENTS[name].values():
        study.world.game.check()
        for text in study.world.game.types + study.known:
            parse_type(text, study.world.fl.num_clients)
        assert len(study.training_seeds) >= 5 and study.final_worlds >= 2
        assert set(study.learners) <= set(LEARNERS)
        assert max(study.training_seeds) < min(FINAL, SELECTION) and FINAL != SELECTION


@pytest.mark.parametrize("name", LEARNERS)
def test_learners_are_told_what_the_command_line_knows(name):
    config = parse_pretrain(command(name, 7, Path("out"))[4:]).config
    assert config.seed == config.game.seed == 7 and config.steps == LEARNERS[name].steps
    assert config.game.observation == LEARNERS[name].observation
    for text in config.game.types:
        parse_type(text, config.fl.num_clients)


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
