"""A pre-trained defender against its controls, on fresh worlds."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from metasg_jax.config import RunConfig
from metasg_jax.data import Dataset
from metasg_jax.evaluation.controls import (
    IDENTITIES,
    GridSearch,
    all_attackers,
    contenders,
    search_fixed,
    whole_grid,
)
from metasg_jax.evaluation.episodes import Outcome, play_types
from metasg_jax.evaluation.tables import Results
from metasg_jax.evaluation.worlds import FINAL, SELECTION, world
from metasg_jax.game.shapes import of_one_shape
from metasg_jax.learning.state import MetaSGState


def evaluate(
    state: MetaSGState,
    config: RunConfig,
    dataset: Dataset,
    num_seeds: int,
    grid: tuple[int, int, int] = (4, 3, 3),
    selection_seeds: int = 2,
    on_progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> tuple[Results, GridSearch | None]:
    """Plays every contender on the same worlds: same clients, batches, models, triggers.

    Learned attackers of adaptive types keep the policy that pre-training left them, whoever they
    meet: for other defenders than the learned one that is no best response.

    Args:
        state: the learner's.
        config: of its run.
        dataset: the images.
        num_seeds: S, final worlds.
        grid: clips x trims x post levels of the best-fixed search; (0, 0, 0) leaves it out, as
            does a rule that can't be steered.
        selection_seeds: worlds of that search; never final ones, and scored on validation images.
        on_progress: called with what is done, how many of how many.
    """
    search = None
    if all(grid) and selection_seeds:
        worlds = of_one_shape(
            [world(config, dataset, s, SELECTION) for s in range(selection_seeds)]
        )
        game = worlds[0]
        if game.action_names in IDENTITIES:
            done = iter(range(1, selection_seeds + 1))
            on_progress("best fixed action", 0, selection_seeds)
            search = search_fixed(
                state,
                worlds,
                config,
                *whole_grid(*grid, game.rule.action_spec, game.post_defense.action_spec),
                lambda: on_progress("best fixed action", next(done), selection_seeds),
            )
    worlds = of_one_shape([world(config, dataset, s, FINAL) for s in range(num_seeds)])
    rows = contenders(state, worlds[0], config, search)
    attackers = all_attackers(state, worlds[0], config)
    groups: dict[str | None, list[int]] = {}
    for j, row in enumerate(rows):
        groups.setdefault(row.rule, []).append(j)
    played: list[list[Outcome]] = [[] for _ in rows]
    total, done = num_seeds * len(groups), 0
    for rule, members in groups.items():
        players = [rows[j].player for j in members]
        stacked = jax.tree.map(lambda *a: jnp.stack(a, axis=1), *[p.params for p in players])
        defenders = players[0].replace(params=stacked)
        for seed, base in enumerate(worlds):
            on_progress(rule or "steered rule", done, total)
            game = rows[members[0]].game(base, config.game.assumed_share)
            outcome = play_types(jax.random.key(seed), game, defenders, attackers)
            for place, j in enumerate(members):
                played[j].append(jax.tree.map(lambda a, i=place: np.asarray(a[:, i]), outcome))
            done += 1
    on_progress("done", total, total)

    def gather(pick) -> np.ndarray:
        return np.array([[pick(outcome) for outcome in row] for row in played], np.float64)

    # a static rule has no knobs to report
    shape = (len(rows), num_seeds, len(worlds[0].prior), worlds[0].action_size)
    actions = np.full(shape, np.nan)
    for j, row in enumerate(rows):
        if row.rule is None:
            actions[j] = [outcome.action for outcome in played[j]]
    results = Results(
        names=[row.name for row in rows],
        types=list(worlds[0].prior.names),
        probabilities=np.asarray(worlds[0].prior.probabilities, np.float64),
        accuracy=gather(lambda o: o.final.accuracy),
        asr=gather(lambda o: o.final.asr),
        score=gather(lambda o: o.final.score),
        diverged=gather(lambda o: o.final.diverged) > 0,
        curve=gather(lambda o: o.accuracy),
        rounds=np.asarray(played[0][0].rounds[0]),
        action=actions,
        action_names=list(worlds[0].action_names),
    )
    return results, search
