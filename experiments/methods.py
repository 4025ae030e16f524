"""Four ways to pre-train, at equal budgets, with and without memory, with and without adaptation.

    python experiments/methods.py                 # trains, plays, writes the page; resumable
    python experiments/methods.py --stage report  # tables and figures of what has been played

The game card at q = 0.9, 100,800 FL rounds for each method and training seed: ``bse`` (no
adaptation in its objective), ``meta_sg`` (Algorithm 2, a step of adaptation), ``meta_rl``
(Algorithm 1, two inner steps) and ``bse-memoryless``, which sees the round without moving averages;
the fourth method, the best fixed action, is found on 216,000 rounds of selection worlds. Attackers
of the card never respond, so that Algorithm 2 differs from ``bse`` by adaptation alone.

``learned`` plays the meta policy frozen. ``told the type and adapted`` is what adaptation promises:
three gradient steps of size 0.03 for each type, which is told, on the game of the pre-training.
"""

from study.program import main
from study.settings import METHODS, STATIC, Study, on_card

STUDIES = {
    "methods": Study(
        "Methods at q = 0.9",
        tuple(METHODS),
        on_card(level=0.9),
        static=tuple(each for each in STATIC if each[0] in ("mean", "median", "fltrust")),
        psi_steps=3,
    )
}

if __name__ == "__main__":
    main("methods", STUDIES, __doc__)
