"""What Stackelberg play adds: defenders that were trained against attackers who respond.

    python experiments/stackelberg.py                 # trains, plays, writes the page; resumable
    python experiments/stackelberg.py --stage report  # tables and figure of what has been played
    python experiments/stackelberg.py --budget full --workers 1  # on a GPU, a page of its own

The game card at q = 0.5 with a knob for trust, ten types of which two learn: `rl` and `brl`.
``adaptive-meta_sg`` is Algorithm 2 with real best responses and a step of adaptation,
``adaptive-bse`` the same without adaptation, ``adaptive-meta_rl`` Algorithm 1, whose attackers
never respond; some 115,000 FL rounds each, and more for what attackers learn from. Then attackers
best-respond to each deployed policy, which stands still. Opponents and worst cases are as on the
page on exploitability. Three training seeds each, five at the full budget.

What is deployed is the meta policy, by its mode. Attackers learn too against the policy that Psi
makes of it, told who attacks, by as many steps of the same size as in pre-training, and against the
policy that samples its actions.
"""

from study.campaign import main
from study.contestants import Campaign
from study.settings import SEEDS

CAMPAIGN = Campaign(
    level=0.5,
    static=("mean", "clipped_median:max_norm=0.6", "fltrust"),
    learners=("adaptive-meta_sg", "adaptive-bse", "adaptive-meta_rl"),
    rule="trusted_trimmed_mean / neuron_clip",
    adapted=("adaptive-meta_sg", "adaptive-meta_rl"),
    randomized=("adaptive-meta_sg",),
    seeds=SEEDS[:3],
    beginnings=1,
)

if __name__ == "__main__":
    main("stackelberg", CAMPAIGN, __doc__)
