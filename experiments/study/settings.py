"""What is registered: learners, the worlds that they are judged in, and studies that join both.

Every result is kept beside the settings it was played with, and a test compares them with those
that stand here: whoever changes a setting plays the final worlds anew.
"""

import dataclasses

from metasg_jax.config import FLConfig, GameConfig, RunConfig
from metasg_jax.evaluation.switching import Switch, cycle
from metasg_jax.presets import PRESETS

CARD = PRESETS["cpu"].get_config("mnist")
"""The game card: MNIST pooled to 14 x 14, MLP 196-64-10, N = 100, n = 10, H = 100, nine types."""

SEEDS = (100, 101, 102, 103, 104)

STATIC = (
    ("mean", "none"),
    ("median", "none"),
    ("trimmed_mean:beta=0.2", "none"),
    ("krum", "none"),
    ("fltrust", "none"),
    ("clipped_median:max_norm=0.6", "none"),
    ("norm_bound:max_norm=0.6", "none"),
    ("nnm+trimmed_mean:beta=0.2", "none"),
    ("fltrust", "neuron_clip"),
)
"""Rule and post-training defence of the static controls."""


@dataclasses.dataclass(frozen=True)
class Learner:
    """A way to pre-train a defender; one run a training seed.

    Attributes:
        arguments: what ``metasg pretrain`` is told beside data set, preset and seed.
        steps: meta-steps.
    """

    arguments: tuple[str, ...]
    steps: int

    @property
    def observation(self) -> str:
        """What its policies see."""
        key = "--game.observation="
        given = [each.removeprefix(key) for each in self.arguments if each.startswith(key)]
        return given[-1] if given else CARD.game.observation


def _card(*arguments: str, steps: int = 56) -> Learner:
    """201,600 FL rounds on the card: 56 meta-steps of 9 types x 4 episodes x 100 rounds."""
    return Learner(("--meta.adapt-steps=0", *arguments), steps)


UNKNOWN = ("alie:z=1.5@0.2", "bfl@0.2", "lmp:z=2@0.2")
"""Types of the card that the learner ``unknown-q0.9`` never meets."""

KNOWN = tuple(text for text in CARD.game.types if text not in UNKNOWN)

NEVER_MET = ("min_max@0.2", "dba@0.2", "pgd@0.05")
"""Attacks that no learner here meets."""

LEVELS = (0.1, 0.5, 0.9)

_AT_09 = "--game.level=0.9"
# Algorithm 1: two plain steps inside, and a step of Adam of the same number outside
_META_RL = (
    "--meta.algorithm=meta_rl", "--meta.adapt-steps=2", "--meta.epochs=1", "--meta.ratio-clip=1e9",
    "--meta.defender-lr=0.03", "--meta.outer-lr=0.03",
)  # fmt: skip

_RESPONDING = (
    "none", "ipm:scale=1@0.2", "ipm:scale=5@0.2", "alie:z=1.5@0.2", "lmp:z=2@0.2", "bfl@0.05",
    "bfl@0.2", "ipm:scale=2@0.1+bfl:boost=3@0.05", "rl@0.2", "brl@0.2",
)  # fmt: skip
_AGAINST_RESPONSES = (
    "--game.level=0.5", "--game.rule=trusted_trimmed_mean", "--game.types", *_RESPONDING,
)  # fmt: skip
ADAPTIVE = {
    "adaptive-bse": _card(*_AGAINST_RESPONSES, "--meta.attacker-lr=0.03", steps=29),
    "adaptive-meta_sg": _card(
        *_AGAINST_RESPONSES, "--meta.attacker-lr=0.03", "--meta.adapt-steps=1",
        "--meta.adapt-lr=0.003", steps=14,
    ),
    "adaptive-meta_rl": _card(*_AGAINST_RESPONSES, *_META_RL, steps=14),
}  # fmt: skip
"""Defenders against two attackers who learn and eight who don't, for ``stackelberg``."""

# the true heterogeneity is unknown to a server, whoever made the images
_HUNDRED = ("--game.num-root=100", "--levels", *map(str, LEVELS))
OWN = {f"{kind}-clients": _card(f"--clients={kind}", *_HUNDRED)
       for kind in ("real", "augmented", "generated", "repeated")}  # fmt: skip
"""Defenders whose clients held real images in pre-training, or what a server makes of a hundred."""

_UNTARGETED = tuple(text for text in CARD.game.types if "bfl" not in text and text != "none")
_BACKDOORS = tuple(text for text in CARD.game.types if "bfl" in text)


def prior_of(backdoors: float) -> tuple[float, ...]:
    """Q of the card's types in which the attackers with a backdoor have that share.

    ``none`` keeps its ninth; within both kinds all types are alike.
    """
    each = {"none": 1 / 9}
    each |= {text: 8 / 9 * (1 - backdoors) / len(_UNTARGETED) for text in _UNTARGETED}
    each |= {text: 8 / 9 * backdoors / len(_BACKDOORS) for text in _BACKDOORS}
    return tuple(each[text] for text in CARD.game.types)


def _with_prior(backdoors: float) -> Learner:
    q = [f"{each:.9f}" for each in prior_of(backdoors)]
    return _card(_AT_09, "--game.probabilities", *q, steps=28)


PRIORS = {"prior-untargeted": _with_prior(0.1), "prior-backdoors": _with_prior(0.9)}
"""``bse`` with another prior: nine attackers in ten are of one kind."""

POST_DEFENSES = ("none", "prune")
POST = {f"post-{name}": _card(_AT_09, f"--game.post-defense={name}", steps=28)
        for name in POST_DEFENSES}  # fmt: skip
"""``bse`` with another post-training defence than ``neuron_clip``."""

WEIGHTS = (0.0, 0.25, 4.0)
DIAL = {f"weight-{weight:g}": _card(_AT_09, f"--game.backdoor-weight={weight:g}", steps=28)
        for weight in WEIGHTS}  # fmt: skip
"""``bse`` whose reward weighs a backdoor's success by another number than 1."""

RECURRENT = {"bse-recurrent": _card(_AT_09, "--game.observation=reservoir", steps=28)}
"""``bse`` with a recurrent cell in the place of moving averages."""

LEARNERS = {
    "bse": _card(_AT_09, steps=28),
    "bse-memoryless": _card(_AT_09, "--game.observation=statistics:decay=0", steps=28),
    "card-q0.5": _card("--game.level=0.5"),
    "unknown-q0.9": _card(_AT_09, "--game.types", *KNOWN, steps=84),
    **ADAPTIVE,
    **OWN,
    **RECURRENT,
    **PRIORS,
    **POST,
    **DIAL,
    "paper": _card(
        "--game.level=0.5", "--game.pool=1", "--fl.local-lr=0.05", "--fl.batch-size=128",
        "--fl.horizon=500", steps=6,
    ),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class World:
    """Where defenders are judged.

    Attributes:
        game: of final and selection worlds, but for seed, trigger and target.
        fl: likewise.
        second: places in the table from each type to the one that follows it; 0 without a switch.
        at: the first round of the second type.
    """

    game: GameConfig = CARD.game
    fl: FLConfig = CARD.fl
    second: int = 0
    at: int = 50

    @property
    def config(self) -> RunConfig:
        """Settings of which only the game's are read."""
        return RunConfig(self.game, self.fl, CARD.meta)

    @property
    def switch(self) -> Switch | None:
        """Who follows whom."""
        return cycle(len(self.game.types), self.second, self.at) if self.second else None


PAPER_WORLD = World(
    dataclasses.replace(CARD.game, level=0.5, pool=1),
    CARD.fl.replace(local_lr=0.05, batch_size=128, horizon=500),
)
"""MNIST as the paper has it; its types and model are the card's."""


def on_card(**game) -> World:
    """The card with other fields of its game."""
    return World(dataclasses.replace(CARD.game, **game))


@dataclasses.dataclass(frozen=True)
class Study:
    """Learners beside their controls in one kind of world.

    Attributes:
        title: of its section.
        learners: of :data:`LEARNERS`; leads and types are shown for the first.
        world: of the final worlds.
        known: types of the selection worlds, from which best fixed action, per-type actions and the
            two-phase control's classifier come; empty: those of the final worlds.
        training_seeds: each with a partition of its own.
        selection_worlds: on whose validation images references are chosen; 0 leaves the best
            fixed action in hindsight to open the two-phase control.
        final_worlds: on whose test images everything is compared.
        grid: clips, trims, post-training levels of the references.
        phase: rounds of the two-phase control's first phase.
        repeats: episodes a selection world and type that its classifier learns from.
        static: rule and post-training defence of the static controls.
        adjusted: selection worlds on which the learned policies' normalisers are taken anew;
            0 leaves them as trained.
        psi_steps: gradient steps by which the learned policies are adapted to each type, told it,
            on episodes of the game that they were trained in; 0 plays them frozen only.
        psi_size: of such a step.
    """

    title: str
    learners: tuple[str, ...]
    world: World = World()
    known: tuple[str, ...] = ()
    training_seeds: tuple[int, ...] = SEEDS
    selection_worlds: int = 6
    final_worlds: int = 6
    grid: tuple[int, int, int] = (8, 5, 4)
    phase: int = 25
    repeats: int = 4
    static: tuple[tuple[str, str], ...] = STATIC
    adjusted: int = 0
    psi_steps: int = 0
    psi_size: float = 0.03

    @property
    def selection(self) -> World:
        """Of the selection worlds: nobody switches there."""
        types = self.known or self.world.game.types
        return World(dataclasses.replace(self.world.game, types=types), self.world.fl)
