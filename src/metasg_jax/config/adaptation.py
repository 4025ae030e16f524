"""Settings of one run with adaptation online: who hides, how the server answers, and when."""

import dataclasses

from metasg_jax.config.checks import require, require_count


@dataclasses.dataclass(frozen=True)
class Adaptation:
    """One run whose attacker is hidden, with adaptation online."""

    attack: str = "bfl@0.2"
    """The type that is hidden from the server; one that it never met, too."""
    psi: str = "imagined"
    """How it adapts: imagined (gradients on rollouts of its own world), mixture (each type's best
    action, by its belief; of knobs alone), planned (the best of constant actions, or of thresholds
    and trims), trajectory (gradients on the real run so far), frozen (not), sampled (not either,
    its actions sampled); fields as in imagined:lr=0.003,most_kl=0.05."""
    guard: bool = True
    """A candidate replaces the policy only if it earns more in a look ahead, by more than promises
    were broken so far. A policy whose promise is broken gives way to the pre-trained one; so does
    any, where no type of the own world explains what is seen."""
    imagine: tuple[str, ...] = ()
    """Types in the server's own world; empty: those of the pre-training. More of them cost the
    pre-training nothing."""
    block: int = 10
    """Rounds between two adaptations, a divisor of the horizon."""
    conceal: int = 0
    """First rounds in which the attacker does nothing, whole blocks of them."""
    clients: str = "augmented"
    """What clients hold in the server's own world: repeated, augmented or generated root images."""
    num_simulated: int = 6000
    """How many such images."""
    world: int = 0
    """Number of the fresh world: partition, trigger, target, seeds."""

    def check(self, horizon: int) -> None:
        """Raises ConfigError where a value is out of range."""
        require(
            self.block >= 1 and horizon % self.block == 0,
            "block",
            self.block,
            f"a divisor of the {horizon} rounds",
        )
        require(
            0 <= self.conceal < horizon and self.conceal % self.block == 0,
            "conceal",
            self.conceal,
            f"a multiple of block = {self.block} below {horizon}",
        )
        require_count("world", self.world, least=0, most=2**31 - 1)
        require_count("num_simulated", self.num_simulated, most=10**8)
