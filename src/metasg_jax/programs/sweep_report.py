"""What ``metasg sweep`` says of its runs: a table, and a page that begins with the best."""

from typing import TYPE_CHECKING

import numpy as np

from metasg_jax.evaluation.statistics import mean_se
from metasg_jax.evaluation.tables import markdown_table, with_error

if TYPE_CHECKING:
    from metasg_jax.programs.sweep import Sweep

QUANTITIES = ("accuracy", "asr", "score")


def _moving(sweep: "Sweep") -> list[str]:
    """Columns that say which run it is, of what has more than one value."""
    axes = {
        **sweep.varied,
        "attack": sweep.plan.attacks,
        "defense": sweep.plan.rules,
        "post": sweep.plan.posts,
    }
    return [name for name, values in axes.items() if len(values) > 1]


def table(sweep: "Sweep", rows: list[dict]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: what varies, and mean ± standard error over seeds."""

    def spread(values) -> str:
        return with_error(*mean_se(np.array(values, float)))

    moving = _moving(sweep)
    header = [*moving, "accuracy", "ASR", "score"]
    body = [
        [*(row[name] for name in moving), *(spread(row[name]) for name in QUANTITIES)]
        for row in rows
    ]
    return header, body


def report(sweep: "Sweep", rows, header, body, seconds: float, command: str) -> str:
    plan, settings = sweep.plan, [name for name in _moving(sweep) if name != "attack"]
    means: dict[tuple[str, ...], list[float]] = {}
    for row in rows:
        place = tuple(row[name] for name in settings)
        means.setdefault(place, []).append(float(np.mean(row["score"])))
    best = max(means, key=lambda place: float(np.mean(means[place])))
    named = ", ".join(f"{n} = `{v}`" for n, v in zip(settings, best, strict=True))
    top = f"{np.mean(means[best]):.3f}"
    attacks = f"mean over {len(plan.attacks)} attack(s)"
    if settings:
        first = (
            f"The highest score, {attacks}, is {top}, with {named}; it was chosen on these runs."
        )
    else:
        first = f"The score, {attacks}, is {top}."
    still = {
        "attack": plan.attacks,
        "rule": plan.rules,
        "post-training defence": plan.posts,
        **sweep.varied,
    }
    single = [f"{name} `{values[0]}`" for name, values in still.items() if len(values) == 1]
    fixed = ", ".join([f"{plan.rounds} rounds", *single])
    return "\n".join(
        [
            f"# A sweep on {plan.game.dataset}\n",
            f"**{first}**\n",
            markdown_table(header, body),
            "Score: test accuracy after the last round, minus the attack's success rate (ASR) "
            f"where there is a backdoor; mean ± standard error over {plan.seeds} seed(s), each "
            "with its own splits, partition, model and batches, the same in all rows. Not varied: "
            f"{fixed}.\n",
            f"Command: `{command}`; {seconds:,.0f} s of play. Numbers by seed are in "
            "[sweep.json](sweep.json), settings of each run in `runs/`.\n",
        ]
    )
