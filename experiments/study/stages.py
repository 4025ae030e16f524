"""The worlds of a study, one at a time: what is played in each, as arrays by name.

``references``  scores of the grid on a selection world
``first_phase`` what the best fixed action shows there, for the two-phase control's classifier
``normalize``   moments of what the learned policies see there, where normalisers are adjusted
``adapt``       a training seed's policies adapted to each type, told it, where that is asked for
``final``       everything, on a final world
"""

import dataclasses
import hashlib
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from metasg_jax.evaluation.controls import all_attackers, whole_grid
from metasg_jax.evaluation.episodes import score_actions
from metasg_jax.evaluation.schedules import (
    constant,
    phase_features,
    play_policies,
    play_policy,
    play_schedules,
    shuffled,
    swapped,
    two_phase,
)
from metasg_jax.evaluation.worlds import FINAL, SELECTION, world
from metasg_jax.game.make import make_game, make_observation, make_post_defense, make_rule
from metasg_jax.game.rollout import Normalizer, Player, init_normalizer
from metasg_jax.game.shapes import of_shared_shape
from metasg_jax.learning.adaptation import adapt
from metasg_jax.learning.state import attacker_player, defender_player, init_state
from metasg_jax.policies import Fixed
from metasg_jax.programs.run_directory import whole
from study.settings import LEARNERS, Study, World
from study.training import trained


class Place(NamedTuple):
    """Where a study's files are.

    Attributes:
        study: what is played.
        folder: of its outcomes.
        runs: of the learners.
    """

    study: Study
    folder: Path
    runs: Path

    def made_with(self, stage: str) -> str:
        """All settings that a stage's outcomes depend on, as they are kept beside them."""
        study = self.study
        if stage == "references":
            return repr((study.selection, study.grid))
        if stage == "first_phase":
            also = (study.selection_worlds, study.phase, study.repeats, observations(self))
            return repr((study.selection, study.grid, *also, windows(study)))
        untitled = dataclasses.replace(study, title="")
        return repr((untitled, [(name, LEARNERS[name]) for name in study.learners]))

    def file(self, stage: str, s: int) -> Path:
        """Of one world. Studies that choose their references alike share those worlds."""
        if stage in ("references", "first_phase"):
            digest = hashlib.sha256(self.made_with(stage).encode()).hexdigest()[:12]
            return self.folder.parent / "selection" / f"{stage}-{digest}-{s}.npz"
        return self.folder / f"{stage}-{s}.npz"

    def is_played(self, stage: str, s: int) -> bool:
        """Whether a world has been played, with the settings as they are now."""
        if not self.file(stage, s).is_file():
            return False
        with np.load(self.file(stage, s)) as kept:
            return "made_with" in kept and str(kept["made_with"]) == self.made_with(stage)

    def save(self, stage: str, s: int, found: dict, seconds: float) -> None:
        """Keeps the outcomes of a world; there is never half a file."""
        file = self.file(stage, s)
        file.parent.mkdir(parents=True, exist_ok=True)
        with whole(file) as part:
            np.savez(part, **found, seconds=seconds, made_with=self.made_with(stage))

    def read(self, stage: str, count: int) -> list[dict[str, np.ndarray]]:
        """The outcomes of worlds 0 .. count - 1.

        Raises:
            SystemExit: where one is missing, or was played with other settings.
        """
        missing = [s for s in range(count) if not self.is_played(stage, s)]
        if missing:
            raise SystemExit(
                f"{self.folder.name}: {stage} of worlds {missing} not played with the settings as "
                "they are; run the stage play"
            )
        worlds = [dict(np.load(self.file(stage, s))) for s in range(count)]
        return [{k: v for k, v in each.items() if k != "made_with"} for each in worlds]


def number_of_worlds(study: Study, stage: str) -> int:
    """How many worlds a stage has."""
    return {
        "references": study.selection_worlds,
        "first_phase": study.selection_worlds,
        "normalize": study.adjusted,
        "adapt": len(study.training_seeds) * (study.psi_steps > 0),
        "final": study.final_worlds,
    }[stage]


def draw(kind: World, dataset, stream: int, seed: int):
    """A game that no run was trained on."""
    return of_shared_shape(world(kind.config, dataset, seed, stream))


def nobody(game):
    """The attackers of a prior without adaptive types: parameters that nothing reads."""
    config = World().config
    return all_attackers(init_state(jax.random.key(0), game, config.meta), game, config)


def grid_of(study: Study) -> tuple[np.ndarray, np.ndarray]:
    """All actions f32[J, A] of the grid, and the post-training levels, which vary fastest."""
    rule = make_rule(study.world.game.rule, study.world.fl.num_sampled, 0.2)
    post = make_post_defense(study.world.game.post_defense)
    return whole_grid(*study.grid, rule.action_spec, post.action_spec)


def tried(study: Study) -> np.ndarray:
    """All actions f32[J, A] of the grid."""
    return grid_of(study)[0]


def grid_scores(study: Study, game, seed: int, split: str, switch=None) -> np.ndarray:
    """Scores f32[K, J] of the grid in one world."""
    actions, levels = map(jnp.asarray, grid_of(study))
    scores = score_actions(  # a run for all levels of an action
        jax.random.key(seed), game, actions[:: len(levels)], levels, nobody(game), split, switch
    )
    return np.asarray(scores).reshape(len(game.prior), -1)


def references(place: Place, dataset, s: int) -> dict[str, np.ndarray]:
    """Scores of the grid on a selection world."""
    game = draw(place.study.selection, dataset, SELECTION, s)
    return {"grid": grid_scores(place.study, game, s, "validation")}


def chosen(scores: np.ndarray, actions: np.ndarray, q: np.ndarray):
    """Best fixed action f32[A] and the best of each type f32[K, A] by scores f64[S, K, J]."""
    mean = scores.mean(axis=0)
    return actions[np.argmax(q @ mean)], actions[mean.argmax(axis=1)]


def selected(place: Place) -> tuple[np.ndarray, np.ndarray]:
    """(best fixed action, the best of each known type), from the selection worlds."""
    scores = np.stack(
        [each["grid"] for each in place.read("references", place.study.selection_worlds)]
    )
    return chosen(scores, tried(place.study), uniform(scores.shape[1]))


def uniform(count: int) -> np.ndarray:
    """The prior of all studies."""
    return np.full(count, 1 / count)


def watch(game, action: np.ndarray, observation: str, key, switch=None):
    """Episodes of a constant action, with what a defender would see: f32[K, H, O]."""
    game = game.replace(observation=make_observation(observation))
    normalizer = init_normalizer(game.observation_spec)
    player = Player(jnp.asarray(action), normalizer, Fixed(game.action_size), True)
    return play_policy(key, game, player, nobody(game), switch=switch).observation


def observations(place: Place) -> list[str]:
    """What the study's learners see, each once, in their order."""
    return list(dict.fromkeys(LEARNERS[name].observation for name in place.study.learners))


def windows(study: Study) -> dict[str, int]:
    """When the two-phase controls begin to look: at the start, and where types switch, then."""
    return {"first": 0} | ({"second": study.world.at} if study.world.second else {})


def first_phase(place: Place, dataset, s: int) -> dict[str, np.ndarray]:
    """Features f64[R, K, F] of what the best fixed action shows, by observation and window."""
    study = place.study
    best, _ = selected(place)
    game = draw(study.selection, dataset, SELECTION, s)
    found = {}
    for observation in observations(place):
        keys = [jax.random.fold_in(jax.random.key(s), 1 + r) for r in range(study.repeats)]
        seen = [watch(game, best, observation, key) for key in keys]
        for name, begin in windows(study).items():
            rows = [phase_features(each[:, begin:], study.phase) for each in seen]
            found[f"{name}, {observation}"] = np.stack(rows)
    return found


def classifier(place: Place, window: str, observation: str):
    """Tells the known type from what a window showed; logistic regression."""
    parts = place.read("first_phase", place.study.selection_worlds)
    observation = f"{window}, {observation}"
    xs = np.concatenate(
        [part[observation].reshape(-1, part[observation].shape[-1]) for part in parts]
    )
    repeats, kinds = parts[0][observation].shape[:2]
    ys = np.tile(np.arange(kinds), repeats * len(parts))
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    return model.fit(xs, ys)


def normalize(place: Place, dataset, s: int) -> dict[str, np.ndarray]:
    """Moments of what each learned policy sees in a selection world: count, mean, m2."""
    game = draw(place.study.selection, dataset, SELECTION, s)
    found = {}
    for name in place.study.learners:
        runs = [trained(name, seed, place.runs, dataset) for seed in place.study.training_seeds]
        config = runs[0][0]
        mine = game.replace(observation=make_observation(config.game.observation))
        players = [defender_player(state, mine, config.meta, True) for _, state in runs]
        key = jax.random.fold_in(jax.random.key(s), 99)
        seen = play_policies(key, mine, stacked(players), nobody(mine)).observation
        for t, seed in enumerate(place.study.training_seeds):
            flat = seen[:, t].reshape(-1, seen.shape[-1])
            new = init_normalizer(flat.shape[-1]).update(flat, jnp.ones(len(flat)))
            found[f"{name}|{seed}"] = np.concatenate([new.count[None], new.mean, new.m2])
    return found


def adjusted(place: Place, name: str, seed: int) -> Normalizer:
    """The normaliser of the selection worlds' moments."""
    return joined([p[f"{name}|{seed}"] for p in place.read("normalize", place.study.adjusted)])


def joined(moments: list[np.ndarray]) -> Normalizer:
    """One normaliser of several (count, mean, m2), each f64[1 + 2 O]."""
    size = (len(moments[0]) - 1) // 2
    counts = np.array([part[0] for part in moments])
    means = np.stack([part[1 : 1 + size] for part in moments])
    squares = np.stack([part[1 + size :] for part in moments])
    mean = counts @ means / counts.sum()
    m2 = squares.sum(axis=0) + counts @ (means - mean) ** 2
    return Normalizer(jnp.asarray(counts.sum()), jnp.asarray(mean), jnp.asarray(m2))


def adapt_to_types(place: Place, dataset, t: int) -> dict[str, np.ndarray]:
    """Parameters f32[K, P] of each learner adapted to each type, in its own training game."""
    study, found = place.study, {}
    for name in study.learners:
        config, state = trained(name, study.training_seeds[t], place.runs, dataset)
        game = make_game(config.game, config.fl, dataset)
        meta = config.meta.replace(
            adapt_steps=study.psi_steps, adapt_lr=study.psi_size, group_size=4
        )
        found[name] = np.asarray(_adapted_to_each(jax.random.key(t), game, state, meta))
    return found


@jax.jit
def _adapted_to_each(key, game, state, meta):
    def one(_, scanned):
        i, phi = scanned
        defender = defender_player(state, game, meta)
        attacker = attacker_player(state, game, meta, 0).replace(params=phi)
        adapted, _ = adapt(
            jax.random.fold_in(key, i), game, game.prior[i], defender, attacker, meta.adapt_lr, meta
        )
        return None, ravel_pytree(adapted.params)[0]

    counter = jnp.arange(len(game.prior), dtype=jnp.int32)
    return jax.lax.scan(one, None, (counter, state.phi))[1]


class Judge:
    """Plays contenders in one final world and keeps what they reached."""

    def __init__(self, place: Place, dataset, s: int):
        self.place, self.study, self.dataset, self.s = place, place.study, dataset, s
        self.game = draw(place.study.world, dataset, FINAL, s)
        self.switch = place.study.world.switch
        self.outcomes: dict[str, list] = {}

    @property
    def key(self):
        """The same for all: everything in this world is paired."""
        return jax.random.key(self.s)

    def note(self, name: str, metrics) -> None:
        """Adds metrics [K, T]."""
        values = [np.asarray(each).T for each in (metrics.score, metrics.accuracy, metrics.asr)]
        self.outcomes.setdefault(name, []).extend(np.stack(values, axis=-1))

    def schedules(self, game, controls: list[tuple[str, np.ndarray]]) -> None:
        """Plays schedules (name, f32[K, H, A]), a row of its name each."""
        actions = jnp.asarray(np.stack([each for _, each in controls], axis=1), jnp.float32)
        metrics = play_schedules(self.key, game, actions, nobody(game), switch=self.switch)
        for j, (name, _) in enumerate(controls):
            self.note(name, jax.tree.map(lambda a, j=j: a[:, j : j + 1], metrics))

    def policies(self, game, several: Player, per_type: bool = False):
        """Plays policies of one kind side by side; see ``play_policies``."""
        return play_policies(
            self.key, game, several, nobody(game), switch=self.switch, per_type=per_type
        )


def final(place: Place, dataset, s: int) -> dict[str, np.ndarray]:
    """Outcomes f64[T, K, 3] (score, accuracy, attack success) by contender, on a final world.

    T is 1 for what has no training seed. Beside them ``grid``, scores f32[K, J] of the grid in
    hindsight, and ``told, <observation>`` i64[K], what the two-phase control's classifier says.
    """
    judge = Judge(place, dataset, s)
    found: dict = {"grid": grid_scores(place.study, judge.game, s, "test", judge.switch)}
    if place.study.selection_worlds:
        found |= play_chosen(judge)
    play_learned(judge)
    play_static(judge)
    outcomes = {name: np.array(rows, np.float64) for name, rows in judge.outcomes.items()}
    return found | outcomes


def play_chosen(judge: Judge) -> dict[str, np.ndarray]:
    """The best fixed action, the oracle and the two-phase controls, chosen on selection worlds.

    Returns what the classifiers said. Under a switch the oracle plays each type's best action in
    its time, ``oracle, the second's only`` that of the second from the start, and a second control
    is told when to look again.
    """
    place, study, horizon = judge.place, judge.study, judge.game.horizon
    kinds, phase = len(judge.game.prior), study.phase
    best, per_type = selected(place)
    everyone = np.tile(best, (kinds, 1))
    controls, found = [("best fixed", constant(everyone, horizon))], {}
    at = study.world.at
    if judge.switch is None and not study.known:
        controls.append(("oracle", constant(per_type, horizon)))
    if judge.switch is not None:
        later = per_type[np.asarray(judge.switch.then)]
        in_turn = constant(later, horizon)
        in_turn[:, :at] = per_type[:, None]
        controls += [("oracle", in_turn), ("oracle, the second's only", constant(later, horizon))]
    for observation in observations(place):
        seen = watch(judge.game, best, observation, judge.key, judge.switch)
        for window, begin in windows(study).items():
            features = phase_features(seen[:, begin:], phase)
            told = classifier(place, window, observation).predict(features)
            first = window == "first"
            found["told, " * first + "told when, " * (not first) + observation] = told
            name = f"two-phase, {observation}" + ("" if first else ", told when")
            controls.append((name, two_phase(best, per_type[told], begin + phase, horizon)))
    judge.schedules(judge.game, controls)
    return found


def play_learned(judge: Judge) -> None:
    """The learned policies, untrained ones, and what becomes of their actions elsewhere."""
    study, place = judge.study, judge.place
    schedules: list[tuple[str, np.ndarray]] = []
    for name in study.learners:
        runs = [trained(name, seed, place.runs, judge.dataset) for seed in study.training_seeds]
        config, states = runs[0][0], [state for _, state in runs]
        game = judge.game.replace(observation=make_observation(config.game.observation))
        if study.adjusted:
            states = [
                state.replace(normalizer=adjusted(place, name, seed))
                for state, seed in zip(states, study.training_seeds, strict=True)
            ]
        fresh = [
            init_state(jax.random.key(seed), game, config.meta).replace(normalizer=state.normalizer)
            for state, seed in zip(states, study.training_seeds, strict=True)
        ]
        players = [defender_player(state, game, config.meta, True) for state in (*states, *fresh)]
        played, count = judge.policies(game, stacked(players)), len(states)
        judge.note(f"learned, {name}", jax.tree.map(lambda a, n=count: a[:, :n], played.metrics))
        judge.note(f"untrained, {name}", jax.tree.map(lambda a, n=count: a[:, n:], played.metrics))
        if study.psi_steps:
            rows = [each[name] for each in place.read("adapt", count)]
            unravel = jax.vmap(ravel_pytree(states[0].theta)[1])
            told = [
                player.replace(params=unravel(jnp.asarray(row)))
                for player, row in zip(players, rows, strict=False)
            ]
            # parameters [K, T, ..]: types are scanned over, seeds are side by side
            several = stacked(told)
            by_type = jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), several.params)
            again = judge.policies(game, several.replace(params=by_type), per_type=True)
            judge.note(f"told the type and adapted, {name}", again.metrics)
        for t, seed in enumerate(study.training_seeds):
            actions, rng = np.asarray(played.action)[:, t], np.random.default_rng([seed, judge.s])
            schedules.append((f"swapped input, {name}", swapped(actions)))
            schedules.append((f"shuffled input, {name}", shuffled(rng, actions)))
            if name == study.learners[0]:
                schedules.append(("random", rng.uniform(-1, 1, actions.shape)))
    judge.schedules(judge.game, schedules)


def play_static(judge: Judge) -> None:
    """Fixed rules with their post-training defences, whose knobs stay at their centre."""
    kinds, horizon = len(judge.game.prior), judge.game.horizon
    share = judge.study.world.game.assumed_share
    for rule, post in judge.study.static:
        game = judge.game.replace(
            rule=make_rule(rule, judge.game.fl.num_sampled, share, judge.game.model),
            post_defense=make_post_defense(post),
            observation=make_observation("paper"),
        )
        name = rule if post == "none" else f"{rule} + {post}"
        judge.schedules(game, [(name, np.zeros((kinds, horizon, game.action_size)))])


def stacked(players: list[Player]) -> Player:
    """Players of one kind as one, leaves with a leading axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *players)


STAGES = {
    "references": references,
    "first_phase": first_phase,
    "normalize": normalize,
    "adapt": adapt_to_types,
    "final": final,
}
