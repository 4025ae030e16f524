"""Settings of the teacher: its lessons, its own play and what its loss weighs."""

from metasg_jax.config.checks import require, require_count
from metasg_jax.config.fields import static
from metasg_jax.limits import LARGEST, is_positive
from metasg_jax.struct import Struct


class TeachConfig(Struct):
    """The teacher: imitation of a filter that is told who is malicious, then under own play."""

    worlds: int = static(6)
    """Federations drawn at random that are played while a told filter plays; 0 for a learner that
    has been taught before."""
    own_play: int = static(6)
    """Federations that are played by the learner itself, after the first lessons."""
    passes: int = static(2)
    """Times that own play and learning from it take turns; the worlds are shared out."""
    horizon: int = static(0)
    """Rounds of an episode that lessons are of; 0 is fl.horizon. Fewer cost less, and what is seen
    of a client does not change much later."""
    trims: tuple[float, ...] = static((-1.0, -0.55, -0.1))
    """Settings of the knob trim that own play tries, ascending: 0, 10 and 20 % of each side."""
    responder: str = static("none")
    """Who else own play meets: attackers who look through the learner each round, and dilute what
    they send with honest work as far as it pays (``looking``, or ``looking / kept``)."""
    steps: int = static(1500)
    """Steps of Adam after each collection of lessons."""
    batch: int = static(256)
    """Rounds in a step."""
    lr: float = 2e-3
    """Step size, falling to 0 over the steps."""
    malicious_weight: float = 2.0
    """Weight of a malicious client in the loss; an honest one counts 1."""
    whole_harm: float = 1.0
    """Share of a malicious client's row, in (0, 1], from which it has that weight; one that is
    diluted further counts in proportion."""
    clean_weight: float = 2.5
    """Weight of a round in which nobody is malicious: rarer in lessons than in life."""
    earned_weights: tuple[float, ...] = (1 / 3, 1 / 3, 1 / 3)
    """What counts of what a trim earned: against the attack that is there, in the mean over all
    that might be, and against the worst. Which attack it is shows late."""
    trim_premium: float = 0.015
    """Score that the highest trim tried is worth, beside what it earned, against attacks that no
    lesson has: so it is played where it costs less."""
    knob_weight: float = 3.0
    """Weight of what the trim misses, in score, beside the cross-entropy of trust."""
    weight_decay: float = 1e-5
    """On the squared norm of the parameters."""
    drop: float = 0.2
    """How often a round is shown without root update, last matrix, influence or memory, each."""
    lr_spread: float = 3.0
    """Clients' learning rates are drawn from fl.local_lr over this to times this."""
    work_spread: float = 4.0
    """Local steps and batches of a world are drawn from all of fl.local_steps and fl.batch_size
    down to one part in this many; 1 is all of them."""

    def check(self) -> None:
        """Raises ConfigError where a value is out of range."""
        for name in ("steps", "batch"):
            require_count(f"teach.{name}", getattr(self, name))
        for name in ("worlds", "own_play", "passes", "horizon"):
            require_count(f"teach.{name}", getattr(self, name), least=0)
        require(is_positive(self.lr), "teach.lr", self.lr, "above 0 and finite, in float32 too")
        for name in ("malicious_weight", "clean_weight"):
            value = getattr(self, name)
            require(is_positive(value), f"teach.{name}", value, "above 0 and finite")
        require(0 < self.whole_harm <= 1, "teach.whole_harm", self.whole_harm, "in (0, 1]")
        for name in ("trim_premium", "knob_weight", "weight_decay"):
            value = getattr(self, name)
            allowed = "at least 0 and finite, in float32 too"
            require(value == 0 or is_positive(value), f"teach.{name}", value, allowed)
        weights = self.earned_weights
        allowed = "three numbers, at least 0"
        require(len(weights) == 3 and min(weights) >= 0, "teach.earned_weights", weights, allowed)
        require(0 <= self.drop < 1, "teach.drop", self.drop, "in [0, 1)")
        for name in ("lr_spread", "work_spread"):
            value = getattr(self, name)
            require(1 <= value <= LARGEST, f"teach.{name}", value, "at least 1")
