"""The simulation gap: pre-trained on real clients' images, or on what a server makes of its own.

    python experiments/simulated.py                 # trains, plays, writes the page; resumable
    python experiments/simulated.py --stage report  # tables and figures of what has been played

The game card at q = 0.9 with a hundred root images. Four defenders are pre-trained for as many
rounds, on partitions of q = 0.1, 0.5 and 0.9 in turn, since the true one is unknown to a server:
``real-clients`` on the data set's images, which no server sees; ``augmented-clients`` on the root
images bent, turned and moved, ``generated-clients`` on new ones by flow matching, both 6,000 made
of the hundred; ``repeated-clients`` on the root images themselves. All are judged on real clients.
"""

from pathlib import Path

from study.program import main
from study.report import Outcomes, interval, pm
from study.settings import OWN, Study, on_card

from metasg_jax.evaluation.tables import markdown_table

STUDIES = {
    "simulated": Study(
        "Real and simulated clients",
        tuple(OWN),
        on_card(level=0.9, num_root=100),
        static=(("mean", "none"), ("median", "none"), ("fltrust", "none")),
    )
}


def simulation_gap(outcomes: dict[str, Outcomes], folder: Path) -> str:
    """What is lost by not knowing the clients' images, each kind against real ones."""
    each = outcomes["simulated"]
    real = each.score("learned, real-clients") @ each.q
    fixed, _ = each.hindsight()
    lead = real.mean() - (fixed @ each.q).mean()
    rows = []
    for name in OWN:
        mine = each.score(f"learned, {name}") @ each.q
        share = (mine.mean() - (fixed @ each.q).mean()) / lead if lead > 0 else float("nan")
        recovery = each.recovery(f"learned, {name}").mean()
        rows.append([name, f"{mine.mean():.3f}", pm(interval(mine - real)),
                     f"{recovery:+.2f}", f"{share:.2f}"])  # fmt: skip
    header = ["clients in pre-training", "score", "minus real clients", "recovery, hindsight",
              "share of the real ones' lead"]  # fmt: skip
    return f"## The simulation gap\n\n{markdown_table(header, rows)}"


if __name__ == "__main__":
    main("simulated", STUDIES, __doc__, simulation_gap)
