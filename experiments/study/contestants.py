"""What a campaign is: defences, the attackers that learn against them, and who meets whom."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from metasg_jax.evaluation.attack_suite import ZOO
from metasg_jax.evaluation.worst import Played, label_of
from study import training
from study.settings import SEEDS

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
        told: a type that the policy has been adapted to; else it is the meta policy.
        randomized: the policy samples its actions; else it plays its mode.
    """

    name: str
    seed: int | None = None
    told: str = ""
    randomized: bool = False

    @property
    def slug(self) -> str:
        """For names of folders."""
        plain = self.name.replace(" ", "").translate(_PLAIN)
        way = f"-told-{self.told.partition('@')[0]}" * bool(self.told)
        way += "-randomized" * self.randomized
        return plain if self.seed is None else f"{plain}{way}-{self.seed}"

    def spelled(self, runs: Path) -> str:
        """As `metasg exploit` reads it; makes the run of a policy that was told."""
        if self.seed is None:
            return self.name
        if self.told:
            return str(training.adapted(self.name, self.seed, self.told, runs))
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
        return label_of(self.attack, self.name)


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
        adapted: learners against which attackers learn too once they were told who attacks, and
            have been adapted.
        randomized: learners against which attackers learn too while they sample their actions.
        seeds: of the learners' training.
        beginnings: of the attackers against the strongest.
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
    adapted: tuple[str, ...] = ()
    randomized: tuple[str, ...] = ()
    seeds: tuple[int, ...] = SEEDS
    beginnings: int = 3
    tries: int = 48
    steps: int = 16
    selection: int = 2
    final: int = 6

    @property
    def learned(self) -> dict[str, list[Defence]]:
        """Each learner's defences, one a training seed."""
        return {name: [Defence(name, seed) for seed in self.seeds] for name in self.learners}

    @property
    def defences(self) -> list[Defence]:
        """All that are played."""
        return [*map(Defence, self.static), *(each for several in self.learned.values()
                                              for each in several)]  # fmt: skip

    @property
    def deployed(self) -> list[Trained]:
        """Attackers against the learned defences as they are deployed in other ways."""
        seeds = [(seed, attack) for seed in self.seeds for attack in ATTACKS]
        told = [Trained(Defence(name, seed, told=attack), attack)
                for name in self.adapted for seed, attack in seeds]  # fmt: skip
        sampling = [Trained(Defence(name, seed, randomized=True), attack)
                    for name in self.randomized for seed, attack in seeds]  # fmt: skip
        return told + sampling

    @property
    def num_responses(self) -> int:
        """Learners, ways to deploy them, attacks: so many rows of the page."""
        ways = len(self.learners) + len(self.adapted) + len(self.randomized)
        return ways * len(ATTACKS)

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

    def full(self) -> "Campaign":
        """The same at the full budget: 110,400 rounds an attacker, for a GPU."""
        return dataclasses.replace(
            self, seeds=SEEDS, tries=480, steps=250, beginnings=5, selection=6, final=20,
        )  # fmt: skip

    def settings(self) -> dict:
        """What is registered, as it is kept beside the page."""
        return json.loads(json.dumps(dataclasses.asdict(self) | {"zoo": ZOO, "attacks": ATTACKS}))
