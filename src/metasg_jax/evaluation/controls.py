"""The defenders that a learned one is set beside, and the search for the best constant action."""

import dataclasses
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metasg_jax.config import RunConfig
from metasg_jax.evaluation.episodes import score_actions
from metasg_jax.game.make import make_rule
from metasg_jax.game.rollout import Player, init_normalizer
from metasg_jax.learning.state import MetaSGState, attacker_player, init_state, policies
from metasg_jax.policies import Fixed
from metasg_jax.post_defenses import NoDefense
from metasg_jax.types import Policy

# knobs that the best-fixed search knows, and the action of each that is exactly the mean, deployed
# as it is
IDENTITIES = {
    ("clip", "trim", "range"): (1.0, -1.0, 1.0),
    ("clip", "trim", "trust", "range"): (1.0, -1.0, -1.0, 1.0),
}


_LEARNED, _CONSTANT, _RANDOM = 0, 1, 2


@dataclasses.dataclass(frozen=True)
class Panel:
    """One program for every way to turn the knobs: a policy's mode, a constant, or chance.

    Parameters: ``{"theta": of the policy, "action": f32[A], "role": i32[]}``. Compiling an episode
    takes longer than playing it; so all defenders that share a rule share a program.

    Attributes:
        policy: whose mode the learned defender plays.
    """

    policy: Policy

    @property
    def action_size(self) -> int:
        """A."""
        return self.policy.action_size

    def init(self, key, observation_spec):
        """Parameters that play the learned policy; the action is the centre. Consumes ``key``."""
        theta = self.policy.init(key, observation_spec)
        action = jnp.zeros((self.action_size,), jnp.float32)
        return {"theta": theta, "action": action, "role": jnp.asarray(_LEARNED)}

    def log_prob(self, params, obs, raw):
        """0: nothing is learned from a panel."""
        return jnp.zeros((), jnp.float32)

    def mode(self, params, obs):
        """The learned policy's mode."""
        return self.policy.mode(params["theta"], obs)

    def sample(self, key, params, obs):
        """(action, action). ``key`` is consumed."""
        chance = jax.random.uniform(
            key, (self.action_size,), minval=-1.0, maxval=1.0, dtype=jnp.float32
        )
        roles = jnp.stack([self.policy.mode(params["theta"], obs), params["action"], chance])
        action = roles[params["role"]]
        return action, action


class Contender(NamedTuple):
    """A defender in a table.

    Attributes:
        name: of its row.
        player: parameters stacked over K types.
        rule: a static rule that replaces the game's, with no post-training defence; or None.
    """

    name: str
    player: Player
    rule: str | None = None

    def game(self, game, assumed_share: float):
        """The game as this contender plays it."""
        if self.rule is None:
            return game
        rule = make_rule(self.rule, game.fl.num_sampled, assumed_share, game.model)
        return game.replace(rule=rule, post_defense=NoDefense())


class GridSearch(NamedTuple):
    """Constant actions and what they scored on selection worlds.

    Attributes:
        actions: f32[J, A].
        scores: f32[S, K, J].
        best: f32[A], of the highest mean over the prior: the best fixed action.
        per_type: f32[K, A], the best for each type alone: the ceiling of type adaptation.
    """

    actions: np.ndarray
    scores: np.ndarray
    best: np.ndarray
    per_type: np.ndarray


def contenders(
    state: MetaSGState, game, config: RunConfig, search: GridSearch | None = None
) -> list[Contender]:
    """The learned policy, its controls and the static rules.

    ``learned`` and ``untrained`` play their mode. ``centre`` is the action 0. ``best_fixed`` and
    ``oracle`` (a constant action for each type, which knows the type) come from the search.
    """
    k, size = len(game.prior), game.action_size
    policy, _ = policies(game, config.meta)
    fresh = init_state(jax.random.key(config.seed + 1), game, config.meta)

    def steered(role, actions=None, theta=state.theta) -> Player:
        params = {
            "theta": jax.tree.map(lambda a: jnp.broadcast_to(a[None], (k, *a.shape)), theta),
            "action": jnp.zeros((k, size), jnp.float32)
            if actions is None
            else jnp.asarray(actions),
            "role": jnp.full((k,), role, jnp.int32),
        }
        return Player(params, state.normalizer, Panel(policy))

    def constant(action) -> Player:
        return steered(_CONSTANT, np.tile(np.asarray(action, np.float32), (k, 1)))

    def static(rule: str) -> Contender:
        base = Contender(rule, steered(_CONSTANT), rule).game(game, config.game.assumed_share)
        normalizer = init_normalizer(base.observation_spec)
        player = Player(
            jnp.zeros((k, base.action_size), jnp.float32), normalizer, Fixed(base.action_size)
        )
        return Contender(rule, player, rule)

    rows = [
        Contender("learned", steered(_LEARNED)),
        Contender("untrained", steered(_LEARNED, theta=fresh.theta)),
        Contender("centre", constant(np.zeros(size))),
        Contender("random", steered(_RANDOM)),
    ]
    identity = IDENTITIES.get(game.action_names)
    if identity is not None:
        # open knobs are exactly the mean without post-training defence: no program of its own
        rows.append(Contender("mean", constant(identity)))
    else:
        rows.append(static("mean"))
    rows += [static("median"), static("krum")]
    if search is not None:
        rows.append(Contender("best_fixed", constant(search.best)))
        rows.append(Contender("oracle", steered(_CONSTANT, search.per_type)))
    return rows


def all_attackers(state: MetaSGState, game, config: RunConfig) -> Player:
    """The attackers' policies of all types, stacked, sampling."""
    return attacker_player(state, game, config.meta, slice(None))


def action_grid(
    num_clips: int, num_trims: int, names: tuple[str, ...] = ("clip", "trim", "range")
) -> np.ndarray:
    """Constant actions f32[E, A] that span the knobs of the rule, post level open.

    A grid of 1 is the open end: no clip, no trim. A knob ``trust`` is tried at -1 and 0 with each
    clip and trim, and once at 1, where these don't matter.

    Args:
        num_clips: values of the clip, from open to tight.
        num_trims: of the trim.
        names: one of :data:`IDENTITIES`.
    """
    clips = np.linspace(1.0, -1.0, num_clips) if num_clips > 1 else [1.0]
    trims = np.linspace(-1.0, 1.0, num_trims) if num_trims > 1 else [-1.0]
    pairs = list(itertools.product(clips, trims))
    if "trust" not in names:
        return np.array([(c, t, 1.0) for c, t in pairs], np.float32)
    mixed = [(c, t, trust, 1.0) for trust in (-1.0, 0.0) for c, t in pairs]
    return np.array([*mixed, (1.0, -1.0, 1.0, 1.0)], np.float32)


def whole_grid(
    num_clips: int, num_trims: int, num_levels: int, rule: tuple[str, ...], post: tuple[str, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Constant actions that span all knobs; levels of the post-training defence vary fastest.

    Args:
        num_clips: see :func:`action_grid`.
        num_trims: see :func:`action_grid`.
        num_levels: of the post-training defence, from open to tight; 1 where it has no knob.
        rule: knobs of the rule.
        post: those of the post-training defence, one at most.

    Returns:
        (f32[E L, A], levels f32[L]).
    """
    actions = action_grid(num_clips, num_trims, (*rule, "range"))
    if not post:
        return actions[:, :-1], np.ones(1, np.float32)
    levels = np.linspace(1.0, -1.0, num_levels, dtype=np.float32)
    every = np.repeat(actions, num_levels, axis=0)
    every[:, -1] = np.tile(levels, len(actions))
    return every, levels


def search_fixed(
    state: MetaSGState,
    worlds,
    config: RunConfig,
    actions: np.ndarray,
    levels: np.ndarray,
    on_world=lambda: None,
) -> GridSearch:
    """Scores constant actions on the validation images of selection worlds.

    Args:
        state: its attackers play.
        worlds: games of the same shapes.
        config: of the run.
        actions: f32[E L, A], of :func:`whole_grid`.
        levels: f32[L], of it.
        on_world: called after each world, for progress.
    """
    scores = []
    for seed, game in enumerate(worlds):
        out = score_actions(
            jax.random.key(seed),
            game,
            jnp.asarray(actions[:: len(levels)]),
            jnp.asarray(levels),
            all_attackers(state, game, config),
            "validation",
        )
        scores.append(np.asarray(out).reshape(len(game.prior), -1))
        on_world()
    scores = np.stack(scores)
    q = np.asarray(worlds[0].prior.probabilities)
    mean = scores.mean(axis=0)
    return GridSearch(actions, scores, actions[np.argmax(q @ mean)], actions[mean.argmax(axis=1)])
