"""Settings of the game: data, model, rules, attackers and rewards."""

import dataclasses
from typing import Literal

from metasg_jax.config.checks import require, require_count, require_seed
from metasg_jax.limits import is_positive


@dataclasses.dataclass(frozen=True)
class GameConfig:
    """What is played: data, model, rules, attackers and rewards. Read once, by ``make_game``.

    Example:
        >>> GameConfig(dataset="digits", types=("none", "bfl@0.2"), rule="krum").check()
    """

    dataset: str = "digits"
    """A registered data set: digits, mnist, fashion_mnist, cifar10."""
    pool: int = 1
    """Average-pool images by this factor."""
    model: str = "mlp"
    """A registered model: mlp, cnn, resnet8, resnet18, resnet20."""
    hidden: tuple[int, ...] = (64,)
    """Widths of the mlp; (channels, channels, width) of the cnn; channels of a resnet's stages."""
    normalize: bool = False
    """Whether the model sees each channel less its mean over the root images and divided by its
    deviation there, both rounded to 0.05, so that worlds share compiled programs."""
    partition: str = "q"
    """How images are dealt to clients: iid, q, dirichlet, shards."""
    level: float = 0.9
    """Heterogeneity: q, Dirichlet alpha, or shards per client."""
    num_root: int = 200
    """Images the server holds: rewards, calibration and root gradients use only these."""
    root_class_share: float | None = None
    """Share of the server's images that are of one class, drawn at random; 0 leaves it out, None is
    equal numbers of all (the bias probability of FLTrust: Cao et al., NDSS 2021)."""
    num_validation: int = 1000
    """Images for choosing anything (the best fixed action, say)."""
    num_test: int = 0
    """Test images read by evaluations; 0 takes them all."""
    types: tuple[str, ...] = (
        "none",
        "ipm:scale=1@0.2",
        "ipm:scale=5@0.2",
        "alie:z=1.5@0.2",
        "lmp:z=2@0.2",
        "bfl@0.05",
        "bfl:boost=5@0.05",
        "bfl@0.2",
        "ipm:scale=2@0.1+bfl:boost=3@0.05",
    )
    """The attacker's types: ``untargeted[:knob=value,..]@share[+backdoor[:..]@share]``."""
    probabilities: tuple[float, ...] = ()
    """The prior Q over the types; empty is uniform."""
    trigger: str = "square"
    """A registered trigger: square, plus, distributed."""
    trigger_size: int = 3
    """Its side in pixels; a plus has an odd one, and the bars of a distributed one fit into it."""
    trigger_position: tuple[int, int] = (0, 0)
    """Row and column of its upper left corner."""
    target: int = 0
    """Label that a stamped image should get."""
    rule: str = "clipped_trimmed_mean"
    """The server's rule, ``[pre-aggregator+..]rule[:field=value,..]``; a policy turns its knobs, if
    it has any."""
    post_defense: str = "neuron_clip"
    """The post-training defence, ``name[:field=value,..][+name..]``; a policy turns its knobs, if
    it has any."""
    observation: str = "statistics"
    """What the defender sees: ``statistics`` of the round and their moving averages; these and a
    search for triggers (``inversion``); the statistics and a recurrent cell (``reservoir``); or the
    last model (``paper``)."""
    reward: Literal["clean", "clean+backdoor"] = "clean+backdoor"
    """-F (the paper), or -F - backdoor_weight * success of the backdoor."""
    loss: Literal["probability", "cross_entropy"] = "probability"
    """F: 1 - mean probability of the true class, or cross-entropy capped at (and over) 2 log C."""
    backdoor_weight: float = 1.0
    """w of the second reward."""
    assumed_share: float = 0.2
    """The server's guess of the share of malicious clients: f = round(n x share)."""
    seed: int = 0
    """Seed of the splits, the partition and the order of clients."""

    def check(self) -> None:
        """Raises ConfigError where a value is out of range."""
        require_count("pool", self.pool)
        for name in ("num_root", "num_validation", "num_test"):
            # no set has so many, which says itself how many it has
            require_count(name, getattr(self, name), int(name != "num_test"), 2**31 - 1)
        for width in self.hidden:
            require_count("hidden", width)
        require_seed("seed", self.seed)
        require(
            self.root_class_share is None or 0 <= self.root_class_share <= 1,
            "root_class_share", self.root_class_share, "in [0, 1], or none for all the same",
        )  # fmt: skip
        require_count("trigger_size", self.trigger_size)
        require_count("target", self.target, least=0)
        for name in ("backdoor_weight", "level"):
            value = getattr(self, name)
            allowed = "at least 0 and finite, in float32 too"
            require(value == 0 or is_positive(value), name, value, allowed)
        require(bool(self.types), "types", self.types, "at least one attacker type")
        require(0 <= self.assumed_share < 0.5, "assumed_share", self.assumed_share, "in [0, 0.5)")
        for name, allowed in (
            ("reward", ("clean", "clean+backdoor")),
            ("loss", ("probability", "cross_entropy")),
        ):
            value = getattr(self, name)
            require(value in allowed, name, value, f"one of {', '.join(allowed)}")
        if self.probabilities:
            q = self.probabilities
            require(len(q) == len(self.types), "probabilities", q, "one for each type")
            require(
                min(q) >= 0 and abs(sum(q) - 1) < 1e-6,
                "probabilities",
                q,
                "non-negative, of sum 1",
            )
