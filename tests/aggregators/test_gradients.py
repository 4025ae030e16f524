"""Derivatives of every rule: finite wherever its value is, and those of its NumPy statement."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metasg_jax.aggregators import AGGREGATORS, FLTrust, Mean, TrustedTrimmedMean
from metasg_jax.aggregators.geometry import mixture
from metasg_jax.aggregators.norms import clip_factors
from metasg_jax.aggregators.order import MAX_NETWORK, median_window, order_statistics
from metasg_jax.numerics import ratio, row_norms
from tests.aggregators import oracles
from tests.aggregators.every_rule import RULES, D, N, jitted, without
from tests.rounds import honest_round, round_of, with_rows, with_weights

RNG = np.random.default_rng(5)
# what a later loss makes of the update: of one sign and above 1, or stand-ins for absent values,
# which are as large as floats get, may cancel or stay finite where in a longer row they don't
COTANGENT = (3 + np.abs(RNG.normal(size=D))).astype(np.float32)
ABSENT = [0, 4]
ROOTS = {"nan": np.nan, "inf": np.inf, "too long": 1e25, "huge": 1e18, "tiny": 1e-25, "zero": 0.0}


def degenerate_rounds():
    got = honest_round(weights=np.arange(1.0, N + 1))
    rows, root = got.updates, got.root_update
    yield "as it should be", got
    for poison in (np.nan, np.inf, -np.inf, 1e25, 1e38):
        yield f"absent, {poison}", with_rows(got, ABSENT, poison)
    yield "absent, one nan", with_rows(got, (ABSENT, 2), np.nan)
    yield "absent, weight 0", with_weights(with_rows(got, ABSENT, np.nan), ABSENT, 0.0)
    yield "nobody", with_weights(got, slice(None), 0.0)
    yield "nobody usable", with_rows(got, slice(None), np.nan)
    yield "zero", with_rows(got, slice(None), 0.0)
    yield "zero but three", with_rows(got, slice(3, None), 0.0)
    yield "one zero", with_rows(got, 3, 0.0)
    yield "equal", with_rows(got, slice(None), rows[0])
    yield "two equal", with_rows(got, 3, rows[0])
    for size in (1e9, 1e15, 6.6e18):
        yield f"huge, {size:g}", with_rows(got, slice(2), size)
    yield "all huge", got.replace(updates=rows * np.float32(1e18))
    yield "all tiny", got.replace(updates=rows * np.float32(1e-25))
    for kind, factor in ROOTS.items():
        yield f"root {kind}", got.replace(root_update=root * np.float32(factor))
    root = np.where(np.arange(D) == 2, np.float32(np.nan), root)
    yield "root with one nan", got.replace(root_update=root)


ROUNDS = dict(degenerate_rounds())


def actions_of(rule):
    """None for a fixed rule; else knobs within their range and at both ends."""
    size, trust = len(rule.action_spec), [0.5] * N if rule.per_client else []
    corners = [[0.3] * size, [1.0] + [-1.0] * (size - 1), [-1.0] + [1.0] * (size - 1)]
    return [np.float32([*trust, *knobs]) for knobs in corners] if size else [None]


def inputs_of(got, action):
    """What a rule is differentiated by."""
    return {
        "rows": got.updates, "root": got.root_update, "weights": got.weights,
        **({} if action is None else {"action": action}),
    }  # fmt: skip


@jax.jit
def derivatives(rule, got, inputs, tangents):
    """(update, the gradient of its product with COTANGENT, its change along the tangents)."""

    def update_of(inputs):
        received = got.replace(
            updates=inputs["rows"], root_update=inputs["root"], weights=inputs["weights"]
        )
        state = rule.init(N, D)
        return rule(jax.random.key(1), state, received, inputs.get("action"))[0]

    update, pull = jax.vjp(update_of, inputs)
    _, change = jax.jvp(update_of, (inputs,), (tangents,))
    return update, pull(jnp.asarray(COTANGENT))[0], change


def directions(inputs, seed=0):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=x.shape).astype(np.float32) for name, x in inputs.items()}


@pytest.mark.parametrize("name", RULES)
def test_derivatives_are_finite_wherever_the_value_is(name):
    """Reverse and forward, by rows, weights, root update and knobs; so is the value."""
    rule = RULES[name]()
    for kind, got in ROUNDS.items():
        for action in actions_of(rule):
            inputs = inputs_of(got, action)
            update, gradient, change = derivatives(rule, got, inputs, directions(inputs))
            assert np.isfinite(update).all(), kind
            assert np.isfinite(change).all(), kind
            for of, values in gradient.items():
                assert np.isfinite(values).all(), (kind, of)
            # what was left out moves nothing
            if kind.startswith("absent"):
                np.testing.assert_array_equal(gradient["rows"][np.array(ABSENT)], 0.0, kind)


# Its weights are held fast in the derivative, by design: see the rule.
HELD = {"geometric_median"}


def moves(inputs, num_trust):
    """(what is moved, along what, how far): knobs one at a time, in steps of the oracle's scale."""
    for part, along in directions(inputs, seed=3).items():
        if part != "action":
            yield part, along, 1e-6
    for knob in range(num_trust, len(inputs.get("action", ()))):
        yield "action", np.eye(len(inputs["action"]), dtype=np.float32)[knob], 1e-3


@pytest.mark.parametrize("kind", ["as it should be", "absent, nan"])
@pytest.mark.parametrize("name", [name for name in AGGREGATORS if name not in HELD])
def test_derivatives_are_those_of_finite_differences(name, kind):
    """The rule's statement is differenced in float64, over present rows, away from its kinks."""
    rule, got = RULES[name](), ROUNDS[kind]
    rule = rule.replace(**{k: 0.0 for k in ("sigma", "noise") if hasattr(rule, k)})
    absent = ABSENT if kind.startswith("absent") else []
    there = np.setdiff1d(np.arange(N), absent)
    spec, num_trust = rule.action_spec, N if rule.per_client else 0
    action = np.float32([*[1.0] * num_trust, *[0.29, -0.42, 0.2][: len(spec)]])
    inputs = inputs_of(got, action if spec else None)
    smaller = without(rule, len(absent))
    fields = {f.name: getattr(smaller, f.name) for f in dataclasses.fields(smaller)}

    def stated(part, along, step):
        at = {k: np.float64(x) for k, x in inputs.items()}
        at[part] = at[part] + step * along
        knobs = dict(zip(spec, np.round(at["action"][num_trust:], 6), strict=True)) if spec else {}
        return oracles.RULES[name](
            at["rows"][there], at["weights"][there], at["root"], **fields | knobs
        )

    for part, along, step in moves(inputs, num_trust):
        tangents = {k: np.zeros_like(x) for k, x in inputs.items()} | {part: along}
        _, gradient, change = derivatives(rule, got, inputs, tangents)
        expected = (stated(part, along, step) - stated(part, along, -step)) / (2 * step)
        scale = np.abs(expected).max() + 1e-3
        np.testing.assert_allclose(change, expected, rtol=2e-3, atol=2e-4 * scale, err_msg=part)
        product = np.vdot(np.float64(gradient[part]), along)
        np.testing.assert_allclose(product, COTANGENT @ expected, rtol=5e-3, atol=1e-3 * scale)


def slope_by_rows(update_of, rows):
    return jax.jit(jax.grad(lambda rows: update_of(rows).sum()))(jnp.asarray(rows))


def test_an_absent_row_leaves_the_other_slopes_as_they_are():
    """Those of the clipped trimmed mean were NaN, by the absent row's norm and its factor."""
    rule = RULES["clipped_trimmed_mean"]()
    rows = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    rows[2] = np.nan
    slopes = slope_by_rows(lambda u: rule(None, (), round_of(rows).replace(updates=u))[0], rows)
    right = [0.029283, 0.454545, 0.0, 0.531345, -0.028147]
    np.testing.assert_allclose(slopes[:, 0], right, atol=1e-5)


@pytest.mark.parametrize("root", [[np.nan, 1.0], [1e25, 1.0], [0.0, 0.0], [np.inf, -np.inf]])
def test_a_root_update_without_a_direction_is_trusted_by_nobody_and_spoils_nothing(root):
    got = round_of([[1.0, 2.0], [2.0, 1.0]], root=root)
    mean = TrustedTrimmedMean(clip=1.0, trim=-1.0, trust=-1.0)
    np.testing.assert_array_equal(jitted(FLTrust(), got)[0], 0.0)
    np.testing.assert_allclose(jitted(mean, got)[0], [1.5, 1.5], rtol=1e-6)
    blended = jitted(RULES["client_trust"]().replace(own=0.0), got)[0]
    np.testing.assert_allclose(blended, [0.75, 0.75] if root[0] == 0 else [1.5, 1.5], rtol=1e-6)


def test_the_ways_of_many_rows_have_finite_slopes_too():
    """A product in place of a sum, counting in place of a network; both sides of a cond by vmap."""
    rows = np.random.default_rng(1).normal(size=(2, MAX_NETWORK + 1, 3)).astype(np.float32)
    rows[0, 5] = np.nan
    present = np.isfinite(rows).all(axis=2)

    def update_of(rows, present):
        factors = clip_factors(jnp.where(present, row_norms(rows), 0.0), 0.5)
        middle = order_statistics(rows, present, median_window(present), factors)
        return middle + mixture(present * factors, rows, present)

    slope = jax.jit(jax.vmap(jax.grad(lambda *a: update_of(*a).sum()), in_axes=(0, 0)))
    slopes = np.asarray(slope(rows, present))
    assert np.isfinite(slopes).all() and (slopes[0, 5] == 0).all()
    assert np.abs(slopes[1]).max() > 1e-3


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e19, 1e30])
def test_a_ratio_has_its_slopes_wherever_it_is_finite(size):
    slopes = jax.grad(ratio, (0, 1))(jnp.float32(2 * size), jnp.float32(size))
    np.testing.assert_allclose(slopes, [1 / size, -2 / size], rtol=1e-6)


def test_equal_shares_of_nothing_have_no_slope():
    """A round in which nobody is present: its update is 0, whatever the weights are."""
    got = with_weights(honest_round(), slice(None), 0.0)
    slope = slope_by_rows(lambda w: Mean()(None, (), got.replace(weights=w))[0], got.weights)
    np.testing.assert_array_equal(slope, 0.0)
