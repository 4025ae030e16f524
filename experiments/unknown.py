"""Types that a defender never met: trained without three of the card's nine, judged on others.

    python experiments/unknown.py                 # trains, plays, writes the page; resumable
    python experiments/unknown.py --stage report  # tables and figures of what has been played

The game card at q = 0.9. Learner ``unknown-q0.9`` is trained without `alie:z=1.5@0.2`, `bfl@0.2`
and `lmp:z=2@0.2` and judged on these and on three attacks that no learner here has met: `min_max`,
`dba` and `pgd`. ``card-q0.9`` met the first three, and shows what that is worth.

The best fixed action and the two-phase control come from the types that were known, on selection
worlds; the references of the recovery are chosen in hindsight, on the final worlds.

``trust-unknown-q0.9`` is trained like ``unknown-q0.9``, with the third knob of the page on actions,
FLTrust's share; its references have that knob too, and are chosen in hindsight alone.

``wide-unknown-q0.9`` was added after the others had been played: it meets four more types at the
same number of rounds, backdoors of 10 % and of 30 % of the clients among them, and its references
and its two-phase control know these too.
"""

from study.program import main
from study.settings import KNOWN, UNKNOWN, WIDE, Study, on_card

NEVER_MET = ("min_max@0.2", "dba@0.2", "pgd@0.05")

STUDIES = {
    "unknown": Study(
        "Unknown types at q = 0.9",
        ("unknown-q0.9", "card-q0.9"),
        on_card(level=0.9, types=UNKNOWN + NEVER_MET),
        known=KNOWN,
    ),
    "unknown-trust": Study(
        "Unknown types with a knob for trust",
        ("trust-unknown-q0.9",),
        on_card(level=0.9, rule="trusted_trimmed_mean", types=UNKNOWN + NEVER_MET),
        known=KNOWN,
        selection_worlds=0,
        static=(("fltrust", "none"), ("mean", "none")),
    ),
    "unknown-wide": Study(
        "Unknown types and a wider prior",
        ("wide-unknown-q0.9",),
        on_card(level=0.9, types=UNKNOWN + NEVER_MET),
        known=WIDE,
        static=(("fltrust", "none"), ("mean", "none")),
    ),
    "unknown-clean": Study(
        "Without attack",
        ("unknown-q0.9",),
        on_card(level=0.9, types=("none",)),
        known=KNOWN,
        static=(("mean", "none"), ("median", "none"), ("fltrust", "none")),
    ),
}

if __name__ == "__main__":
    main("unknown", STUDIES, __doc__)
