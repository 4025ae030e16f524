"""The known answers, found again by brute force in float64."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from metasg_jax.config import MetaConfig
from metasg_jax.errors import ConfigError
from metasg_jax.game.rollout import Player, init_normalizer, rollout_groups
from metasg_jax.policies import Categorical, Fixed, Gaussian
from metasg_jax.testing import (
    adapted_answer,
    best_response,
    commitment_game,
    double_well,
    double_well_answer,
    exact_meta_values,
    exact_values,
    first_order_gradient,
    leader_follower,
    leader_follower_answer,
    leader_gradient,
    leader_value,
    matrix_answer,
    matrix_game,
    perfect_bayesian_value,
    quadratic_fl,
    quadratic_fl_answer,
    two_types,
    two_types_answer,
)


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


# matrix games


def leader_grid(game, points=4001):
    """The leader's best first-row probability and value, ties in its favour, on a grid."""
    r_d, r_a = (
        np.asarray(a, np.float64)[0, 0]
        for a in (game.prior.types.reward_D, game.prior.types.reward_A)
    )
    p = np.linspace(0, 1, points)
    mix = np.stack([p, 1 - p], 1)
    follower, leader = mix @ r_a, mix @ r_d
    allowed = follower >= follower.max(axis=1, keepdims=True) - 1e-7
    values = np.where(allowed, leader, -np.inf).max(axis=1)
    return p[values.argmax()], values.max()


@pytest.mark.parametrize(
    ("game", "p", "value", "nash"),
    [(matrix_game, 0.375, 0.1, 0.1), (commitment_game, 0.5, 3.5 / 4, 2 / 4)],
)
def test_matrix_games(game, p, value, nash):
    answer = matrix_answer(game())
    np.testing.assert_allclose(
        (answer.first_row, answer.value, answer.nash), (p, value, nash), atol=1e-6
    )
    np.testing.assert_allclose(leader_grid(game()), (p, value), atol=1e-6)
    np.testing.assert_allclose(sigmoid(-answer.logit), answer.first_row, atol=1e-9)


def test_matrix_answers_of_random_games():
    rng = np.random.default_rng(0)
    for _ in range(30):
        game = matrix_game(*rng.normal(size=(2, 2, 2)))
        grid_p, grid_value = leader_grid(game)
        answer = matrix_answer(game)
        # the grid misses commitments of indifference by up to a cell
        assert grid_value <= answer.value + 1e-6
        assert abs(answer.value - grid_value) < 2e-3 or abs(answer.first_row - grid_p) < 1e-3


# two types


REWARDS = [[[0.5, -0.5], [0.5, -0.5]], [[-0.3, 0.7], [-0.7, 0.3]]]  # type, state, action
Q = (0.65, 0.35)


def after(k, s, a):
    return 1 - s if a == k else s


def memoryless(theta, k):
    """J_D of logits f64[..., 2] against type k's strong attack, H = 2."""
    p = sigmoid(theta)
    law, total = [0.5, 0.5], 0.0
    for _ in range(2):
        following = [0.0, 0.0]
        for s, a in itertools.product(range(2), repeat=2):
            mass = law[s] * (p[..., s] if a else 1 - p[..., s])
            total = total + mass * REWARDS[k][s][a]
            following[after(k, s, a)] = following[after(k, s, a)] + mass
        law = following
    return total


def adapted(theta, eta, batch):
    """V_s of two_types in float64, every ordered batch listed."""
    theta = np.asarray(theta, np.float64)
    p, total = sigmoid(theta), 0.0
    for k in range(2):
        chances, steps = [], []
        for s, a, b in itertools.product(range(2), repeat=3):
            second = after(k, s, a)
            r = REWARDS[k][s][a], REWARDS[k][second][b]
            chance, step = 0.5, np.zeros(2)
            for state, action, to_go in ((s, a, r[0] + r[1]), (second, b, r[1])):
                chance *= p[state] if action else 1 - p[state]
                step[state] += (action - p[state]) * to_go
            chances.append(chance)
            steps.append(step)
        index = np.array(list(itertools.product(range(8), repeat=batch)))
        weights = np.array(chances)[index].prod(axis=1)
        moved = theta + eta * np.array(steps)[index].mean(axis=1)
        total += Q[k] * (weights @ memoryless(moved, k))
    return total


def test_meta_equilibrium_beats_the_bayesian_stackelberg_equilibrium():
    answer = two_types_answer()
    grid = np.linspace(-12, 12, 41)
    thetas = np.array(list(itertools.product(grid, repeat=2)))
    fixed_policies = sum(q * memoryless(thetas, k) for k, q in enumerate(Q))
    np.testing.assert_allclose(fixed_policies.max(), answer.bse, atol=1e-4)
    # nothing in between is better than the corner that plays one arm throughout
    assert (fixed_policies <= answer.bse + 1e-6).all()
    constant = [sum(q * memoryless(np.full(2, x), k) for k, q in enumerate(Q)) for x in (-40, 40)]
    np.testing.assert_allclose(max(constant), answer.fixed, atol=1e-9)
    values = [adapted(t, answer.adapt_lr, 2) for t in thetas]
    assert max(values) <= answer.meta
    start = thetas[int(np.argmax(values))]
    found = minimize(lambda t: -adapted(t, answer.adapt_lr, 2), start, tol=1e-10)
    np.testing.assert_allclose(-found.fun, answer.meta, atol=1e-6)
    np.testing.assert_allclose(found.x, answer.theta, atol=1e-4)
    np.testing.assert_allclose(adapted([0, 0], answer.adapt_lr, 2), answer.meta_uniform, atol=1e-6)
    assert answer.margin > 0.3  # rewards against best responses are in [-0.7, 0.7]


def tabular(kernel):
    params = {"Dense_0": {"kernel": jnp.reshape(jnp.asarray(kernel, jnp.float32), (2, 1))}}
    return Player(params, init_normalizer(2), Categorical(2))


def test_two_types_through_the_library():
    answer, game = two_types_answer(), two_types()
    config = MetaConfig(
        group_size=1, num_groups=2, baseline="none", estimator="return_to_go",
        adapt_lr=answer.adapt_lr, discount=1.0, hidden=(), normalize=False,
    )  # fmt: skip
    defender, strong = tabular(answer.theta), tabular([40.0, 40.0])

    @jax.jit
    def values(phi):
        player = strong.replace(params=phi)
        each = [exact_meta_values(game, game.prior[i], defender, player, config) for i in range(2)]
        return sum(q * l_d for q, (l_d, _) in zip(Q, each, strict=True)), [l_a for _, l_a in each]

    @jax.jit
    def objective(theta):
        player = defender.replace(params=theta)
        each = [exact_meta_values(game, game.prior[i], player, strong, config)[0] for i in range(2)]
        return sum(q * l_d for q, l_d in zip(Q, each, strict=True))

    meta, attackers = values(strong.params)
    np.testing.assert_allclose(meta, answer.meta, atol=2e-5)
    gradient = jax.grad(objective)(defender.params)["Dense_0"]["kernel"]
    np.testing.assert_allclose(gradient, 0.0, atol=1e-4)
    # with the adaptation in full, too, the strong attack is the best response
    for phi in ([-3.0, -3.0], [0.0, 0.0], [3.0, 0.0], [0.0, 3.0], [3.0, 3.0]):
        for weaker, best in zip(values(tabular(phi).params)[1], attackers, strict=True):
            assert weaker < best - 1e-3
    for i, theta in itertools.product(range(2), ([0.0, 0.0], [-9.0, 9.0], [9.0, 9.0])):
        response = best_response(game, game.prior[i], tabular(theta), strong, 1.0)
        assert (response.params["Dense_0"]["kernel"] > 20).all()


def test_two_types_with_memory():
    answer, game = two_types_answer(), two_types()
    attacks = np.tile([0.0, 1.0], (2, 2, 1))
    np.testing.assert_allclose(
        perfect_bayesian_value(game, attacks), answer.perfect_bayesian, atol=1e-6
    )
    known = sum(
        q * perfect_bayesian_value(two_types(probabilities=one), attacks)
        for q, one in zip(Q, ((1.0, 0.0), (0.0, 1.0)), strict=True)
    )
    np.testing.assert_allclose(known, answer.known_type, atol=1e-6)
    assert answer.bse < answer.meta < answer.perfect_bayesian < answer.known_type


# leader-follower


DIALS = (0.0, 0.5, -1.0)


def pair(mean_d, mean_a, std=0.3):
    """Gaussian players with given means of their stretched actions."""
    out = []
    for mean in (mean_d, mean_a):
        mean = jnp.atleast_1d(jnp.asarray(mean, jnp.float32))
        layer = {"kernel": jnp.zeros((1, mean.shape[0])), "bias": mean}
        policy = Gaussian(mean.shape[0], (), std, learn_std=False)
        out.append(Player({"mean": {"Dense_0": layer}}, init_normalizer(1), policy))
    return out


def bias(player):
    return player.params["mean"]["Dense_0"]["bias"]


def stackelberg_objective(game, q):
    """V by the library's exact values and best responses, a function of the leader's mean."""

    def value(mean):
        total = 0.0
        for i, weight in enumerate(q):
            defender, attacker = pair(mean, jnp.zeros(2))
            defender = defender.replace(
                params={"mean": {"Dense_0": {"kernel": jnp.zeros((1, 2)), "bias": mean}}}
            )
            response = best_response(game, game.prior[i], defender, attacker)
            total += weight * exact_values(game, game.prior[i], defender, response, 1.0)[0]
        return total

    return value


@pytest.mark.parametrize("dial", DIALS)
def test_leader_follower_solution_and_gradients(dial):
    game, q = leader_follower(dial), (0.5, 0.5)
    answer = leader_follower_answer(game)
    found = minimize(lambda u: -leader_value(game, u), np.zeros(2), tol=1e-10)
    np.testing.assert_allclose(found.x, answer.stackelberg, atol=1e-5)
    np.testing.assert_allclose(-found.fun, answer.value, atol=1e-9)
    np.testing.assert_allclose(first_order_gradient(game, answer.first_order), 0.0, atol=1e-9)
    np.testing.assert_allclose(leader_gradient(game, answer.stackelberg), 0.0, atol=1e-9)

    value = jax.jit(jax.value_and_grad(stackelberg_objective(game, q)))
    u = np.array([0.3, -0.6])
    level, gradient = value(jnp.asarray(u, jnp.float32))
    np.testing.assert_allclose(gradient, leader_gradient(game, u), atol=1e-5)
    other = value(jnp.zeros(2))[0]
    # values with noise differ from those without by a constant
    np.testing.assert_allclose(
        level - other, leader_value(game, u) - leader_value(game, [0, 0]), atol=1e-5
    )


def test_danskin_error_is_linear_in_the_dial():
    errors = np.array([leader_follower_answer(leader_follower(d)).danskin_error for d in DIALS])
    np.testing.assert_allclose(errors[0], 0.0)
    np.testing.assert_allclose(errors[1] / 0.5, errors[2] / -1.0, atol=1e-9)
    assert np.abs(errors[1]).max() > 0.05
    first = [leader_follower_answer(leader_follower(d)).first_order for d in DIALS]
    np.testing.assert_allclose(first[0], first[1])


@pytest.mark.parametrize("dial", DIALS)
def test_strict_competitiveness_is_what_the_dial_breaks(dial):
    game = leader_follower(dial)
    defender, attacker = pair([0.2, 0.1], [-0.1, 0.3], std=0.5)
    played = rollout_groups(jax.random.key(0), game, game.prior[0], defender, attacker, 500, 1)
    r_d, r_a = (np.asarray(s.reward).ravel() for s in (played.defender, played.attacker))
    design = np.stack([r_a, np.ones_like(r_a)], 1)
    residual = r_d - design @ np.linalg.lstsq(design, r_d, rcond=None)[0]
    share = residual.std() / r_d.std()
    assert share < 1e-5 if dial == 0 else share > 0.05


@pytest.mark.parametrize("dial", (0.0, 0.5))
def test_where_algorithms_that_adapt_stop(dial):
    eta, kappa = 0.3, 0.1
    game = leader_follower(dial)
    answer = adapted_answer(game, eta, kappa)
    config = MetaConfig(
        adapt_lr=eta, discount=1.0, hidden=(), normalize=False, learn_std=False, init_std=0.3
    )

    def adapted_pair(mean, i):
        """The adapted mean, and the response to it with the adaptation held: a fixed point."""
        xi = game.prior[i]
        defender, attacker = pair(mean, jnp.zeros(2))

        def step(carry, _):
            response = carry[1]
            follower = replaced(attacker, response)
            slope = jax.grad(
                lambda m: exact_values(game, xi, replaced(defender, m), follower, 1.0)[0]
            )
            moved = mean + eta * slope(mean)
            follower = best_response(game, xi, replaced(defender, moved), follower)
            return (moved, bias(follower)), None

        carry, _ = jax.lax.scan(step, (mean, jnp.zeros(2)), None, length=20)
        return replaced(defender, carry[0]), replaced(attacker, carry[1])

    def replaced(player, mean):
        return player.replace(
            params={"mean": {"Dense_0": {"kernel": jnp.zeros((1, 2)), "bias": mean}}}
        )

    @jax.jit
    def gradients(mean):
        first, through, gap = [], [], []
        for i in range(2):
            moved, attacker = adapted_pair(mean, i)
            xi = game.prior[i]
            first.append(
                jax.grad(
                    lambda m, x=xi, a=attacker, d=moved: exact_values(
                        game, x, replaced(d, m), a, 1.0
                    )[0]
                )(bias(moved))
            )
            through.append(
                jax.grad(
                    lambda m, x=xi, a=attacker, d=moved: exact_meta_values(
                        game, x, replaced(d, m), a, config, "exact"
                    )[0]
                )(mean)
            )
            gap.append(bias(moved) - mean)
        return [jnp.stack(each).mean(axis=0) for each in (first, through, gap)]

    at = [
        jnp.asarray(m, jnp.float32) for m in (answer.fomaml, answer.debiased_exact, answer.reptile)
    ]
    np.testing.assert_allclose(gradients(at[0])[0], 0.0, atol=1e-5)
    np.testing.assert_allclose(gradients(at[1])[1], 0.0, atol=1e-5)
    first, _, gap = gradients(at[2])
    np.testing.assert_allclose(gap + kappa * first, 0.0, atol=1e-5)

    @jax.jit
    def anticipated(mean):
        values = []
        for i in range(2):
            moved, attacker = adapted_pair(mean, i)
            values.append(exact_values(game, game.prior[i], moved, attacker, 1.0)[0])
        return sum(values) / 2

    best = anticipated(jnp.asarray(answer.anticipating, jnp.float32))
    for direction in np.eye(2):
        for step in (-0.2, 0.2):
            assert (
                anticipated(jnp.asarray(answer.anticipating + step * direction, jnp.float32)) < best
            )
    assert np.abs(answer.debiased_exact - answer.anticipating).max() > 1e-3
    slope = jax.jit(jax.grad(anticipated))(jnp.asarray(answer.anticipating, jnp.float32))
    np.testing.assert_allclose(slope, 0.0, atol=1e-5)


# quadratic FL


def clean_polynomial(xi_share, scale, participation, horizon):
    """E sum_t -w_t^2 as a polynomial in a constant alpha, by expanding the recursion: float64."""
    P = np.polynomial.Polynomial
    alpha, w, total = P([0, 1]), P([1]), P([0])
    for _ in range(horizon):
        clean = w * (1 - alpha) ** 2 + alpha**2 * (8 / 10)
        c = 1 - xi_share * (1 + scale)
        attacked = w * (1 - alpha * c) ** 2 + alpha**2 * c**2 * (8 / 8)
        w = (1 - participation) * clean + participation * attacked
        total = total - w
    return total


def best_root(polynomial):
    roots = polynomial.deriv().roots()
    inside = roots.real[(np.abs(roots.imag) < 1e-9) & (roots.real > 0) & (roots.real < 1)]
    candidates = np.array([0.0, *inside, 1.0])
    return candidates[polynomial(candidates).argmax()]


@pytest.mark.parametrize("horizon", [1, 2, 3])
def test_quadratic_fl_steps_are_roots_of_polynomials(horizon):
    answer = quadratic_fl_answer(quadratic_fl(horizon=horizon))
    none = clean_polynomial(0.2, 0.0, 0.0, horizon)
    ipm = clean_polynomial(0.2, 5.0, 0.5, horizon)
    usual = clean_polynomial(0.2, 1.0, 1.0, horizon)
    for i, polynomial in enumerate((none, ipm, usual)):
        np.testing.assert_allclose(answer.alphas[i], best_root(polynomial), atol=1e-6)
        np.testing.assert_allclose(answer.values[i], polynomial(best_root(polynomial)), atol=1e-6)
    np.testing.assert_allclose(answer.scales, (0.0, 5.0, 1.0), atol=1e-5)
    if horizon == 1:
        np.testing.assert_allclose(answer.alphas, (1 / 1.8, 0.4 / 0.94, 1 / 1.2), atol=1e-6)
    assert np.ptp(answer.alphas) > 0.2  # adapting is worth something


def test_quadratic_fl_prior_step_by_grid():
    game = quadratic_fl()
    answer = quadratic_fl_answer(game)
    fixed = Player(jnp.zeros(1), init_normalizer(1), Fixed(1))

    @jax.jit
    @jax.vmap
    def value(alpha):
        defender = fixed.replace(params=2 * alpha[None] - 1)
        scales = jnp.linspace(0.5, 2.0, 151)

        def attacked(scale):
            attacker = fixed.replace(params=2 * scale[None] / 3 - 1)
            return jnp.stack(exact_values(game, game.prior[2], defender, attacker, 1.0))

        responses = jax.vmap(attacked)(scales)
        adaptive = responses[jnp.argmax(responses[:, 1]), 0]
        others = [exact_values(game, game.prior[i], defender, fixed, 1.0)[0] for i in range(2)]
        return (sum(others) + adaptive) / 3

    grid = jnp.linspace(0.3, 0.8, 201)
    values = value(grid)
    assert abs(float(grid[values.argmax()]) - answer.alpha) < 0.005
    np.testing.assert_allclose(values.max(), answer.value, atol=1e-4)


def test_quadratic_fl_answers_with_noise_are_those_of_the_library():
    game = quadratic_fl()
    answer = quadratic_fl_answer(game, std_D=0.3, std_A=0.3)
    for i in range(3):
        mean = np.arctanh(2 * answer.alphas[i] - 1)
        defender, attacker = pair(mean, 0.0)
        response = best_response(game, game.prior[i], defender, attacker)
        value = exact_values(game, game.prior[i], defender, response, 1.0)[0]
        np.testing.assert_allclose(value, answer.values[i], atol=1e-5)
    scale = 3 * (1 + np.tanh(float(bias(response)[0]))) / 2
    np.testing.assert_allclose(scale, answer.scales[2], atol=1e-4)


def test_quadratic_fl_is_strictly_competitive_where_malicious_clients_were_sampled():
    game = quadratic_fl(participation=(0.5, 0.5))
    defender, attacker = pair(0.0, 0.0, std=0.5)
    for i, rounds in ((0, 0.0), (1, 0.5), (2, 0.5)):
        played = rollout_groups(jax.random.key(0), game, game.prior[i], defender, attacker, 500, 1)
        r_d, r_a = np.asarray(played.defender.reward), np.asarray(played.attacker.reward)
        malicious = np.asarray(played.info["malicious"])
        assert abs((malicious > 0).mean() - rounds) < 4 * np.sqrt(0.25 / malicious.size)
        assert set(np.unique(malicious)) <= {0, 2}
        np.testing.assert_array_equal(r_a[malicious > 0], -r_d[malicious > 0])
        np.testing.assert_array_equal(r_a[malicious == 0], 0.0)
        assert (r_d[malicious == 0] < 0).all()


def test_quadratic_fl_refuses_a_bad_chance():
    with pytest.raises(ConfigError, match="participation"):
        quadratic_fl(participation=(0.5, 1.5))


# double well


def landscape(dial, std, points=400_001):
    """E f and its stationary points for y > 0, on a grid in float64."""
    m = np.linspace(0, 3, points)[1:]
    damping = np.exp(-2 * (2.0 * std) ** 2)
    slope = 2 * m + 2 * dial * damping * np.sin(4 * m)
    return m[1:][np.diff(np.sign(slope)) != 0]


@pytest.mark.parametrize("std", [0.0, 0.2])
def test_double_well_threshold(std):
    threshold = double_well_answer(double_well(), std, std).threshold
    assert len(landscape(0.999 * threshold, std)) == 0
    assert len(landscape(1.001 * threshold, std)) == 2
    assert np.isnan(double_well_answer(double_well(0.99 * threshold), std, std).wrong_leader)


def test_double_well_points_by_brute_force():
    std, game = 0.2, double_well()
    answer = double_well_answer(game, std, std)
    xi = game.prior[0]
    np.testing.assert_allclose(
        answer.wrong_attacker + 1.3, landscape(2.0, std)[1], atol=1e-4
    )  # the second stationary point is the well, the first its rim

    @jax.jit
    @jax.vmap
    def value(x, v):
        defender, attacker = pair(jnp.zeros(1), jnp.zeros(1), std)

        def at(player, mean):
            return player.replace(
                params={"mean": {"Dense_0": {"kernel": jnp.zeros((1, 1)), "bias": mean[None]}}}
            )

        return exact_values(game, xi, at(defender, x), at(attacker, v), 1.0)[0]

    x = jnp.linspace(-1, 2, 601)
    right = value(x, jnp.full_like(x, answer.attacker))
    np.testing.assert_allclose(x[right.argmax()], answer.leader, atol=0.01)
    np.testing.assert_allclose(right.max(), answer.value, atol=1e-3)
    wrong = value(x, jnp.full_like(x, answer.wrong_attacker))
    np.testing.assert_allclose(x[wrong.argmax()], answer.wrong_leader, atol=0.01)
    np.testing.assert_allclose(wrong.max(), answer.wrong_believed, atol=1e-3)
    np.testing.assert_allclose(
        value(*(jnp.asarray([a]) for a in (answer.wrong_leader, answer.attacker)))[0],
        answer.wrong_value,
        atol=1e-5,
    )
    # V is smallest over all attackers at the right well
    v = jnp.linspace(-4, 2, 1201)
    np.testing.assert_allclose(
        value(jnp.full_like(v, answer.leader), v).min(), answer.value, atol=1e-4
    )
    assert answer.wrong_leader - answer.leader > 0.3 and answer.value - answer.wrong_value > 0.3


@pytest.mark.parametrize(("dial", "stays"), [(1.0, False), (2.0, True)])
def test_a_response_that_starts_in_the_wrong_well_stays_there_beyond_the_threshold(dial, stays):
    std = 0.2
    game = double_well(dial)
    xi, answer = game.prior[0], double_well_answer(double_well(dial), std, std)
    assert (dial > answer.threshold) == stays
    defender, attacker = pair(jnp.zeros(1), jnp.zeros(1), std)

    @jax.jit
    def respond(params):
        def step(params, _):
            slope = jax.grad(
                lambda p: exact_values(game, xi, defender, attacker.replace(params=p), 1.0)[1]
            )(params)
            return jax.tree.map(lambda a, b: a + 0.05 * b, params, slope), None

        return jax.lax.scan(step, params, None, length=400)[0]

    end = float(respond(attacker.params)["mean"]["Dense_0"]["bias"][0])
    np.testing.assert_allclose(end, answer.wrong_attacker if stays else answer.attacker, atol=1e-3)


def test_a_repeated_matrix_game_is_worth_its_rounds():
    once, twice = matrix_game(), matrix_game(horizon=2)
    defender, attacker = (
        Player({"Dense_0": {"kernel": jnp.full((1, 1), x)}}, init_normalizer(1), Categorical(2))
        for x in (0.3, -0.2)
    )
    one, two = (exact_values(g, g.prior[0], defender, attacker, 0.5)[0] for g in (once, twice))
    np.testing.assert_allclose(two, 1.5 * one, rtol=1e-6)
