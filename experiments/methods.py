"""Four ways to pre-train at equal budgets, less memory, and adaptation to a type that is told.

    python experiments/methods.py                 # trains, plays, writes the page; resumable
    python experiments/methods.py --stage report  # tables and figures of what has been played

The game card at q = 0.9, 100,800 FL rounds for each method and training seed: ``bse`` (no
adaptation in its objective), ``meta_sg`` (Algorithm 2, a step of adaptation), ``meta_rl``
(Algorithm 1, two inner steps), and each of them ``-memoryless``, without moving averages of what it
sees (the last action, the last change of the loss and the time are left). The fourth method, the
best fixed action, is found on 216,000 rounds of selection worlds. Attackers of the card never
respond, so that Algorithm 2 differs from ``bse`` by adaptation alone.

``learned`` plays the meta policy frozen. ``told the type and adapted`` is what adaptation promises:
three gradient steps of size 0.03 for each type, which is told, on the game of the pre-training:
10,800 more rounds, outside of the budget.
"""

from pathlib import Path

from study.program import main
from study.report import Outcomes, interval, pm
from study.settings import MEMORYLESS, METHODS, STATIC, Study, on_card

from metasg_jax.evaluation.tables import markdown_table

STUDIES = {
    "methods": Study(
        "Methods at q = 0.9",
        tuple(METHODS),
        on_card(level=0.9),
        static=tuple(each for each in STATIC if each[0] in ("mean", "median", "fltrust")),
        psi_steps=3,
    ),
    "memoryless": Study(
        "The other two without moving averages",
        tuple(MEMORYLESS),
        on_card(level=0.9),
        static=(),
    ),
}


def adaptation(outcomes: dict[str, Outcomes], folder: Path) -> str:
    """What three steps towards the true type add, each method against itself."""
    each = outcomes["methods"]
    rows = []
    for name in METHODS:
        frozen = each.score(f"learned, {name}") @ each.q
        told = each.score(f"told the type and adapted, {name}") @ each.q
        rows.append([name, f"{frozen.mean():.3f}", f"{told.mean():.3f}",
                     pm(interval(told - frozen))])  # fmt: skip
    header = ["method", "frozen", "told the type and adapted", "difference"]
    gains = f"## What adaptation adds\n\n{markdown_table(header, rows)}"
    return f"{gains}\n## What memory adds\n\n{memory(outcomes)}"


def memory(outcomes: dict[str, Outcomes]) -> str:
    """Each method with and without moving averages, on the same worlds, frozen."""
    scores = {
        name.removeprefix("learned, "): each.score(name) @ each.q
        for each in outcomes.values()
        for name in each.by_name
        if name.startswith("learned, ")
    }
    rows = []
    for name in ("bse", "meta_sg", "meta_rl"):
        with_it, without = scores[name], scores[f"{name}-memoryless"]
        rows.append([name, f"{with_it.mean():.3f}", f"{without.mean():.3f}",
                     pm(interval(with_it - without))])  # fmt: skip
    return markdown_table(["method", "moving averages", "memoryless", "difference"], rows)


if __name__ == "__main__":
    main("methods", STUDIES, __doc__, adaptation)
