"""A prior that is wrong: trained for one mix of attackers, deployed against another.

    python experiments/prior.py                 # trains, plays, writes the page; resumable
    python experiments/prior.py --stage report  # tables and figures of what has been played

The game card at q = 0.9, 100,800 FL rounds a defender and training seed. Half of the attackers that
``bse`` meets have a backdoor; one in ten of those that ``prior-untargeted`` meets, nine in ten for
``prior-backdoors``; `none` is a ninth everywhere. All are judged against each type, and so against
every mix of them: a score under a prior is linear in it, and where the prior drifts from one
deployment to the next, what is lost is the mean of the line along the way. Drift within a run is on
the page about adaptation online.

The best fixed action stands there twice: chosen for the true mix, and for equal shares whatever the
truth is; both in hindsight.
"""

from pathlib import Path

import numpy as np
from study.program import main
from study.report import Outcomes, interval, pm
from study.settings import PRIORS, Study, on_card, prior_of

from metasg_jax.evaluation.plots import lines_over
from metasg_jax.evaluation.tables import markdown_table

STUDIES = {
    "prior": Study(
        "Each type, whatever its share",
        ("bse", *PRIORS),
        on_card(level=0.9),
        selection_worlds=0,
        grid=(6, 4, 4),
        static=(("mean", "none"), ("fltrust", "none")),
    )
}
SHARES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)


def under_each_prior(outcomes: dict[str, Outcomes], folder: Path) -> str:
    """Scores against the true share of backdoors, and what a wrong prior costs."""
    each = outcomes["prior"]
    learned = {name: each.score(f"learned, {name}") for name in each.study.learners}
    mixes = np.array([prior_of(share) for share in SHARES])
    fltrust = each.score("fltrust")
    assumed = int(np.argmax(np.asarray(prior_of(0.5)) @ each.grid.mean(axis=0)))
    curves = {name: values.mean(axis=(0, 1)) @ mixes.T for name, values in learned.items()}
    means = each.grid.mean(axis=0)
    curves["best fixed, for the true mix"] = (mixes @ means).max(axis=1)
    curves["best fixed, for equal shares"] = mixes @ means[:, assumed]
    curves["fltrust"] = fltrust.mean(axis=(0, 1)) @ mixes.T
    lines_over(SHARES, curves, "share of attackers with a backdoor", "score", folder / "prior.png")
    header = ["true share of backdoors", *curves]
    rows = [
        [f"{share:g}", *(f"{curve[i]:.3f}" for curve in curves.values())]
        for i, share in enumerate(SHARES)
    ]
    costs = []
    for name, values in learned.items():
        row = [name]
        for share in (0.1, 0.5, 0.9):
            q = np.asarray(prior_of(share))
            right = {0.1: "prior-untargeted", 0.5: "bse", 0.9: "prior-backdoors"}[share]
            row.append("" if right == name else pm(interval((values - learned[right]) @ q)))
        costs.append(row)
    told = ["trained for", "0.1", "0.5", "0.9"]
    return (
        f"## Scores under every prior\n\n{markdown_table(header, rows)}\n![scores](prior.png)\n\n"
        "What the wrong prior costs: minus the one that was trained for that share of backdoors.\n"
        f"\n{markdown_table(told, costs)}"
    )


if __name__ == "__main__":
    main("prior", STUDIES, __doc__, under_each_prior)
