"""The privileged teacher: in simulation it is known who is malicious, so trust can be imitated.

First the learner watches a filter that is told (and errs now and then), later it plays itself and
is told what it should have done (DAgger: Ross, Gordon and Bagnell, AISTATS 2011). Knobs have no
labels: rounds are played with several settings of them, and the head that turns them climbs what
these earned. What is written is the state that meta-Stackelberg learning goes on from.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metasg_jax.config import MetaConfig, TeachConfig
from metasg_jax.evaluation.metrics import measure_deployed
from metasg_jax.features import FEATURES
from metasg_jax.features.view import MEMORY, ClientView
from metasg_jax.game.rollout import Player
from metasg_jax.learning.state import MetaSGState, defender_player
from metasg_jax.policies import SetPolicy
from metasg_jax.post_defenses import undefended
from metasg_jax.responders import Looking, make_responder
from metasg_jax.struct import Struct
from metasg_jax.types import Info, Key

_ERRORS = (0.0, 0.05, 0.2)
"""Shares of the told filter's decisions that are turned around, drawn once an episode."""


class Lessons(Struct):
    """Rounds with the answers. Leading axis L.

    Attributes:
        view: what the defender saw, not normalised.
        malicious: bool[L, n].
        harm: f32[L, n] in [0, 1], how much of a malicious client's row is not honest work: 1 where
            an attack is not diluted.
        earned: f32[L, T, 3], what each of T trims earned: the score at the end of this round's
            episode, the mean over all types and the worst of them; NaN where not tried.
    """

    view: ClientView
    malicious: jax.Array
    harm: jax.Array
    earned: jax.Array

    def __len__(self) -> int:
        return self.malicious.shape[0]


def collect_lessons(
    key: Key,
    state: MetaSGState,
    game,
    config: MetaConfig,
    trims: tuple[float, ...],
    told: bool,
    blended: Any = None,
    responder: str = "none",
) -> Lessons:
    """Plays an episode against each type, with each trim, and writes down who was malicious.

    Args:
        key: consumed.
        state: its policy decides about clients, by its mode, unless ``told``.
        game: an FL game with the rule ``client_trust``.
        config: of the learner.
        trims: T settings of the knob ``trim`` in [-1, 1], under the same random numbers; views are
            kept of one of them a type, in turn.
        told: a filter that knows who is malicious plays, and errs at a rate drawn for each episode,
            so that models that have taken in some poison are met too.
        blended: the same game with attacks that can be diluted, for the responder.
        responder: ``looking``, with its options, or ``none``, which leaves it out.

    Returns:
        Lessons with L = K H, in the order of types and rounds, on the host; the blended types last.
    """
    player = defender_player(state, game, config, greedy=True)

    def each_trim(game, looking=None):
        played = [
            _play(jax.random.clone(key), game, player, jnp.float32(trim), looking, told=told)
            for trim in trims
        ]
        return [jax.tree.map(np.asarray, each) for each in played]

    played = each_trim(game)
    if blended is not None and responder != "none":
        looking = make_responder(responder, blended.attacker_action_size)
        both = zip(played, each_trim(blended, looking), strict=True)
        played = [jax.tree.map(lambda *parts: np.concatenate(parts), *pair) for pair in both]
    scores = np.stack([score for *_, score in played], axis=-1)  # [K, T]
    ends = (scores, scores.mean(axis=0, keepdims=True), scores.min(axis=0, keepdims=True))
    scores = np.stack([np.broadcast_to(end, scores.shape) for end in ends], axis=-1)
    kinds = len(scores)
    which = np.arange(kinds) % len(trims)

    def chosen(*leaves):
        return np.concatenate([leaves[which[k]][k] for k in range(kinds)])

    view, malicious, harm = jax.tree.map(chosen, *[each[:3] for each in played])
    earned = np.repeat(scores, game.horizon, axis=0).astype(np.float32)
    if told:
        earned = np.full_like(earned, np.nan)
    return Lessons(view, malicious, harm, earned)  # pyrefly: ignore


@functools.partial(jax.jit, static_argnames="told")
def _play(key: Key, game, player: Player, trim: jax.Array, looking: Looking | None, told: bool):
    """Views, answers and harm [K, H, ..] of an episode a type, and validation scores f32[K]."""
    n, place = game.num_trusted, game.num_trusted + game.rule.action_spec.index("trim")
    nothing = jnp.zeros((game.attacker_action_size,), jnp.float32)

    def turned(view):
        return player.mode(view).at[place].set(trim)

    def episode(_, i):
        xi = game.prior[i]
        key_reset, key_rounds, key_rate = jax.random.split(jax.random.fold_in(key, i), 3)
        rate = jax.random.choice(key_rate, jnp.array(_ERRORS))

        def step(state, t):
            key_attack, key_defend, key_turn = jax.random.split(
                jax.random.fold_in(key_rounds, t), 3
            )
            malicious = game.malicious(state, xi)
            if looking is None:
                received, state = game.answer(key_attack, state, xi, nothing)
                harm = malicious.astype(jnp.float32)
            else:
                received, state, harm = looking.look(key_attack, game, state, xi, player, turned)
            view, state = game.observe(state, received)
            action = turned(view)
            if told:
                errs = jax.random.uniform(key_turn, (n,), jnp.float32) < rate
                action = action.at[:n].set(jnp.where(malicious ^ errs, -1.0, 1.0))
            state, _ = game.defend(key_defend, state, xi, received, action)
            return state, (view, malicious, harm)

        state, lessons = jax.lax.scan(step, game.reset(key_reset, xi), jnp.arange(game.horizon))
        score = measure_deployed(
            game.model,
            undefended(game.model, game.model.unravel(state.w)),
            game.validation_x,
            game.validation_y,
            xi,
            state.diverged,
        ).score
        return None, (*lessons, score)

    return jax.lax.scan(episode, None, jnp.arange(len(game.prior), dtype=jnp.int32))[1]


def learn_normalizer(state: MetaSGState, lessons: tuple[Lessons, ...]) -> MetaSGState:
    """The state with an observation normaliser that has seen these lessons and no others."""
    normalizer = jax.tree.map(jnp.zeros_like, state.normalizer)
    for group in lessons:
        normalizer = _learn(normalizer, group)
    return state.replace(normalizer=normalizer)


@jax.jit
def _learn(normalizer, group: Lessons):
    return normalizer.update(group.view, jnp.ones((len(group),), jnp.float32))


@functools.partial(jax.jit, static_argnames=("policy", "trims", "num_steps"))
def teach(
    key: Key,
    state: MetaSGState,
    opt_state: optax.OptState,
    lessons: tuple[Lessons, ...],
    policy: SetPolicy,
    config: TeachConfig,
    trims: tuple[float, ...],
    done: jax.Array,
    num_steps: int,
) -> tuple[MetaSGState, optax.OptState, Info]:
    """``num_steps`` steps of Adam, from the step ``done`` on: imitation of trust, ascent of knobs.

    The loss is the cross-entropy of trust, and minus what the trim that the policy turns to would
    have earned, between the trims that were tried on a straight line. Step s draws from
    ``fold_in(key, s)``: cut into chunks or resumed, it gives the same bits.

    Args:
        key: of the whole stage.
        state: its normaliser stays as it is.
        opt_state: of :func:`begin_teaching`.
        lessons: a group for each number of clients n; a batch is drawn from all in proportion.
        policy: static, of the learner.
        config: of the teacher.
        trims: static, ascending, those of the lessons.
        done: i32[], steps done so far.
        num_steps: static.

    Returns:
        (state, optimizer state, info with a leading axis num_steps).
    """
    total = sum(len(group) for group in lessons)
    sizes = [max(1, round(config.batch * len(group) / total)) for group in lessons]
    optimizer = teaching_optimizer(config)

    def loss(theta, key):
        entropies, weights, right, regret = 0.0, 0.0, 0.0, 0.0
        for g, (group, size) in enumerate(zip(lessons, sizes, strict=True)):
            key_pick, key_drop = jax.random.split(jax.random.fold_in(key, g))
            picked = jax.random.randint(key_pick, (size,), 0, len(group))
            batch = jax.tree.map(lambda a, picked=picked: a[picked], group)
            view = drop_families(key_drop, batch.view, config)
            view = jax.vmap(state.normalizer)(view)
            logits, means = jax.vmap(policy.moments, in_axes=(None, 0))(theta, view)
            honest = (~batch.malicious).astype(jnp.float32)
            entropy = optax.sigmoid_binary_cross_entropy(logits, honest)
            present = view.present.astype(jnp.float32)
            # a diluted row does less harm, and a sleeper's none
            part = jnp.minimum(batch.harm / config.whole_harm, 1.0)
            weight = jnp.where(batch.malicious, config.malicious_weight * part, 1.0)
            weight = present * weight
            clean = ~batch.malicious.any(axis=1, keepdims=True)
            weight = weight * jnp.where(clean, config.clean_weight, 1.0)
            # a round counts once, however many clients answered in it
            rounds = jnp.maximum(present.sum(axis=1, keepdims=True), 1.0)
            entropies += (weight * entropy / rounds).sum()
            weights += (weight / rounds).sum()
            right += (present / rounds * ((logits > 0) == (honest > 0))).sum()
            regret += missed(
                jnp.tanh(means[:, _TRIM]), insured(batch.earned, trims, config), trims
            ).sum()
        kernels = [leaf for leaf in jax.tree.leaves(theta) if leaf.ndim > 1]
        decay = config.weight_decay * optax.tree.norm(kernels, squared=True)
        entropy, regret = entropies / weights, regret / sum(sizes)
        info = {"loss": entropy, "accuracy": right / sum(sizes), "missed": regret}
        return entropy + config.knob_weight * regret + decay, info

    def step(carry, s):
        theta, opt = carry
        (_, info), gradient = jax.value_and_grad(loss, has_aux=True)(
            theta, jax.random.fold_in(key, s)
        )
        updates, opt = optimizer.update(gradient, opt, theta)
        return (optax.apply_updates(theta, updates), opt), info

    (theta, opt_state), info = jax.lax.scan(
        step, (state.theta, opt_state), done + jnp.arange(num_steps)
    )
    return state.replace(theta=theta), opt_state, info


_TRIM = 1
"""The place of ``trim`` among the knobs of ``client_trust``."""


def insured(earned: jax.Array, trims: tuple[float, ...], config: TeachConfig) -> jax.Array:
    """What trims are worth, f32[L, T]: what they earned f32[L, T, 3], weighed, and the premium.

    The premium is in proportion to the trim, whole for the highest.
    """
    earned = earned @ jnp.asarray(config.earned_weights)
    knots = jnp.asarray(trims)
    share = (knots - knots[0]) / jnp.maximum(knots[-1] - knots[0], 1e-6)
    return earned + config.trim_premium * share[None]


def missed(trim: jax.Array, earned: jax.Array, trims: tuple[float, ...]) -> jax.Array:
    """What a trim earns less than the best that was tried, f32[L]; 0 where none was.

    Args:
        trim: f32[L] in [-1, 1].
        earned: f32[L, T].
        trims: T settings, ascending; between them what was earned is a straight line, beyond them
            it falls by the distance.
    """
    tried = ~jnp.isnan(earned[:, 0])
    earned = jnp.where(tried[:, None], earned, 0.0)
    if len(trims) == 1:
        return jnp.zeros(trim.shape, jnp.float32)
    knots = jnp.asarray(trims)
    inside = jnp.clip(trim, knots[0], knots[-1])
    place = jnp.clip(jnp.searchsorted(knots, inside, side="right") - 1, 0, len(trims) - 2)
    low, high = knots[place], knots[place + 1]
    part = (inside - low) / (high - low)
    at = jnp.take_along_axis(earned, place[:, None], 1)[:, 0]
    after = jnp.take_along_axis(earned, place[:, None] + 1, 1)[:, 0]
    value = at + part * (after - at)
    return jnp.where(tried, earned.max(axis=1) - value + jnp.abs(trim - inside), 0.0)


def teaching_optimizer(config: TeachConfig) -> optax.GradientTransformation:
    """Adam, its step size falling to 0 by a cosine over the stage's steps."""
    return optax.adam(optax.cosine_decay_schedule(config.lr, config.steps))


def begin_teaching(state: MetaSGState, config: TeachConfig) -> optax.OptState:
    """The optimizer's state at the beginning of a stage."""
    return teaching_optimizer(config).init(state.theta)


def drop_families(key: Key, view: ClientView, config: TeachConfig) -> ClientView:
    """Views of which what some servers lack is taken away at random, each view on its own.

    So one set of weights serves a server without a memory of its clients, without root images or
    with a model whose last matrix is not found. ``view`` has a leading axis L.
    """
    needs = sorted({need for family in FEATURES.values() for need in family.needs})
    lacks = jax.random.uniform(key, (len(view.known), len(needs) + 1), jnp.float32) < config.drop
    none = jnp.zeros((len(view.known),), bool)

    def gone(family):
        """Families of one need go together: a server without root images has none of them."""
        return sum((lacks[:, needs.index(need)] for need in family.needs), none)

    dropped = [gone(family) for family in FEATURES.values()]
    assert len(dropped) == MEMORY
    dropped = jnp.stack([*dropped, lacks[:, -1]], axis=1)
    return view.replace(known=view.known & ~dropped)
