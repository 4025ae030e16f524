"""Adaptation online: a run block after block, and what it gains in many."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from metasg_jax.evaluation.plots.save import save


def adaptation(
    rows: Sequence[dict], types: Sequence[str], knobs: Sequence[str], title: str, path: Path
) -> None:
    """A run with adaptation over its rounds: belief, actions, rewards, and the guard's decisions.

    Args:
        rows: a block each, as adapt.csv has them.
        types: that the belief is over.
        knobs: of the policy.
        title: above the first panel.
        path: of the picture.
    """
    rounds = [row["round"] for row in rows]
    figure = Figure(figsize=(8, 8.4), layout="constrained")
    beliefs, actions, rewards = figure.subplots(3, 1, sharex=True)
    shares = [[row[f"belief {name}"] for row in rows] for name in types]
    beliefs.stackplot(
        rounds, shares, labels=types, colors=[f"C{k % 10}" for k in range(len(types))]
    )
    strange = [row["round"] for row in rows if row["stranger"]]
    if strange:
        beliefs.plot(strange, [0.97] * len(strange), "k*", ms=7, label="a stranger")
    beliefs.set_ylabel("belief")
    beliefs.set_ylim(0, 1)
    beliefs.set_title(title, fontsize=10)
    for knob in knobs:
        actions.plot(rounds, [row[knob] for row in rows], marker="o", ms=3, label=knob)
    actions.set_ylabel("mean action of the block")
    actions.set_ylim(-1.05, 1.05)
    for name, color in (("estimated reward", "black"), ("hidden reward", "tab:red")):
        rewards.plot(rounds, [row[name] for row in rows], color=color, label=name)
    for decision, marker in (("accepted", "^"), ("rejected", "x")):
        there = [row for row in rows if row["decision"] == decision]
        rewards.plot(
            [row["round"] for row in there], [row["estimated reward"] for row in there],
            marker, color="tab:blue", ls="", label=f"candidate {decision}",
        )  # fmt: skip
    rewards.set_ylabel("reward a round")
    rewards.set_xlabel("round")
    for axis in (beliefs, actions, rewards):
        axis.grid(alpha=0.25)
        axis.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    save(figure, path)
