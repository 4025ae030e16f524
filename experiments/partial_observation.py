"""Attackers with partial observation of the defender, against the learned defence.

    python experiments/partial_observation.py                 # trains, plays, writes the page
    python experiments/partial_observation.py --stage report  # the table of what has been played

The paper's attacker sees the whole state of the system. Here `rl` (untargeted) and `brl` (backdoor)
learn against the learned defence of the card at q = 0.5, once so, and once with ``partial``
observation: the time, and how many of their clients were sampled, not the global model and its
loss. Same budgets, same defence, one attacker a training seed; judged on
final worlds. The same against Krum and FLTrust is on the page about exploitability.
"""

import dataclasses
import functools

import numpy as np
import tyro
from pages import opening, write_page
from rich.console import Console
from study.campaign import Run, metasg, train
from study.contestants import ATTACKS, Campaign, Trained
from study.jobs import Job, run_jobs
from study.program import commit
from study.report import interval, pm

from metasg_jax.evaluation.tables import markdown_table, with_error
from metasg_jax.programs import exploit

PARTIAL = {attack: attack.replace("@", ":observation=partial@") for attack in ATTACKS}


class Observers(Campaign):
    """Attackers of the learned defences alone."""

    @property
    def library(self) -> list[Trained]:
        """Who sees all, then who does not."""
        attacks = (*ATTACKS, *PARTIAL.values())
        return [Trained(each, attack) for each in self.defences for attack in attacks]


CAMPAIGN = Observers(
    level=0.5, static=(), learners=("card-q0.5",), rule="clipped_trimmed_mean / neuron_clip"
)


def main() -> None:
    """The whole command."""
    run, console = tyro.cli(Run, description=__doc__), Console(soft_wrap=True)
    run = dataclasses.replace(run, outcomes=run.outcomes.with_name("partial_observation"))
    stages = {"train": functools.partial(train, CAMPAIGN), "play": play, "report": report}
    for name, stage in stages.items():
        if run.stage in ("all", name):
            stage(run, console)


def play(run: Run, console: Console) -> None:
    """Every defence against its four attackers; goes on where it stopped."""
    jobs = []
    for defence in CAMPAIGN.defences:
        out = run.outcomes / defence.slug
        attackers = [str(run.attackers / each.name) for each in CAMPAIGN.opponents_of(defence)]
        argv = metasg(
            "exploit", CAMPAIGN.level, defence.spelled(run.runs), f"--worlds={CAMPAIGN.final}",
            "--selection=1", "--zoo=none", f"--out={out}", "--attackers", *attackers,
        )  # fmt: skip
        jobs.append(Job(f"played {out.name}", argv, out.parent / f"{out.name}.log"))
    run_jobs(jobs, run.workers, console)


def report(run: Run, console: Console) -> None:
    """The page.

    Raises:
        SystemExit: for a defence that has not been played to the end.
    """
    rows = []
    for attack in ATTACKS:
        full, partial = (scores(run, each) for each in (attack, PARTIAL[attack]))
        rows.append([
            f"`{attack}`", with_error(*interval(full)), with_error(*interval(partial)),
            pm(interval(partial - full)),
        ])  # fmt: skip
    header = ["attacker", "score left, sees the state", "partial observation", "difference"]
    text = [
        *opening(__doc__, f". Written at commit {commit()}."),
        f"Scores of the defence: {len(CAMPAIGN.seeds)} training seeds, {CAMPAIGN.final} final "
        "worlds; 95 % intervals over both. What an attacker can't see is worth as much to the "
        "defence as the last column says.\n",
        markdown_table(header, rows),
    ]
    write_page(run.out / "partial_observation.md", "\n".join(text) + "\n")
    console.print(f"written to {run.out / 'partial_observation.md'}")


def scores(run: Run, attack: str) -> np.ndarray:
    """f64[T, S] of the learned defence under its own attacker of this kind."""
    found = []
    for defence in CAMPAIGN.defences:
        label = Trained(defence, attack).label
        by_world = {
            row.world: row.score
            for row in exploit.read(run.outcomes / defence.slug)
            if (row.label, row.stream) == (label, "final")
        }
        if not by_world.keys() >= set(range(CAMPAIGN.final)):
            raise SystemExit(f"{defence.slug}: {label} is not played; run stage play")
        found.append([by_world[s] for s in range(CAMPAIGN.final)])
    return np.array(found)


if __name__ == "__main__":
    main()
