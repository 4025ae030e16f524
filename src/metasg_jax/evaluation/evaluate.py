"""A pre-trained defender against its controls, on fresh worlds."""

from collections.abc import Callable

import jax
import numpy as np

from metasg_jax.config import RunConfig
from metasg_jax.data import Dataset
from metasg_jax.evaluation.controls import (
    STEERED,
    GridSearch,
    action_grid,
    all_attackers,
    contenders,
    search_fixed,
)
from metasg_jax.evaluation.episodes import play_types
from metasg_jax.evaluation.tables import Results
from metasg_jax.evaluation.worlds import FINAL, SELECTION, world
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
        worlds = [world(config, dataset, s, SELECTION) for s in range(selection_seeds)]
        if worlds[0].action_names == STEERED:
            done = iter(range(1, selection_seeds + 1))
            on_progress("best fixed action", 0, selection_seeds)
            search = search_fixed(
                state,
                worlds,
                config,
                action_grid(*grid[:2]),
                np.linspace(1.0, -1.0, grid[2]),
                lambda: on_progress("best fixed action", next(done), selection_seeds),
            )
    worlds = [world(config, dataset, s, FINAL) for s in range(num_seeds)]
    rows = contenders(state, worlds[0], config, search)
    attackers = all_attackers(state, worlds[0], config)
    outcomes = []
    for row in rows:
        outcomes.append([])
        for seed, base in enumerate(worlds):
            on_progress(row.name, seed, num_seeds)
            game = row.game(base, config.game.assumed_share)
            outcome = play_types(jax.random.key(seed), game, row.player, attackers)
            outcomes[-1].append(jax.tree.map(np.asarray, outcome))
        on_progress(row.name, num_seeds, num_seeds)

    def gather(pick) -> np.ndarray:
        return np.array([[pick(outcome) for outcome in row] for row in outcomes], np.float64)

    # a static rule has no knobs to report
    shape = (len(rows), num_seeds, len(worlds[0].prior), worlds[0].action_size)
    actions = np.full(shape, np.nan)
    for j, row in enumerate(rows):
        if row.rule is None:
            actions[j] = [outcome.action for outcome in outcomes[j]]
    results = Results(
        names=[row.name for row in rows],
        types=list(worlds[0].prior.names),
        probabilities=np.asarray(worlds[0].prior.probabilities, np.float64),
        accuracy=gather(lambda o: o.final.accuracy),
        asr=gather(lambda o: o.final.asr),
        score=gather(lambda o: o.final.score),
        diverged=gather(lambda o: o.final.diverged) > 0,
        curve=gather(lambda o: o.accuracy),
        rounds=outcomes[0][0].rounds[0],
        action=actions,
        action_names=list(worlds[0].action_names),
    )
    return results, search
