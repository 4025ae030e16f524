"""An attacker that becomes another one in mid-run: does a defence notice that has settled?

    python experiments/switching.py                 # trains, plays, writes the page; resumable
    python experiments/switching.py --stage report  # tables and figures of what has been played

The game card at q = 0.9, its learners as they are. Each of the nine types is followed by another
one from round 50 on, four places down the table, and scores are against the second. The two-phase
control has looked at rounds 0 to 24 and plays on what it saw there; one that is told when looks
again at rounds 50 to 74. ``oracle`` plays each type's best action in its time.

The best fixed action, the oracle and the two-phase controls come from types that do not switch, on
selection worlds; the references of the recovery (``hindsight``) are constant actions for each pair.
"""

from study.program import main
from study.settings import Study, on_card

STUDIES = {
    "switching": Study(
        "Types that switch at round 50", ("card-q0.9",), on_card(level=0.9, second=4)
    )
}

if __name__ == "__main__":
    main("switching", STUDIES, __doc__)
