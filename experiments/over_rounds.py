"""Accuracy and attack success over the rounds, against an attacker who learned and a mixed attack.

    python experiments/over_rounds.py                 # plays, writes the page; resumable
    python experiments/over_rounds.py --stage report  # figures and tables of what has been played

After Figure 2 (a) of the paper and its mixed attack, in the game card at q = 0.5. Under `rl` every
defence meets the attacker that learned to respond to it (20 % of the clients, white-box); under the
mixed attack 5 % of the clients plant a backdoor and 10 % send IPM. A learned defence is its meta
policy, which stands still, each training seed with its own attacker; no attack is the plain mean's
course without attackers.

Policies and attackers come from `exploitability.py` and `stackelberg.py`; what these have not
trained is asked for by name.
"""

import dataclasses
from pathlib import Path
from typing import Literal

import exploitability
import jax
import numpy as np
import stackelberg
import tyro
from pages import opening, write_page
from rich.console import Console
from study.contestants import Defence, Trained
from study.program import commit
from study.report import interval
from study.settings import CARD

from metasg_jax.data import load
from metasg_jax.evaluation.episodes import play_types
from metasg_jax.evaluation.plots import over_rounds
from metasg_jax.evaluation.tables import markdown_table, with_error
from metasg_jax.evaluation.worlds import FINAL
from metasg_jax.programs.device import enable_compilation_cache
from metasg_jax.programs.exploit import contests, load_attacker
from metasg_jax.programs.run_directory import whole
from metasg_jax.programs.train_attacker import LEARNER, contest, opponent_of

LEARNED = {"adaptive-meta_sg": stackelberg.CAMPAIGN, "card-q0.5": exploitability.CAMPAIGN}
STATIC = {
    "krum": "krum",
    "clipped median": "clipped_median:max_norm=0.6",
    "fltrust / neuron_clip": "fltrust / neuron_clip",
    "best fixed action": exploitability.BEST_FIXED,
    "mean": "mean",
}
RL, MIXED = "rl@0.2", "ipm:scale=2@0.1+bfl:boost=3@0.05"
WORLDS, POINTS = 6, 20
NO_ATTACK = "no attack"


def groups() -> dict[str, list[Defence]]:
    """The defences by name, one a training seed where there are any."""
    learned = {name: campaign.learned[name] for name, campaign in LEARNED.items()}
    return learned | {name: [Defence(spelled)] for name, spelled in STATIC.items()}


@dataclasses.dataclass(frozen=True)
class Run:
    """How it is run; nothing here changes a result."""

    stage: Literal["all", "play", "report"] = "all"
    """One stage, or both in order; what is there already is not done again."""
    runs: Path = Path("runs/learners")
    """Where pre-training runs are kept."""
    attackers: Path = Path("runs/attackers")
    """Where attackers are kept."""
    outcomes: Path = Path("runs/over_rounds")
    """Where curves are kept, a file a defence."""
    out: Path = Path("docs/results")
    """Where the page and its figures are put."""


def main() -> None:
    """The whole command."""
    run, console = tyro.cli(Run, description=__doc__), Console(soft_wrap=True)
    if run.stage in ("all", "play"):
        enable_compilation_cache()
        play(run, console)
    if run.stage in ("all", "report"):
        report(run, console)


def play(run: Run, console: Console) -> None:
    """Every defence against its own attacker, the mixed attack and nobody.

    Raises:
        CheckpointError: for a policy or an attacker that has not been trained.
    """
    dataset = load(CARD.game.dataset)
    game = dataclasses.replace(CARD.game, level=0.5)
    run.outcomes.mkdir(parents=True, exist_ok=True)
    for defence in (each for group in groups().values() for each in group):
        path = run.outcomes / f"{defence.slug}.npz"
        if path.is_file():
            continue
        spelled = defence.spelled(run.runs)
        own = load_attacker(run.attackers / Trained(defence, RL).name, dataset)
        opponent = opponent_of(spelled, RL, game, CARD.fl, LEARNER, lambda _: dataset)
        found = {}
        for types, _, state, config in contests(opponent, [own], ("none", MIXED), dataset):
            each = [course(state, config, dataset, s, types) for s in range(WORLDS)]
            for k, text in enumerate(types):
                for name in ("accuracy", "asr"):
                    values = [np.asarray(getattr(outcome, name))[k, 0] for outcome in each]
                    found[f"{text}|{name}"] = np.stack(values)
            found["rounds"] = np.asarray(each[0].rounds)[0, 0]
        with whole(path) as part:
            np.savez(part, **found)
        console.print(f"played {defence.slug}")


def course(state, config, dataset, s: int, types: tuple[str, ...]):
    """One final world, along its rounds."""
    key, world, defender, attackers = contest(state, config, dataset, s, types, FINAL)
    several = jax.tree.map(lambda a: np.broadcast_to(a, (len(types), 1, *a.shape)), defender.params)
    defenders = defender.replace(params=several)
    return play_types(key, world, defenders, attackers, num_points=POINTS)


def report(run: Run, console: Console) -> None:
    """The page and its two figures."""
    kept = {
        name: [dict(np.load(run.outcomes / f"{each.slug}.npz")) for each in group]
        for name, group in groups().items()
    }
    rounds = kept["mean"][0]["rounds"]

    def curves(text: str, metric: str) -> dict[str, np.ndarray]:
        """f64[S, P] by defence, the mean over training seeds."""
        found = {
            name: np.mean([part[f"{text}|{metric}"] for part in parts], axis=0)
            for name, parts in kept.items()
        }
        if metric == "accuracy":
            found[NO_ATTACK] = kept["mean"][0]["none|accuracy"]
        return found

    figures = {
        "rl": {f"accuracy under {RL}": curves(RL, "accuracy")},
        "mixed": {
            f"accuracy under {MIXED}": curves(MIXED, "accuracy"),
            "attack success": curves(MIXED, "asr"),
        },
    }
    text = [
        *opening(__doc__, f". Written at commit {commit()}."),
        f"At the last point of the curves, round {rounds[-1]}; 95 % intervals over {WORLDS} final "
        "worlds, and over training seeds where there are any.\n",
    ]
    for name, panels in figures.items():
        over_rounds(panels, rounds, run.out / f"over_rounds-{name}.png")
    for text_of, metrics in ((RL, ("accuracy",)), (MIXED, ("accuracy", "asr"))):
        rows = []
        for name, parts in kept.items():
            last = {m: np.stack([part[f"{text_of}|{m}"][:, -1] for part in parts]) for m in metrics}
            rows.append([name, *(with_error(*interval(last[m])) for m in metrics)])
        text += [f"## Under `{text_of}`\n", markdown_table(["defence", *metrics], rows)]
        text.append(f"![over rounds](over_rounds-{'rl' if text_of == RL else 'mixed'}.png)\n")
    write_page(run.out / "over_rounds.md", "\n".join(text) + "\n")
    console.print(f"written to {run.out / 'over_rounds.md'}")


if __name__ == "__main__":
    main()
