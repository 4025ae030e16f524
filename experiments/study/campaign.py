"""A campaign: defences, the attackers that learn against them, and the worst case of each.

Runs of `metasg attack` and `metasg exploit`, side by side and resumed, and the page made of them.
"""

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Literal

import tyro
from pages import opening, write_page
from rich.console import Console

from metasg_jax.evaluation.attack_suite import OWN_KNOWLEDGE
from metasg_jax.evaluation.plots import worst_cases
from metasg_jax.programs.device import enable_compilation_cache
from study import training
from study.contestants import Campaign, Defence, Trained
from study.jobs import Job, run_jobs
from study.program import commit
from study.worst import (
    by_robustness,
    gate_table,
    knowledge_table,
    lines_of,
    own_lines,
    response_table,
    responses,
    worst_of,
    worst_table,
)


@dataclasses.dataclass(frozen=True)
class Run:
    """How it is run; only the budget changes a result."""

    budget: Literal["cpu", "full"] = "cpu"
    """full: 110,400 rounds an attacker and 20 final worlds, for a GPU; with files of its own."""
    stage: Literal["all", "train", "play", "report"] = "all"
    """One stage, or all of them in order; what is there already is not done again."""
    workers: int = 2
    """Processes side by side, one a core."""
    runs: Path = Path("runs/learners")
    """Where pre-training runs are kept; experiments share them."""
    attackers: Path = Path("runs/attackers")
    """Where attackers are kept."""
    outcomes: Path = Path("runs/exploit")
    """Where lines are kept, a directory a defence."""
    out: Path = Path("docs/results")
    """Where the page, its figure and its settings are put."""


def main(page: str, campaign: Campaign, about: str) -> None:
    """The whole command.

    Args:
        page: name of the page, its figure and its settings, in ``docs/results``.
        campaign: what is played.
        about: docstring of the experiment: a title, usage, and what the page says first.
    """
    run, console = tyro.cli(Run, description=about), Console(soft_wrap=True)
    if run.budget == "full":
        page, campaign = f"{page}_full", campaign.full()
        kept = (run.attackers, run.outcomes)
        attackers, outcomes = (path.with_name(f"{path.name}-full") for path in kept)
        run = dataclasses.replace(run, attackers=attackers, outcomes=outcomes)
    stages = {
        "train": lambda: train(campaign, run, console),
        "play": lambda: play(campaign, run, console),
        "report": lambda: report(page, campaign, run, about, console),
    }
    for name, stage in stages.items():
        if run.stage in ("all", name):
            begin = time.perf_counter()
            stage()
            console.print(f"{name}: {time.perf_counter() - begin:.0f} s")


def metasg(command: str, level: float, *arguments: str) -> list[str]:
    return [
        sys.executable, "-m", "metasg_jax.cli", command, "--dataset=mnist",
        f"--game.level={level:g}", *arguments,
    ]  # fmt: skip


def train(campaign: Campaign, run: Run, console: Console) -> None:
    """The learned defences, then the library; what is there is left.

    Raises:
        SystemExit: for an attacker that was made with other settings.
    """
    learned = [(each.name, each.seed) for each in campaign.defences if each.seed is not None]
    training.train(learned, run.runs, run.workers, console)
    enable_compilation_cache()
    jobs = []
    for each in (*campaign.library, *campaign.deployed):
        out = run.attackers / each.name
        about = {
            "against": each.against.spelled(run.runs), "attack": each.attack, "seed": each.seed,
            "tries": campaign.tries, "steps": campaign.steps,
        }  # fmt: skip
        path = out / "attack.json"
        as_named = about | {"against": about["against"] + " (randomized)" * each.against.randomized}
        told = json.loads(path.read_text()) if path.is_file() else as_named
        if any(told.get(name) != value for name, value in as_named.items()):
            raise SystemExit(f"{out} was made with other settings: {told}; move it away")
        if "passed" not in told:
            flags = [f"--{name}={value}" for name, value in about.items()]
            flags += ["--meta.randomized"] * each.against.randomized
            argv = metasg(
                "attack", campaign.level, *flags, "--worlds=0", f"--out={out}", "--resume"
            )
            jobs.append(Job(f"trained {each.name}", argv, out.parent / f"{out.name}.log"))
    run_jobs(jobs, run.workers, console)


def play(campaign: Campaign, run: Run, console: Console) -> None:
    """Every defence against everybody that it meets; goes on where it stopped."""

    def job(defence: Defence, opponents: list[Trained], *arguments: str, folder: str = "") -> Job:
        out = run.outcomes / (folder or defence.slug)
        attackers = [str(run.attackers / each.name) for each in opponents]
        argv = metasg(
            "exploit", campaign.level, defence.spelled(run.runs), f"--worlds={campaign.final}",
            f"--selection={campaign.selection}", f"--out={out}", *arguments,
            *(["--attackers", *attackers] if attackers else []),
        )  # fmt: skip
        return Job(f"played {out.name}", argv, out.parent / f"{out.name}.log")

    jobs = [job(each, campaign.opponents_of(each)) for each in campaign.defences]
    for each in map(Defence, campaign.static):
        jobs.append(job(each, [], "--zoo", *OWN_KNOWLEDGE, folder=f"{each.slug}-own"))
    for each in campaign.deployed:
        jobs.append(
            job(each.against, [each], "--zoo=none", *["--randomized"] * each.against.randomized)
        )
    run_jobs(jobs, run.workers, console)


def report(page: str, campaign: Campaign, run: Run, about: str, console: Console) -> None:
    """The page, its figure and its settings."""
    lines = lines_of(campaign, run.outcomes)
    run.out.mkdir(parents=True, exist_ok=True)
    groups = {name: [Defence(name)] for name in campaign.static} | campaign.learned
    everybody = {
        name: worst_of(name, [campaign.common(lines[each], each) for each in group])
        for name, group in groups.items()
    }
    registered = f"[{page}.json]({page}.json)"
    text = [
        *opening(about, f"; what is registered is in {registered}. Written at commit {commit()}."),
        "## The worst case of each defence\n",
        worst_table(everybody, everybody[campaign.learners[0]]),
        "Scores (accuracy minus attack success) on final worlds; 95 % intervals over worlds, and "
        "over training seeds where a learned defence is in it. The worst of each column was "
        "chosen on selection worlds, so that the worst of all need not be the least of a row; in "
        "hindsight it is chosen on the final worlds, which flatters the attackers.\n",
        f"![worst cases]({page}.png)\n",
        "## Are the attackers strong enough?\n",
        "The gate: at least as strong, in the mean of the final worlds, as the strongest fixed "
        "attack of the same kind and share, those tailored to the rule apart.\n",
        gate_table(campaign, lines, own_lines(campaign, run.outcomes)),
        "`rl` computes with its own clients' updates, and most untargeted attacks of the zoo with "
        "everybody's. The last columns have its strongest rival that knows as little: attacks that "
        "need no more, and the others with their colluders' updates in the place of all.\n",
        "## Who knows what\n",
        knowledge_table(campaign, lines),
    ]
    if len(campaign.learners) > 1:
        found = responses(campaign, run.outcomes, lines)
        text += ["## Under attackers that respond to what is deployed\n",
                 response_table(campaign, found)]  # fmt: skip
        if len(found) < campaign.num_responses:
            text.append("Other ways to deploy them are registered, and have not been played.\n")
    bars = [(each.name, each.fixed.mean(), each.tailored.mean(), each.learned.mean())
            for each in by_robustness(everybody)]  # fmt: skip
    worst_cases(bars, run.out / f"{page}.png")
    write_page(run.out / f"{page}.md", "\n".join(text) + "\n")
    (run.out / f"{page}.json").write_text(json.dumps(campaign.settings(), indent=1) + "\n")
    console.print(f"written to {run.out / f'{page}.md'}")
