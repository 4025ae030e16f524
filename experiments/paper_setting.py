"""The paper's own setting: whole images, q = 0.5, a small learning rate, episodes of 500 rounds.

    python experiments/paper_setting.py                 # trains, plays, writes the page; resumable
    python experiments/paper_setting.py --stage report  # tables and figures of what has been played

MNIST with 784 inputs, MLP 784-64-10, q = 0.5, local learning rate 0.05, batch 128, H = 500, the
card's nine types. Reported apart from the card: a round is slower and an episode five times as
long, so training has 108,000 FL rounds on three seeds, six outer steps of them, and the references
a coarser grid on fewer worlds.
"""

from study.program import main
from study.settings import PAPER_WORLD, SEEDS, STATIC, Study

_PAPERS = ("mean", "median", "clipped_median:max_norm=0.6", "krum", "fltrust")

STUDIES = {
    "paper": Study(
        "The paper's setting",
        ("paper",),
        PAPER_WORLD,
        training_seeds=SEEDS[:3],
        selection_worlds=2,
        final_worlds=2,
        grid=(4, 3, 2),
        static=tuple(each for each in STATIC if each[0] in _PAPERS and each[1] == "none"),
    ),
}

if __name__ == "__main__":
    main("paper_setting", STUDIES, __doc__)
