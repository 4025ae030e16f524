"""The experiment on the literature's claims: its verdicts are right, and its cells can be built."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest

from metasg_jax.game import make_rule, parse_type
from metasg_jax.models import make_model

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))

import literature


@pytest.mark.parametrize(
    ("equal", "differences", "verdict"),
    [
        (False, [0.3, 0.31, 0.29, 0.3], "agrees"),
        (False, [0.05, 0.06, 0.05, 0.06], "does not"),  # below the margin
        (False, [0.9, -0.3, 0.9, -0.3], "undecided"),  # the interval holds 0
        (True, [0.01, -0.01, 0.0, 0.01], "agrees"),
        (True, [0.3, -0.3, 0.3, -0.3], "undecided"),  # too uncertain to be called equal
        (True, [0.2, 0.21, 0.2, 0.21], "does not"),
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
