"""Meta gradients on games where everything can be enumerated, beside the exact derivatives."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.progress import Progress
from theory.moments import CHUNK, compare, flat, sampler
from theory.settings import Estimators

from metasg_jax.config import MetaConfig
from metasg_jax.game.rollout import Player
from metasg_jax.learning import init_state
from metasg_jax.learning.best_response import inner_loop
from metasg_jax.learning.debiased import meta_gradient
from metasg_jax.learning.estimators import ESTIMATORS
from metasg_jax.learning.meta_sl import OUTER, debiased
from metasg_jax.learning.outer import scan_types, weighted_mean
from metasg_jax.learning.state import MetaSGState, attacker_player, defender_player, policies
from metasg_jax.testing import bandit, exact_meta_values, exact_values, matrix_game, two_types


class Setting(NamedTuple):
    """A game, where its players stand, and how the defender adapts."""

    name: str
    game: object
    theta: tuple[float, ...]
    phi: tuple[float, ...]
    config: MetaConfig


def settings() -> list[Setting]:
    """What part 1 enumerates."""
    base = MetaConfig(
        group_size=1,
        baseline="none",
        normalize=False,
        hidden=(),
        attacker_steps=0,
        outer="debiased",
        discount=1.0,
    )
    games = [
        ("bandit", bandit(), (0.3,), (), 0.5),
        ("matrix", matrix_game(), (0.3,), (0.8,), 2.0),
        ("two types", two_types(), (0.3, -0.2), (0.5, 0.5), 2.0),
    ]
    out = []
    for name, game, theta, phi, eta in games:
        for steps, batch in ((1, 1), (1, 2), (2, 1), (2, 2)):
            if name == "two types" and (steps, batch) == (2, 2):
                continue  # 528^2 sequences of batches of 32 episodes
            config = base.replace(adapt_steps=steps, num_groups=batch, adapt_lr=eta)
            out.append(Setting(name, game, theta, phi, config))
    return out


def state_of(setting: Setting, config: MetaConfig) -> MetaSGState:
    """A learner whose policies have the setting's logits; all types' attackers the same."""
    state = init_state(jax.random.key(0), setting.game, config)
    theta = jax.tree.map(
        lambda leaf: jnp.reshape(jnp.array(setting.theta), leaf.shape), state.theta
    )

    def attacker(leaf):
        one = jnp.array(setting.phi, jnp.float32).reshape(leaf.shape[1:])
        return jnp.broadcast_to(one[None], leaf.shape)

    return state.replace(theta=theta, phi=jax.tree.map(attacker, state.phi))


def over_types(game, value: Callable) -> jax.Array:
    """E_Q of a function of (type, index)."""
    q = game.prior.probabilities
    return sum(q[i] * value(game.prior[i], i) for i in range(len(game.prior)))


def exact_gradient(game, state: MetaSGState, config: MetaConfig, objective: str) -> np.ndarray:
    """Exact gradient f64[P] of E_Q L_D in theta."""

    def value(theta):
        defender = defender_player(state.replace(theta=theta), game, config)

        def one(xi, i):
            attacker = attacker_player(state, game, config, i)
            return exact_meta_values(game, xi, defender, attacker, config, objective)[0]

        return over_types(game, one)

    return np.asarray(flat(jax.jit(jax.grad(value))(state.theta)), np.float64)


def meta_estimates(key, state: MetaSGState, game, config: MetaConfig) -> dict[str, jax.Array]:
    """Every meta gradient from the same episodes, as the learner's outer updates make it.

    ``reptile`` moves theta by ``sum eta g_k + kappa_D g_l``; divided by ``l eta + kappa_D``, with
    kappa_D = eta, it is an average of gradients.
    """
    policy_d, policy_a = policies(game, config)
    weights = game.prior.probabilities

    def play(xi, phi, opt):
        key_type = jax.random.fold_in(key, xi.index)
        defender = Player(state.theta, state.normalizer, policy_d)
        attacker = Player(phi, state.normalizer_A, policy_a)
        return inner_loop(
            key_type, game, xi, jnp.zeros((), bool), defender, attacker, opt, config, True
        )

    inner = scan_types(game, play, weights, state.phi, state.opt_A, skip_absent=False)
    updates = OUTER | {"printed": functools.partial(debiased, objective="printed")}
    out = {}
    for name, update in updates.items():
        scale = 1.0
        used = config.replace(defender_lr=1.0)
        if name == "reptile":
            used = config.replace(defender_lr=config.adapt_lr)
            scale = 1 / ((config.adapt_steps + 1) * config.adapt_lr)
        theta, _ = update(policy_d, state, inner, weights, used)
        out[name] = scale * flat(optax.tree.sub(theta, state.theta))
    return out | {"printed minus debiased": out["printed"] - out["debiased"]}


def exact_path_estimate(key, state: MetaSGState, game, config: MetaConfig) -> jax.Array:
    """The estimate for the exact objective, the policy having been adapted by exact gradients."""
    estimate, leads = ESTIMATORS[config.gradient], jnp.ones((), bool)

    def play(xi, phi):
        keys = jax.random.split(jax.random.fold_in(key, xi.index), config.adapt_steps + 1)
        player = defender_player(state, game, config)
        attacker = attacker_player(state, game, config, 0).replace(params=phi)

        def value(params):
            return exact_values(game, xi, player.replace(params=params), attacker, config.discount)[
                0
            ]

        batches, path = [], []
        for i in range(config.adapt_steps):
            batches.append(estimate(keys[i], game, xi, player, attacker, leads, config)[2].defender)
            moved = optax.tree.add_scale(
                player.params, config.adapt_lr, jax.grad(value)(player.params)
            )
            path.append(moved)
            player = player.replace(params=moved)
        final = estimate(keys[-1], game, xi, player, attacker, leads, config)[2].defender
        batches, path = (jax.tree.map(lambda *a: jnp.stack(a), *each) for each in (batches, path))
        return meta_gradient(
            player.policy, state.theta, batches, final, jnp.zeros(()), config, "exact", path
        )

    gradients = scan_types(game, play, game.prior.probabilities, state.phi, skip_absent=False)
    return flat(weighted_mean(game.prior.probabilities, gradients))


OWN = {"exact path": "exact", "debiased_exact": "exact"}


def meta_rows(args: Estimators, progress: Progress) -> list[dict]:
    """Part 1's numbers, a row an estimator and setting."""
    rows = []
    cases = args.some(settings())
    task = progress.add_task("meta gradients", total=len(cases))
    for i, setting in enumerate(cases):
        game, config = setting.game, setting.config
        state = state_of(setting, config)
        exact = {o: exact_gradient(game, state, config, o) for o in ("sampled", "exact")}

        def estimate(key, _, state=state, game=game, config=config):
            key_learner, key_path = jax.random.split(key)
            out = meta_estimates(key_learner, state, game, config)
            return out | {"exact path": exact_path_estimate(key_path, state, game, config)}

        key = jax.random.fold_in(jax.random.key(args.seed), i)
        drawn = sampler(estimate, min(CHUNK, args.draws))(key, args.draws, args.precision)
        paired = drawn.pop("printed minus debiased")
        for name, moments in drawn.items():
            row = compare(moments, exact[OWN.get(name, "sampled")])
            if name == "printed":
                row["paired"] = float(np.linalg.norm(paired.mean)) / paired.error
            rows.append(
                dict(
                    game=setting.name,
                    steps=config.adapt_steps,
                    batch=config.num_groups,
                    estimator=name,
                    objective=OWN.get(name, "sampled"),
                    **row,
                )
            )
        progress.advance(task)
    return rows


def batch_rows(args: Estimators, progress: Progress) -> list[dict]:
    """As the batch grows: the exact objective's estimator with sampled adaptation, and variances.

    With four times the settings' step size, so that the two objectives are far apart.
    """
    rows = []
    batches = args.some((1, 4, 16, 64))
    cases = [s for s in settings() if (s.config.adapt_steps, s.config.num_groups) == (1, 1)]
    cases = args.some(cases)
    task = progress.add_task("growing batches", total=len(cases) * len(batches))
    for i, setting in enumerate(cases):
        for batch in batches:
            game, config = setting.game, setting.config
            config = config.replace(num_groups=batch, adapt_lr=4 * config.adapt_lr)
            state = state_of(setting, config)
            truth = exact_gradient(game, state, config, "exact")

            def estimate(key, _, state=state, game=game, config=config):
                out = meta_estimates(key, state, game, config)
                return {name: out[name] for name in ("fomaml", "debiased", "debiased_exact")}

            key = jax.random.fold_in(jax.random.key(args.seed + 1), 100 * i + batch)
            most = max(args.draws // (2 * batch), 1)
            chunk = min(max(CHUNK // batch, 1), most)
            moments = sampler(estimate, chunk)(key, most)
            rows.append(
                dict(
                    game=setting.name,
                    eta=float(config.adapt_lr),
                    batch=batch,
                    **compare(moments["debiased_exact"], truth),
                    trace_fomaml=moments["fomaml"].trace,
                    trace_debiased=moments["debiased"].trace,
                )
            )
            progress.advance(task)
    return rows
