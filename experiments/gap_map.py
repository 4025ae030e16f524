"""The adaptation-gap map: one policy over heterogeneities and shares of malicious clients.

    python experiments/gap_map.py                 # trains, plays, writes the page; resumable
    python experiments/gap_map.py --stage report  # tables and figures of what has been played

Where is adaptation worth something? The game card at q = 0.1, 0.5 and 0.9 with 10, 20 and 30 % of
malicious clients: what the best fixed action and the per-type oracle reach in hindsight, and what
one policy does that was trained on all of it at once. It is told neither. Learner ``map``: 64
meta-steps take the three heterogeneities in turn, each draws nine times from 25 types and plays
those that came up, about 8 of them: some 200,000 FL rounds.

References chosen in hindsight on two worlds flatter the oracle; ``left out`` chooses on one world
and scores on the other.
"""

from pathlib import Path

import numpy as np
from study.program import main
from study.report import Outcomes, interval, pm
from study.settings import LEVELS, SHARES, STATIC, Study, on_card, types_at

from metasg_jax.evaluation.plots import gap_map
from metasg_jax.evaluation.statistics import t_interval
from metasg_jax.evaluation.tables import markdown_table

_FEW = tuple(each for each in STATIC if each[0] in ("mean", "median", "fltrust"))


def _name(level: float, share: float) -> str:
    return f"q{level:g}-share{share:g}"


STUDIES = {
    _name(level, share): Study(
        f"q = {level:g}, {share:.0%} malicious",
        ("map",),
        on_card(level=level, types=types_at(share)),
        selection_worlds=0,
        final_worlds=2,
        static=_FEW,
    )
    for level in LEVELS
    for share in SHARES
}


def the_map(outcomes: dict[str, Outcomes], folder: Path) -> str:
    """The nine cells as a table and a figure."""
    header = ["q", "malicious", "best fixed", "oracle", "gap", "gap, left out", "learned",
              "minus best fixed", "recovery"]  # fmt: skip
    rows, gaps, leads = [], np.zeros((3, 3)), np.zeros((3, 3))
    for i, level in enumerate(LEVELS):
        for j, share in enumerate(SHARES):
            each = outcomes[_name(level, share)]
            fixed, oracle = (values @ each.q for values in each.hindsight())
            other_fixed, other_oracle = (values @ each.q for values in each.left_out())
            learned = each.score("learned, map") @ each.q
            gaps[i, j], leads[i, j] = np.mean(oracle - fixed), np.mean(learned - fixed[None])
            rows.append(
                [f"{level:g}", f"{share:.0%}", f"{fixed.mean():.3f}", f"{oracle.mean():.3f}",
                 pm(t_interval(oracle - fixed)),
                 f"{np.mean(other_oracle - other_fixed):+.3f}", f"{learned.mean():.3f}",
                 pm(interval(learned - fixed[None])),
                 pm(t_interval(each.recovery("learned, map")), 2)]
            )  # fmt: skip
    gap_map(gaps, leads, LEVELS, SHARES, folder / "gap_map.png")
    return f"## The map\n\n{markdown_table(header, rows)}\n![map](gap_map.png)\n"


if __name__ == "__main__":
    main("gap_map", STUDIES, __doc__, the_map)
