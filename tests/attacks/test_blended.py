"""Diluted attacks: what is sent lies on the line from honest to crafted, and sleepers are honest."""

import numpy as np
import pytest

from metasg_jax.attacks import BFL, IPM, BlendedBFL, BlendedIPM
from tests.worlds import attack_alone

PAIRS = [(BlendedBFL(fraction=0.8, boost=2.0), BFL(fraction=0.8, boost=2.0)),
         (BlendedIPM(scale=3.0), IPM(scale=3.0))]  # fmt: skip


def side(mix, acting):
    """An action that both sides read: mix and acting in [0, 1]."""
    return (2 * mix - 1, 2 * acting - 1, 0.0, 0.0)


@pytest.mark.slow
@pytest.mark.parametrize(("blended", "whole"), PAIRS, ids=["bfl", "ipm"])
def test_a_mixture_lies_between_honest_and_crafted(blended, whole):
    honest = attack_alone(blended, active=False)
    crafted = attack_alone(whole)
    for mix in (0.0, 0.25, 1.0):
        sent = attack_alone(blended, action=side(mix, 1.0))
        expected = honest[:2] + mix * (crafted[:2] - honest[:2])
        np.testing.assert_allclose(sent[:2], expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(sent[2:], honest[2:])
    assert np.abs(crafted[:2] - honest[:2]).max() > 1e-3


@pytest.mark.parametrize(("blended", "whole"), PAIRS, ids=["bfl", "ipm"])
def test_sleepers_send_honest_updates(blended, whole):
    """Half of two clients act: the first."""
    honest, crafted = attack_alone(blended, active=False), attack_alone(whole)
    sent = attack_alone(blended, action=side(1.0, 0.5))
    np.testing.assert_allclose(sent[0], crafted[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(sent[1], honest[1], rtol=1e-5, atol=1e-6)
