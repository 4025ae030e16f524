"""Colluders that send unlike vectors: what is left when attackers do not show by being alike.

    python experiments/colluders.py                 # trains, plays, writes the page; resumable
    python experiments/colluders.py --stage report  # tables and figures of what has been played

The game card at q = 0.9, its learners as they are. Crafted attacks send one vector from all of
their clients, which may be what gives them away. Here each client multiplies each coordinate by 1
plus Gaussian noise of its own, of deviation 0.5 and 1, and brings the vector back to its norm:
colluders then have cosines of 0.8 and 0.5 with each other, in every layer. Backdoor clients train
on images of their own and are unlike as they are.

The best fixed action and the two-phase control come from the types without noise, on selection
worlds; the references of the recovery are chosen in hindsight, on the final worlds.
"""

from study.program import main
from study.settings import CARD, Study, on_card


def noisy(noise: float) -> tuple[str, ...]:
    """The crafted attacks among the card's types, with noise."""
    return (
        f"ipm:scale=1,noise={noise:g}@0.2",
        f"ipm:scale=5,noise={noise:g}@0.2",
        f"alie:z=1.5,noise={noise:g}@0.2",
        f"lmp:z=2,noise={noise:g}@0.2",
        f"ipm:scale=2,noise={noise:g}@0.1+bfl:boost=3@0.05",
    )


STUDIES = {
    f"noise{noise:g}": Study(
        f"Noise of {noise:g}",
        ("card-q0.9",),
        on_card(level=0.9, types=noisy(noise)),
        known=CARD.game.types,
    )
    for noise in (0.5, 1.0)
}

if __name__ == "__main__":
    main("colluders", STUDIES, __doc__)
