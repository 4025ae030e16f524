"""Contestants on the same worlds: paired scores, regret to the perfect filter, JSON and tables."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metasg_jax.config import RunConfig
from metasg_jax.data import Dataset
from metasg_jax.evaluation.contestants import Contestant, untrained
from metasg_jax.evaluation.episodes import held_out, standing_still
from metasg_jax.evaluation.metrics import measure_deployed
from metasg_jax.evaluation.root_only import train_on_root
from metasg_jax.evaluation.statistics import t_interval
from metasg_jax.evaluation.switching import Switch
from metasg_jax.evaluation.worlds import FINAL, world
from metasg_jax.game.make import make_observation, make_post_defense, make_rule
from metasg_jax.game.rollout import Player, rollout
from metasg_jax.game.shapes import of_shared_shape
from metasg_jax.responders import make_responder
from metasg_jax.types import Key


@dataclasses.dataclass(frozen=True)
class Judged:
    """What contestants reached.

    Attributes:
        names: of J contestants.
        types: of K types.
        probabilities: f64[K], of the prior.
        score: f64[J, S, K], accuracy minus attack success, on S worlds.
        accuracy: f64[J, S, K].
        asr: f64[J, S, K], NaN for types without a backdoor.
        kept: f64[J, S, K, 2], shares of honest and of malicious rows kept; NaN for rules.
        about: settings, JSON.
    """

    names: list[str]
    types: list[str]
    probabilities: np.ndarray
    score: np.ndarray
    accuracy: np.ndarray
    asr: np.ndarray
    kept: np.ndarray
    about: dict

    def mean(self, j: int) -> np.ndarray:
        """f64[S], over the prior."""
        return self.score[j] @ self.probabilities

    def regret(self, j: int) -> np.ndarray | None:
        """f64[S], mean score of ``told`` minus this one's; None where ``told`` did not play."""
        if "told" not in self.names:
            return None
        return self.mean(self.names.index("told")) - self.mean(j)

    def to_json(self) -> dict:
        """All numbers, one row a contestant."""
        rows = []
        for j, name in enumerate(self.names):
            regret = self.regret(j)
            worst = int(self.score[j].mean(axis=0).argmin())
            rows.append(
                {
                    "contestant": name,
                    "mean": float(self.mean(j).mean()),
                    "interval": _finite(t_interval(self.mean(j))[1]),
                    "regret": None if regret is None else float(regret.mean()),
                    "regret_interval": None if regret is None else _finite(t_interval(regret)[1]),
                    "worst_type": self.types[worst],
                    "worst": float(self.score[j, :, worst].mean()),
                    "score": self.score[j].tolist(),
                    "accuracy": self.accuracy[j].tolist(),
                    "asr": [[_finite(v) for v in row] for row in self.asr[j]],
                    "kept": [[[_finite(v) for v in each] for each in row] for row in self.kept[j]],
                }
            )
        return {**self.about, "types": self.types, "rows": rows}


def judge(
    contestants: Sequence[Contestant],
    config: RunConfig,
    dataset: Dataset,
    worlds: Sequence[int],
    stream: int = FINAL,
    split: str = "test",
    on_progress: Callable[[str, int, int], None] = lambda what, done, total: None,
    switch: Switch | None = None,
    responder: Any = None,
) -> Judged:
    """Plays each contestant on each world: same clients, batches, first models and triggers.

    Args:
        contestants: of :func:`~metasg_jax.evaluation.contestants.parse_contestant`.
        config: what is played; its rule and post-training defence are not read, its observation
            only where it is of ``clients``.
        dataset: the images.
        worlds: their numbers within the stream.
        stream: ``FINAL`` or ``SELECTION``.
        split: ``test`` or ``validation``.
        on_progress: called with who played, how many of how many.
        switch: types that change in mid-run; scores are then against the second.
        responder: how attackers use what they know of the contestant: the name of one
            (:func:`metasg_jax.responders.make_responder`), or itself; by default they know nothing.
    """
    shape = (len(contestants), len(worlds))
    rows = np.empty(shape, object)
    total, done = len(contestants) * len(worlds), 0
    played: dict = {}
    types, probabilities = [], np.zeros(0)
    for s, number in enumerate(worlds):
        base = of_shared_shape(world(trust_game(config), dataset, number, stream))
        types, probabilities = list(base.prior.names), np.asarray(base.prior.probabilities)
        if isinstance(responder, str):
            responder = make_responder(responder, base.attacker_action_size)
        turn = Switch(jnp.arange(len(types)), jnp.int32(0)) if switch is None else switch
        key = jax.random.key(number)
        played = {}
        for j, who in enumerate(contestants):
            rows[j, s] = _judge_one(key, base, who, config, split, played, turn, responder)
            done += 1
            on_progress(who.name, done, total)

    if switch is not None:
        types = [
            f"{name} then {types[then]}" for name, then in zip(types, switch.then, strict=True)
        ]

    def gather(name):
        return np.array([[rows[j, s][name] for s in range(shape[1])] for j in range(shape[0])])

    about = {
        "dataset": config.game.dataset,
        "model": f"{config.game.model} {list(config.game.hidden)}",
        "pool": config.game.pool,
        "partition": config.game.partition,
        "level": config.game.level,
        "root_images": config.game.num_root,
        "clients": [config.fl.num_sampled, config.fl.num_clients],
        "rounds": config.fl.horizon,
        "local_steps": config.fl.local_steps,
        "observation": trust_game(config).game.observation,
        "root_class_share": config.game.root_class_share,
        "switch": None if switch is None else int(switch.at),
        "worlds": [int(w) for w in worlds],
        "stream": int(stream),
    }
    return Judged(
        [c.name for c in contestants], types, probabilities.astype(np.float64),
        gather("score"), gather("accuracy"), gather("asr"), gather("kept"), about,
    )  # fmt: skip


def trust_game(config: RunConfig) -> RunConfig:
    """The same federation where the defender decides about each client."""
    seen = config.game.observation
    game = dataclasses.replace(
        config.game, rule="client_trust", post_defense="none",
        observation=seen if seen.partition(":")[0] == "clients" else "clients",
    )  # fmt: skip
    return dataclasses.replace(config, game=game)


def _judge_one(
    key,
    base,
    who: Contestant,
    config: RunConfig,
    split: str,
    played: dict,
    switch: Switch,
    responder,
):
    """Numbers of one contestant on one world. Runs that differ after the last round are shared."""
    model, kinds = base.model, len(base.prior)
    key_model, key_root = jax.random.split(jax.random.clone(key))
    if "root" not in played:
        played["root"] = train_on_root(key_root, model, base.root_x, base.root_y)
        played["fresh"] = model.ravel(model.init(key_model))
    start = played["root" if who.warm or who.kind == "root_only" else "fresh"]
    what = (
        who.kind,
        who.knobs,
        str(who.rule),
        who.warm,
        who.server_lr,
        who.played or id(who.player),
    )
    if who.kind == "root_only":
        finals = jnp.broadcast_to(start[None], (kinds, *start.shape))
        run = finals, jnp.zeros((kinds,), bool), np.full((kinds, 2), np.nan)
    elif what in played:
        run = played[what]
    else:
        game = base.replace(start=start, fl=base.fl.replace(server_lr=who.server_lr))
        if who.kind == "rule":
            rule = who.rule
            if isinstance(rule, str):
                rule = make_rule(rule, game.fl.num_sampled, config.game.assumed_share, model)
            bare = game.replace(rule=rule, observation=make_observation(who.observation))
            steers = who.player or standing_still(bare.action_size, bare.observation_spec)
            finals, diverged = play_rule(jax.random.clone(key), bare, steers, switch, responder)
            run = finals, diverged, np.full((kinds, 2), np.nan)
        else:
            player = who.player or untrained(game.num_trusted, (4, 4))
            knobs = jnp.asarray(who.knobs, jnp.float32)
            role = jnp.int32(("policy", "told", "constant", "shuffled").index(who.kind))
            run = play_trust(jax.random.clone(key), game, player, role, knobs, switch, responder)
        played[what] = run
    finals, diverged, kept = run
    defended = base.replace(post_defense=make_post_defense(who.post))
    measured = measure_finals(jax.random.clone(key), defended, finals, diverged, split, switch.then)
    out = {name: np.asarray(getattr(measured, name)) for name in ("score", "accuracy", "asr")}
    return {**out, "kept": np.asarray(kept)}


def nobody(game) -> Player:
    """The attacker of types that do not respond: the centre of its knobs."""
    return standing_still(game.attacker_action_size, game.attacker_observation_size)


@jax.jit
def play_trust(
    key: Key,
    game,
    player: Player,
    role: jax.Array,
    knobs: jax.Array,
    switch: Switch,
    responder=None,
):
    """An episode a type of a defender that decides about each client.

    Args:
        key: consumed.
        game: with the rule ``client_trust``.
        player: the policy.
        role: 0 the policy decides, 1 who is told, 2 everybody is trusted, 3 the policy's decisions
            are dealt to the clients at random.
        knobs: f32[3] that stand still; NaN where the policy turns them.
        switch: what each type becomes, and when.
        responder: see :func:`judge`.

    Returns:
        (final models f32[K, d], diverged bool[K], shares of honest and malicious rows kept
        f32[K, 2]).
    """
    n = game.num_trusted

    def decide(state, xi, action):
        malicious = game.malicious(state, xi)
        told = jnp.where(malicious, -1.0, 1.0)
        shuffled = jax.random.permutation(jax.random.key(state.round), action[:n])
        trust = jnp.stack([action[:n], told, jnp.ones((n,), jnp.float32), shuffled])[role]
        turned = jnp.where(jnp.isnan(knobs), action[n:], knobs)
        return jnp.concatenate([trust, turned])

    def count(counts, state, xi, action):
        malicious, kept = game.malicious(state, xi), action[:n] > 0
        seen = jnp.stack([~malicious, malicious])
        return counts + jnp.stack([(seen & kept[None]).sum(1), seen.sum(1)])

    zero = jnp.zeros((2, 2), jnp.int32)
    finals, diverged, counts = _play_types(
        key, game, player, zero, count, switch, responder, decide
    )
    kept, seen = counts[:, 0], counts[:, 1]
    return finals, diverged, jnp.where(seen > 0, kept / jnp.maximum(seen, 1), jnp.nan)


@jax.jit
def play_rule(key: Key, game, defender: Player, switch: Switch, responder=None):
    """An episode a type of a rule: (final models f32[K, d], diverged bool[K]).

    ``defender`` turns its knobs, if it has any; of a rule without knobs nobody reads what it plays.
    """
    finals, diverged, _ = _play_types(
        key, game, defender, (), lambda nothing, *_: nothing, switch, responder
    )
    return finals, diverged


def _play_types(
    key: Key, game, defender: Player, tally, count, switch: Switch, responder, override=None
):
    """An episode a type, the same random numbers for all: (f32[K, d], bool[K], tallies [K]).

    ``count(tally, state before the round, type, action) -> tally`` after each round.
    """

    def episode(_, i):
        key_environment, key_policies = jax.random.split(jax.random.clone(key))

        def one(carry, t):
            before, counts = carry
            xi = game.prior[jnp.where(t < switch.at, i, switch.then[i])]
            state, played = rollout(
                jax.random.fold_in(key_environment, t), jax.random.fold_in(key_policies, t),
                game, xi, defender, nobody(game), state=before, num_rounds=1, override=override,
                responder=responder,
            )  # fmt: skip
            return (state, count(counts, before, xi, played.defender.action[0])), None

        state = game.reset(jax.random.fold_in(key_environment, game.horizon), game.prior[i])
        (state, counts), _ = jax.lax.scan(one, (state, tally), jnp.arange(game.horizon))
        return None, (state.w, state.diverged, counts)

    return jax.lax.scan(episode, None, jnp.arange(len(game.prior), dtype=jnp.int32))[1]


@functools.partial(jax.jit, static_argnames="split")
def measure_finals(key: Key, game, finals: jax.Array, diverged: jax.Array, split: str, of):
    """Metrics [K] of final models f32[K, d] behind the game's post-training defence.

    Row i is measured against the type at ``of[i]``.
    """
    images, labels = held_out(game, split)

    def one(_, scanned):
        i, w, gone = scanned
        trained, _ = game.deploy(jax.random.fold_in(key, i), w)
        return None, measure_deployed(game.model, trained, images, labels, game.prior[of[i]], gone)

    counter = jnp.arange(len(game.prior), dtype=jnp.int32)
    return jax.lax.scan(one, None, (counter, finals, diverged))[1]


def summary(judged: Judged) -> tuple[list[str], list[list[str]]]:
    """Header and rows: mean score with its 95 % interval over worlds, regret, worst type."""
    header = ["defence", "score", "±", "regret to the perfect filter", "±", "worst type", "there"]
    rows = []
    for row in judged.to_json()["rows"]:
        regret = ["", ""]
        if row["regret"] is not None and row["contestant"] != "told":
            regret = [f"{row['regret']:+.3f}", _half(row["regret_interval"])]
        rows.append(
            [row["contestant"], f"{row['mean']:.3f}", _half(row["interval"]), *regret,
             row["worst_type"], f"{row['worst']:.3f}"]
        )  # fmt: skip
    return header, rows


def _half(width) -> str:
    return "–" if width is None else f"{width:.3f}"


def _finite(value) -> float | None:
    return float(value) if np.isfinite(value) else None
