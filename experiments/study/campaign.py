"""A campaign: defences, the attackers that learn against them, and the worst case of each.

Runs of `metasg attack` and `metasg exploit`, side by side and resumed, and the page made of them.
"""

import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import tyro
from pages import write_page
from rich.console import Console

from metasg_jax import exploit
from metasg_jax.evaluation.plots import worst_cases
from metasg_jax.evaluation.statistics import crossed_interval, t_interval
from metasg_jax.evaluation.tables import markdown_table, with_error
from metasg_jax.exploit import Played
from metasg_jax.zoo import ZOO
from study import training
from study.jobs import Job, run_jobs
from study.program import commit
from study.settings import CARD, SEEDS

ATTACKS = ("rl@0.2", "brl@0.2")
"""Who learns: one without and one with a backdoor, each with 20 % of the clients."""

SUBSTITUTE = "mean"
"""What an attacker learns against that knows nothing of the defence."""

_PLAIN = str.maketrans("/:=,", "____")


class Defence(NamedTuple):
    """One that is deployed.

    Attributes:
        name: a rule with its post-training defence, or a learner's.
        seed: of its training; None of a rule.
    """

    name: str
    seed: int | None = None

    @property
    def slug(self) -> str:
        """For names of folders."""
        plain = self.name.replace(" ", "").translate(_PLAIN)
        return plain if self.seed is None else f"{plain}-{self.seed}"

    def spelled(self, runs: Path) -> str:
        """As `metasg exploit` reads it."""
        if self.seed is None:
            return self.name
        return str(training.folder_of(runs, self.name, self.seed))


class Trained(NamedTuple):
    """An attacker of the library.

    Attributes:
        against: who it learned to respond to.
        attack: its type.
        seed: of its beginning.
    """

    against: Defence
    attack: str
    seed: int = 0

    @property
    def name(self) -> str:
        """Of its directory."""
        kind = self.attack.partition("@")[0].translate(_PLAIN)
        return f"{kind}-{self.against.slug}-{self.seed}"

    @property
    def label(self) -> str:
        """Of its lines."""
        return exploit.label_of(self.attack, self.name)


@dataclasses.dataclass(frozen=True)
class Campaign:
    """Who meets whom.

    Attributes:
        level: heterogeneity q of the card's game.
        static: rules, with post-training defences.
        learners: of ``study.settings.LEARNERS``, on every training seed; the page shows the lead of
            the first over everybody.
        rule: theirs, as an attacker knows it who knows nothing of their policies.
        strongest: static ones against which attackers begin in several ways, as they do against the
            first learner's first seed.
        blind: static ones against which attackers learn too that see nothing of the model.
        beginnings: of those.
        tries: constant actions that an attacker tries.
        steps: batches of four episodes that it learns from.
        selection: worlds on which the worst attack is chosen.
        final: worlds by which it is told.
    """

    level: float
    static: tuple[str, ...]
    learners: tuple[str, ...]
    rule: str
    strongest: tuple[str, ...] = ()
    blind: tuple[str, ...] = ()
    beginnings: int = 3
    tries: int = 48
    steps: int = 16
    selection: int = 2
    final: int = 6

    @property
    def learned(self) -> dict[str, list[Defence]]:
        """Each learner's defences, one a training seed."""
        return {name: [Defence(name, seed) for seed in SEEDS] for name in self.learners}

    @property
    def defences(self) -> list[Defence]:
        """All that are played."""
        return [*map(Defence, self.static), *(each for several in self.learned.values()
                                              for each in several)]  # fmt: skip

    @property
    def library(self) -> list[Trained]:
        """All attackers."""
        found = [Trained(each, attack) for each in (*self.defences, Defence(self.rule))
                 for attack in ATTACKS]  # fmt: skip
        first = [self.learned[name][0] for name in self.learners[:1]]
        found += [
            Trained(each, attack, seed)
            for each in (*map(Defence, self.strongest), *first)
            for attack in ATTACKS
            for seed in range(1, self.beginnings)
        ]
        unseeing = [attack.replace("@", ":observation=partial@") for attack in ATTACKS]
        return found + [Trained(Defence(each), attack) for each in self.blind
                        for attack in unseeing]  # fmt: skip

    def opponents_of(self, defence: Defence) -> list[Trained]:
        """The attackers that a defence meets: its own, its rule's, the substitute's."""
        known = {defence, Defence(SUBSTITUTE)}
        if defence.seed is not None:
            known.add(Defence(self.rule))
        return [each for each in self.library if each.against in known]

    def common(self, rows: Sequence[Played], defence: Defence) -> list[Played]:
        """The lines of a defence by which all are compared: as many attackers for each."""
        names = {
            Trained(against, attack).name
            for against in (defence, Defence(SUBSTITUTE))
            for attack in ATTACKS
        }
        return [row for row in rows if not row.attacker or row.attacker in names]

    def settings(self) -> dict:
        """What is registered, as it is kept beside the page."""
        return json.loads(json.dumps(dataclasses.asdict(self) | {"zoo": ZOO, "attacks": ATTACKS}))


@dataclasses.dataclass(frozen=True)
class Run:
    """How it is run; nothing here changes a result."""

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


def _metasg(command: str, level: float, *arguments: str) -> list[str]:
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
    jobs = []
    for each in campaign.library:
        out = run.attackers / each.name
        about = {
            "against": each.against.spelled(run.runs), "attack": each.attack, "seed": each.seed,
            "tries": campaign.tries, "steps": campaign.steps,
        }  # fmt: skip
        path = out / "attack.json"
        told = json.loads(path.read_text()) if path.is_file() else about
        if any(told.get(name) != value for name, value in about.items()):
            raise SystemExit(f"{out} was made with other settings: {told}; move it away")
        if "passed" not in told:
            flags = [f"--{name}={value}" for name, value in about.items()]
            argv = _metasg(
                "attack", campaign.level, *flags, "--worlds=0", f"--out={out}", "--resume"
            )
            jobs.append(Job(f"trained {each.name}", argv, out.parent / f"{out.name}.log"))
    run_jobs(jobs, run.workers, console)


def play(campaign: Campaign, run: Run, console: Console) -> None:
    """Every defence against everybody that it meets; goes on where it stopped."""
    jobs = []
    for defence in campaign.defences:
        out = run.outcomes / defence.slug
        attackers = [str(run.attackers / each.name) for each in campaign.opponents_of(defence)]
        argv = _metasg(
            "exploit", campaign.level, defence.spelled(run.runs), f"--worlds={campaign.final}",
            f"--selection={campaign.selection}", f"--out={out}", "--attackers", *attackers,
        )  # fmt: skip
        jobs.append(Job(f"played {defence.slug}", argv, out.parent / f"{out.name}.log"))
    run_jobs(jobs, run.workers, console)


Lines = dict[Defence, list[Played]]


def lines_of(campaign: Campaign, run: Run) -> Lines:
    """All lines of each defence.

    Raises:
        SystemExit: for a defence that has not been played to the end.
    """
    found = {}
    counts = {"selection": campaign.selection, "final": campaign.final}
    for defence in campaign.defences:
        rows = exploit.read(run.outcomes / defence.slug)
        wanted = {*ZOO, *(each.label for each in campaign.opponents_of(defence))}
        for stream, count in counts.items():
            for label in sorted(wanted):
                there = {r.world for r in rows if (r.label, r.stream) == (label, stream)}
                if not there >= set(range(count)):
                    raise SystemExit(f"{defence.slug}: {label} is not played; run stage play")
        found[defence] = [
            row for row in rows if row.label in wanted and row.world < counts[row.stream]
        ]
    return found


class Worst(NamedTuple):
    """What a defence comes to; scores f64[T, S] of T training seeds, 1 of a rule, on final worlds.

    Attributes:
        name: of the defence.
        fixed: under the worst fixed attack, as each seed's selection worlds have it.
        tailored: under the worst of those tailored to the rule.
        learned: under the worst of the attackers that learned.
        worst: under the worst of all.
        by: which attacks that was, each once.
        clean: accuracy without attack.
    """

    name: str
    fixed: np.ndarray
    tailored: np.ndarray
    learned: np.ndarray
    worst: np.ndarray
    by: tuple[str, ...]
    clean: float


def worst_of(name: str, runs: list[list[Played]]) -> Worst:
    """The worst cases of a defence; a list of lines for each training seed."""
    kinds: dict[str, list] = {"fixed": [], "tailored": [], "learned": [], "worst": []}
    by, clean = [], []
    for rows in runs:
        found = exploit.cases(rows, rows[0].defence)
        for case in found[:1]:
            kinds["worst"].append(case.final)
            by.append(case.label)
        for kind in ("fixed", "tailored", "learned"):
            kinds[kind].append(next(case.final for case in found if _kind(case) == kind))
        clean.append(next(case.accuracy for case in found if case.label == "none"))
    arrays = {kind: np.array(values) for kind, values in kinds.items()}
    return Worst(name, **arrays, by=tuple(dict.fromkeys(by)), clean=float(np.mean(clean)))


def _kind(case: exploit.Case) -> str:
    if case.learned:
        return "learned"
    return "tailored" if case.label.startswith("tailored") else "fixed"


def report(page: str, campaign: Campaign, run: Run, about: str, console: Console) -> None:
    """The page, its figure and its settings."""
    lines = lines_of(campaign, run)
    run.out.mkdir(parents=True, exist_ok=True)
    groups = {name: [Defence(name)] for name in campaign.static} | campaign.learned
    everybody = {
        name: worst_of(name, [campaign.common(lines[each], each) for each in group])
        for name, group in groups.items()
    }
    title, usage, *paragraphs = about.strip().split("\n\n")
    text = [
        f"# {title.rstrip('.')}\n",
        *(" ".join(paragraph.split()) + "\n" for paragraph in paragraphs),
        f"Command: `{usage.split('#')[0].strip()}`; what is registered is in "
        f"[{page}.json]({page}.json). Written at commit {commit()}.\n",
        "## The worst case of each defence\n",
        worst_table(everybody, everybody[campaign.learners[0]]),
        "Scores (accuracy minus attack success) on final worlds; 95 % intervals over worlds, and "
        "over training seeds where a learned defence is in it. The worst of each column was "
        "chosen on selection worlds, so that the worst of all need not be the least of a row.\n",
        f"![worst cases]({page}.png)\n",
        "## Are the attackers strong enough?\n",
        "The gate: at least as strong, in the mean of the final worlds, as the strongest fixed "
        "attack of the same kind and share, those tailored to the rule apart.\n",
        gate_table(campaign, lines),
        "## Who knows what\n",
        knowledge_table(campaign, lines),
    ]
    bars = [(each.name, each.fixed.mean(), each.tailored.mean(), each.learned.mean())
            for each in _by_robustness(everybody)]  # fmt: skip
    worst_cases(bars, run.out / f"{page}.png")
    write_page(run.out / f"{page}.md", "\n".join(text) + "\n")
    (run.out / f"{page}.json").write_text(json.dumps(campaign.settings(), indent=1) + "\n")
    console.print(f"written to {run.out / f'{page}.md'}")


def _by_robustness(everybody: dict[str, Worst]) -> list[Worst]:
    return sorted(everybody.values(), key=lambda each: -each.worst.mean())


def worst_table(everybody: dict[str, Worst], ours: Worst) -> str:
    """Each defence by its worst case, the most robust first."""
    rows = []
    for each in _by_robustness(everybody):
        lead = "" if each is ours else with_error(*crossed_interval(ours.worst - each.worst), "+")
        scores = (each.fixed, each.tailored, each.learned)
        rows.append(
            [each.name, f"{each.worst.mean():.3f}", "; ".join(each.by),
             *(f"{score.mean():.3f}" for score in scores), f"{each.clean:.3f}", lead]
        )  # fmt: skip
    header = ["defence", "worst", "by", "worst fixed", "worst tailored", "worst learned", "clean",
              f"{ours.name} minus it"]  # fmt: skip
    return markdown_table(header, rows)


def gate_table(campaign: Campaign, lines: Lines) -> str:
    """Each attacker against the defence that it learned from, beside its strongest rival."""
    rows = []
    for each in campaign.library:
        if each.against not in lines:
            continue
        played = lines[each.against]
        spelled = played[0].defence
        told = exploit.gate(played, each.name, each.attack, spelled, CARD.fl.num_clients)
        assert told is not None, each
        own, rival = told
        aware = "tailored_bfl@0.2" if each.attack.startswith("brl") else "tailored@0.2"
        tailored = next(c for c in exploit.cases(played, spelled) if c.label == aware)
        rows.append(
            [each.against.slug, each.attack, f"{each.seed}", with_error(*t_interval(own)),
             f"{rival.final.mean():.3f} ({rival.label})", f"{tailored.final.mean():.3f}",
             with_error(*t_interval(own - rival.final), "+"),
             "passed" if own.mean() <= rival.final.mean() else "FAILED"]
        )  # fmt: skip
    header = ["against", "attacker", "beginning", "its score", "strongest rival", "tailored",
              "difference", "gate"]  # fmt: skip
    return markdown_table(header, rows)


def knowledge_table(campaign: Campaign, lines: Lines) -> str:
    """Scores of each defence under attackers that know it, its rule, or nothing of it."""
    groups = {name: [Defence(name)] for name in campaign.static} | campaign.learned
    rows = []
    for name, group in groups.items():
        cells = []
        for attack in ATTACKS:
            for against in (None, campaign.rule, SUBSTITUTE):
                scores = [
                    case.final.mean()
                    for each in group
                    for case in exploit.cases(lines[each], lines[each][0].defence)
                    if case.label
                    == Trained(each if against is None else Defence(against), attack).label
                ]
                cells.append(f"{np.mean(scores):.3f}" if scores else "")
        rows.append([name, *cells])
    levels = ("knows it", "knows its rule", "knows nothing")
    header = ["defence", *(f"{a.partition('@')[0]}, {known}" for a in ATTACKS for known in levels)]
    return markdown_table(header, rows)
