"""Transfer without retraining: the card's defenders in other games.

    python experiments/transfer.py                 # trains, plays, writes the page; resumable
    python experiments/transfer.py --stage report  # tables and figures of what has been played

Policies of the game card at q = 0.9 play where they were not trained: whole images with an MLP
784-64-10, a small CNN on whole images in batches of 16, Fashion-MNIST, episodes of 500 rounds.
Nothing is learned there but the mean and deviation by which observations are normalised, taken anew
from what the policies see in two selection worlds.

The references of the recovery are chosen in hindsight in the new game, which the policies know
nothing of.
"""

from study.program import main
from study.settings import STATIC, Study, on_card

_FEW = tuple(each for each in STATIC if each[0] in ("mean", "median", "fltrust"))


def _transfer(title: str, final_worlds: int = 6, **changes) -> Study:
    return Study(
        title,
        ("card-q0.9",),
        on_card(level=0.9, **changes),
        selection_worlds=0,
        final_worlds=final_worlds,
        static=_FEW,
        adjusted=2,
    )


STUDIES = {
    "mlp784": _transfer("Whole images, MLP 784-64-10", pool=1, final_worlds=2),
    "fashion": _transfer("Fashion-MNIST", dataset="fashion_mnist", final_worlds=4),
    "h500": _transfer("Episodes of 500 rounds", horizon=500, final_worlds=2),
    "cnn": _transfer(
        "A CNN", model="cnn", pool=1, hidden=(4, 8, 16), batch_size=16, final_worlds=2
    ),
}

if __name__ == "__main__":
    main("transfer", STUDIES, __doc__)
