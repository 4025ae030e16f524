"""Each post-training defence, on and off, with a learned policy and with static rules.

    python experiments/post_training.py                 # trains, plays, writes the page; resumable
    python experiments/post_training.py --stage report  # tables and figures of what has been played

The game card at q = 0.9. The post-training defence acts on a copy of the model, on the server's 200
root images, and so in each round's reward. The plain mean and FLTrust are played with each of them,
its knob in the middle. A policy turns a defence's knob, if it has one: one is trained without any
and one for each of `neuron_clip` and `prune` (100,800 FL rounds, three training seeds), and judged
with what it was trained with. For the others none is trained: they evaluate or descend a loss many
times in every round, which then takes 2 (`guarded_prune`), 3 and 10 times as long.
"""

from pathlib import Path

from study.program import main
from study.report import Outcomes, interval, pm
from study.settings import POST_DEFENSES, SEEDS, Study, on_card

from metasg_jax.evaluation.tables import markdown_table

ALL = ("none", "neuron_clip", "prune", "guarded_prune", "learned_clip", "fine_tune")


def _study(name: str) -> Study:
    """Of the policy for a defence; that for none has the static rules beside it."""
    return Study(
        "A policy without a post-training defence" if name == "none" else f"A policy for {name}",
        ("bse",) if name == "neuron_clip" else (f"post-{name}",),
        on_card(level=0.9, post_defense=name),
        training_seeds=SEEDS[:3],
        selection_worlds=0,
        final_worlds=4,
        grid=(6, 4, 4),
        static=tuple((rule, each) for rule in ("mean", "fltrust") for each in ALL)
        if name == "none"
        else (),
    )


STUDIES = {f"post-{name}": _study(name) for name in ("neuron_clip", *POST_DEFENSES)}


def on_and_off(outcomes: dict[str, Outcomes], folder: Path) -> str:
    """What each adds to none: score, accuracy and attack success, learned and with static rules."""
    static = outcomes["post-none"].by_name
    groups = {
        "A learned policy": {
            name.removeprefix("post-"): each.by_name[f"learned, {each.study.learners[0]}"]
            for name, each in outcomes.items()
        },
        "FLTrust": {name: static[label("fltrust", name)] for name in ALL},
        "The plain mean": {name: static[label("mean", name)] for name in ALL},
    }
    targeted = ["bfl" in name for name in outcomes["post-none"].names]
    sections = []
    for title, group in groups.items():
        rows = []
        for name in (each for each in ALL if each in group):
            values = group[name]
            gain = (values - group["none"])[..., 0]
            rows.append([
                name, f"{values[..., 0].mean():.3f}",
                "" if name == "none" else pm(interval(gain.mean(axis=2))),
                "" if name == "none" else pm(interval(gain[..., targeted].mean(axis=2))),
                f"{values[:, :, 0, 1].mean():.3f}", f"{values[:, :, targeted, 1].mean():.3f}",
                f"{values[:, :, targeted, 2].mean():.3f}",
            ])  # fmt: skip
        header = ["post-training defence", "score", "minus none", "against backdoors",
                  "accuracy, no attack", "accuracy, backdoors", "attack success"]  # fmt: skip
        sections.append(f"### {title}\n\n{markdown_table(header, rows)}")
    return "## On and off\n\n" + "\n".join(sections)


def label(rule: str, name: str) -> str:
    """Of a static control, in outcomes."""
    return rule if name == "none" else f"{rule} + {name}"


if __name__ == "__main__":
    main("post_training", STUDIES, __doc__, on_and_off)
