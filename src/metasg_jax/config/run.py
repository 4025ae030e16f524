"""Settings of one pre-training run: all the others together, its stages and its checkpoints."""

import dataclasses
from typing import Literal

from metasg_jax.config.checks import require, require_count, require_seed
from metasg_jax.config.fl import FLConfig
from metasg_jax.config.game import GameConfig
from metasg_jax.config.meta import MetaConfig
from metasg_jax.config.teach import TeachConfig
from metasg_jax.limits import SEEDS


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """One pre-training run.

    Example:
        >>> RunConfig(GameConfig(dataset="digits"), steps=10, chunk=5).game.dataset
        'digits'
    """

    game: GameConfig = GameConfig()
    fl: FLConfig = FLConfig()
    meta: MetaConfig = MetaConfig()
    teach: TeachConfig = TeachConfig()
    stages: tuple[Literal["teach", "meta"], ...] = ("meta",)
    """What pre-training does, in this order: the teacher (where the rule decides about each
    client), then meta-steps of meta.algorithm."""
    begin: str = ""
    """What the learner begins with: a shipped defender (v3), or the directory of one or of a run.
    Empty: fresh weights."""
    levels: tuple[float, ...] = ()
    """Heterogeneities that the meta-steps take in turn, a partition each, in place of game.level:
    for a policy that is to stand where the true one is unknown. Empty: game.level alone."""
    clients: Literal["real", "repeated", "augmented", "generated"] = "real"
    """What clients hold in pre-training: the data set's own images, which no server sees; or what
    it makes of its root images alone: these again, bent and moved, or new ones (a generative model,
    minutes to train)."""
    num_simulated: int = 6000
    """Images that are made, unless clients are real."""
    steps: int = 50
    """Meta-steps (T of Algorithm 1, N_D of Algorithm 2)."""
    respond_every: int = 5
    """Meta-steps between two rounds of the double oracle, in which best responses of all types with
    knobs join the population (see meta.population)."""
    respond_tries: int = 20
    """Constant actions that each of them tries."""
    chunk: int = 5
    """Meta-steps between checkpoints; changes nothing in the result."""
    keep: int = 2
    """Checkpoints that are kept, the newest; 0 keeps all. Changes nothing in the result."""
    seed: int = 0
    """Seed of all random numbers that the learner draws."""
    memory_gib: float = 0.0
    """Memory that the rollouts are fitted into where meta.rollouts_at_once is -1; 0 is 80 % of what
    is free at the start."""

    @property
    def trusts_clients(self) -> bool:
        """Whether the defender decides about each client."""
        return self.game.rule.partition(":")[0] == "client_trust"

    def check(self) -> None:
        """Raises ConfigError where a value is out of range."""
        self.game.check()
        self.fl.check()
        self.meta.check()
        self.teach.check()
        for stage in self.stages:
            require(stage in ("teach", "meta"), "stages", self.stages, "of teach and meta")
        kinds = ("real", "repeated", "augmented", "generated")
        require(self.clients in kinds, "clients", self.clients, f"one of {', '.join(kinds)}")
        require_count("num_simulated", self.num_simulated, most=10**8)
        for name in ("steps", "chunk", "respond_every", "respond_tries"):
            require_count(name, getattr(self, name), most=2**31 - 1)
        keeps = self.meta.population and "meta" in self.stages
        require(
            not keeps or self.meta.algorithm == "meta_sl",
            "meta.population",
            self.meta.population,
            f"0 with meta.algorithm = {self.meta.algorithm!r}: meta_sl alone meets it",
        )
        require_count("keep", self.keep, least=0, most=2**31 - 1)
        gib = self.memory_gib
        require(0 <= gib < 2**30, "memory_gib", gib, "0 (80 % of free) or more, and finite")
        require_seed("seed", self.seed)
        if "teach" in self.stages:  # the teacher's worlds are numbered from 1,000 seeds on
            most = SEEDS // 1000 - 1
            require(self.seed < most, "seed", self.seed, f"with a teacher, below {most:,}")
