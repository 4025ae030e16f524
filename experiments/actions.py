"""A richer action set: what a knob for trust in the server's own update is worth.

    python experiments/actions.py                 # trains, plays, writes the page; resumable
    python experiments/actions.py --stage report  # tables and figures of what has been played

FLTrust, a fixed rule, is no action of the card's defender, and a strong opponent of it. Rule
``trusted_trimmed_mean`` has it as the end of a third knob: how much of the update is FLTrust's, the
rest is the clipped trimmed mean's. The game card at q = 0.9 is played with that rule: a learner of
its own, and references of its own, the card's 160 constant actions at a trust of 0 and one half,
and FLTrust with each level of the post-training defence.
"""

from study.program import main
from study.settings import Study, on_card

STUDIES = {
    "trust": Study(
        "With trust, q = 0.9", ("trust-q0.9",), on_card(level=0.9, rule="trusted_trimmed_mean")
    )
}

if __name__ == "__main__":
    main("actions", STUDIES, __doc__)
