"""The game card: a learned defender beside its controls, at three heterogeneities.

    python experiments/card.py                    # trains, plays, writes the page; resumable
    python experiments/card.py --stage report     # tables and figures of what has been played

MNIST average-pooled to 14x14, MLP 196-64-10, learning rate 0.3, batch 64, one local step, 100
clients of which 10 are sampled, 20 % malicious, 100 rounds, nine types. The learner is preset
``cpu`` with no adaptation in its objective (the Bayesian Stackelberg equilibrium: the meta policy
is what is played); 5 training seeds of 201,600 FL rounds, 6 final worlds with triggers, targets and
partitions of their own. The types are those of the prior, and hidden: uncertain types.

Score: accuracy minus attack success after round 100. Differences: half the 95 % interval, over
training seeds and worlds for what is trained or drawn anew, over worlds for what is not. Recovery:
(score - best fixed) / (oracle - best fixed), against references chosen on the final worlds and on
selection worlds; intervals over training seeds.
"""

from study.program import main
from study.settings import Study, on_card

STUDIES = {
    "q0.9": Study("q = 0.9", ("card-q0.9", "inversion-q0.9"), on_card(level=0.9)),
    "q0.5": Study("q = 0.5", ("card-q0.5",), on_card(level=0.5)),
    "q0.1": Study("q = 0.1", ("card-q0.1",), on_card(level=0.1)),
}

if __name__ == "__main__":
    main("card", STUDIES, __doc__)
