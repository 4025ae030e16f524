"""Each post-training defence, on and off, with a learned policy and with static rules.

    python experiments/post_training.py                 # trains, plays, writes the page; resumable
    python experiments/post_training.py --stage report  # tables and figures of what has been played

The game card at q = 0.9, 100,800 FL rounds a defender, three training seeds. The post-training
defence acts on a copy of the model, on the server's 200 root images, and so in each round's reward;
a policy turns its knob, if it has one. A policy is trained for each defence and one for none, and
each is judged with what it was trained with; so is FLTrust, with the defence at its default.
"""

from pathlib import Path

from study.program import main
from study.report import Outcomes, interval, pm
from study.settings import POST_DEFENSES, SEEDS, Study, on_card

from metasg_jax.evaluation.tables import markdown_table

STUDIES = {
    name: Study(
        f"With {name}" if name != "none" else "Without",
        ("bse",) if name == "neuron_clip" else (f"post-{name}",),
        on_card(level=0.9, post_defense=name),
        training_seeds=SEEDS[:3],
        selection_worlds=0,
        grid=(6, 4, 4),
        static=(("mean", name), ("fltrust", name)),
    )
    for name in (POST_DEFENSES[0], "neuron_clip", *POST_DEFENSES[1:])
}


def on_and_off(outcomes: dict[str, Outcomes], folder: Path) -> str:
    """What each adds to none: score, accuracy and attack success, learned and with FLTrust."""
    sections = []
    for title, contender in (
        ("A learned policy", lambda each: f"learned, {each.study.learners[0]}"),
        ("FLTrust", lambda each: f"fltrust / {each.study.static[0][1]}"),
        ("The plain mean", lambda each: f"mean / {each.study.static[0][1]}"),
    ):
        off = outcomes["none"]
        without = off.by_name[contender(off)]
        targeted = ["bfl" in name for name in off.names]
        rows = []
        for name, each in outcomes.items():
            values = each.by_name[contender(each)]
            gain = (values - without)[..., 0]
            rows.append([
                name, f"{values[..., 0].mean():.3f}",
                "" if name == "none" else pm(interval(gain.mean(axis=2))),
                "" if name == "none" else pm(interval(gain[..., targeted].mean(axis=2))),
                f"{values[..., 0, 1].mean():.3f}", f"{values[:, :, targeted, 1].mean():.3f}",
                f"{values[:, :, targeted, 2].mean():.3f}",
            ])  # fmt: skip
        header = ["post-training defence", "score", "minus none", "of it, backdoors' types",
                  "clean accuracy, no attack", "accuracy, backdoors", "attack success"]  # fmt: skip
        sections.append(f"### {title}\n\n{markdown_table(header, rows)}")
    return "## On and off\n\n" + "\n".join(sections)


if __name__ == "__main__":
    main("post_training", STUDIES, __doc__, on_and_off)
