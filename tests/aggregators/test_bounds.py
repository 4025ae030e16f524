"""How far two malicious rows of ten can move each rule."""

import numpy as np
import pytest

from metasg_jax.aggregators import AGGREGATORS
from tests.aggregators.every_rule import RULES, D, attacked, update_of
from tests.rounds import honest_round, with_rows

# crfl bounds the model, not the update; client_trust without an action trusts everybody
ROBUST = sorted(set(RULES) - {"mean", "crfl", "client_trust"})


# 6.6e18 sqrt(7) is 1.75e19: the square is finite, the sum of two such squares is not
@pytest.mark.parametrize("size", [1e6, -1e6, 1e9, 6.6e18])
@pytest.mark.parametrize("name", ROBUST)
def test_two_of_ten_rows_do_not_break_a_robust_rule(name, size):
    update = update_of(RULES[name](), attacked(size))
    honest = np.linalg.norm(honest_round().updates, axis=1)
    assert np.linalg.norm(update) <= 1.01 * honest.max()


@pytest.mark.parametrize("size", [1e6, -1e6, 6.6e18])
@pytest.mark.parametrize("name", ["median", "trimmed_mean", "meamed", "bulyan"])
def test_order_statistics_stay_within_the_honest_range(name, size):
    update = update_of(RULES[name](), attacked(size))
    honest, slack = honest_round().updates[2:], 1e-6
    assert (update >= honest.min(axis=0) - slack).all()
    assert (update <= honest.max(axis=0) + slack).all()


def test_the_mean_breaks():
    """The control of the two tests above."""
    assert np.linalg.norm(update_of(AGGREGATORS["mean"](), attacked(1e6))) > 1e5


def near(times, coordinates=False):
    """At most ``times`` the diameter of the honest rows away from their mean.

    Where a rule works on one coordinate at a time, that holds of each, hence sqrt(d) in all.
    """

    def bound(rule, honest, got):
        diameter = np.linalg.norm(honest[:, None] - honest[None], axis=2).max()
        return honest.mean(axis=0), times * diameter * (np.sqrt(D) if coordinates else 1.0)

    return bound


def within(radius):
    """At most that long, with ``radius(rule, the honest rows' largest norm, round)``."""

    def bound(rule, honest, got):
        return np.zeros(D), radius(rule, np.linalg.norm(honest, axis=1).max(), got)

    return bound


def noise(sigma):
    """A normal vector's norm; 4 deviations of it above sqrt(d)."""
    return sigma * (np.sqrt(D) + 4)


# What a rule keeps to if two of its ten rows are malicious (Bulyan, one); none for the mean.
# A row that Krum chooses has five of its six nearest among the honest, and no larger score than
# one of these: 6 diameters^2. So it is sqrt(6 / 5) diameters from an honest row, 2.1 from the mean.
BOUNDS = {
    "median": near(1, coordinates=True),
    "trimmed_mean": near(1, coordinates=True),
    # the values nearest to the median: as near as the honest ones
    "meamed": near(2, coordinates=True),
    "bulyan": near(2, coordinates=True),
    "krum": near(2.1),
    "multi_krum": near(2.1),
    "mda": near(2),
    # 2 (n - f) / (n - 2f) times the largest distance of an honest row: Cohen et al. 2016, lemma 24
    "geometric_median": near(2.7),
    "clipped_trimmed_mean": within(lambda rule, honest, got: np.sqrt(D) * honest),
    "trusted_trimmed_mean": within(
        lambda rule, honest, got: 0.5 * np.sqrt(D) * honest + 0.5 * np.linalg.norm(got.root_update)
    ),
    "clipped_median": within(lambda rule, honest, got: np.sqrt(D) * rule.max_norm),
    "norm_bound": within(lambda rule, honest, got: rule.max_norm),
    "weak_dp": within(lambda rule, honest, got: rule.max_norm + noise(rule.sigma)),
    # of the model, here the same as of the update: the global model is 0
    "crfl": within(lambda rule, honest, got: rule.max_norm + noise(rule.sigma)),
    # from the last result, here 0
    "centered_clip": within(lambda rule, honest, got: rule.iterations * rule.max_norm),
    "fltrust": within(lambda rule, honest, got: np.linalg.norm(got.root_update)),
    "sign_majority": within(lambda rule, honest, got: rule.scale * np.sqrt(D)),
    # only because malicious rows are alike here: a far row that is like no other is bounded by none
    "foolsgold": within(lambda rule, honest, got: honest),
    # the median of all norms is at most the honest maximum
    "flame": within(lambda rule, honest, got: honest * (1 + noise(rule.noise))),
    "deepsight": within(lambda rule, honest, got: honest),
    # a mixed honest row is a diameter from the row itself: three between two of them, one more
    "nnm+krum": near(2.1 * 3 + 1),
    "clipping+krum": within(lambda rule, honest, got: rule.pre[0].max_norm),
    "bucketing+median": near(1, coordinates=True),
    "nnm+clipped_trimmed_mean": within(lambda rule, honest, got: 3 * np.sqrt(D) * honest),
}
HOSTILE = {
    "nan": np.nan,
    "inf": np.inf,
    "-inf": -np.inf,
    "1e38": 1e38,
    "zeros": 0.0,
    "identical": 1e6 * np.array([1.0, -1.0, 2.0, -2.0, 0.5, 1.5, -3.0]),
    "identical and near": -3.0,
    "copies of an honest row": honest_round().updates[7],
}


def hostile_round(rule, kind):
    """(the round, its honest rows): the first rows are malicious, as many as are tolerated."""
    malicious, got = int(getattr(rule, "f", 2)), honest_round()
    return with_rows(got, slice(malicious), HOSTILE[kind]), got.updates[malicious:]


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("name", BOUNDS)
def test_hostile_rows_move_a_rule_within_its_bound(name, kind):
    rule = RULES[name]()
    got, honest = hostile_round(rule, kind)
    centre, radius = BOUNDS[name](rule, honest, got)
    assert np.linalg.norm(update_of(rule, got) - centre) <= radius * (1 + 1e-3)


def test_every_rule_but_the_mean_has_a_bound():
    """And ``client_trust``, which is the mean until somebody says whom to trust."""
    assert set(BOUNDS) == set(RULES) - {"mean", "client_trust"}


def test_no_bound_holds_for_the_mean():
    """The control: two finite rows are enough, and two that aren't finite do nothing."""
    mean = RULES["mean"]()
    for name, bound in BOUNDS.items():
        rule = RULES[name]()
        got, honest = hostile_round(rule, "identical")
        centre, radius = bound(rule, honest, got)
        assert np.linalg.norm(update_of(mean, got) - centre) > 100 * radius, name
    for kind in ("nan", "inf", "-inf", "1e38"):
        got, honest = hostile_round(mean, kind)
        np.testing.assert_allclose(update_of(mean, got), honest.mean(axis=0), rtol=1e-5)
