"""Settings: frozen dataclasses. Counts and kinds are static; floats are traced, so sweeps are free.

A static field recompiles when it changes; a float does not. ``check`` methods raise
:class:`~metasg_jax.errors.ConfigError` and name the field; they are called where settings enter
(``make_game``, ``init_state``, the command line), because a traced float can't be compared.
"""

import dataclasses
import math
from typing import Literal

import numpy as np

from metasg_jax.errors import ConfigError
from metasg_jax.limits import LARGEST, MOST, SEEDS, is_positive
from metasg_jax.struct import Struct, field


def _static(default):
    return field(static=True, default=default)


def _require_count(name: str, value, least: int = 1, most: int = MOST) -> None:
    """A whole number that arrays can be as long as."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    _require(
        bool(whole and least <= value <= most), name, value, f"at least {least}, at most {most:,}"
    )


def _require_seed(name: str, value) -> None:
    """JAX's keys keep 32 bits of a seed: beyond them another seed would be the same."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    _require(
        bool(whole and 0 <= value < SEEDS), name, value, f"at least 0, below 2**32 = {SEEDS:,}"
    )


def _require(condition: bool, field: str, value, allowed: str) -> None:
    if not condition:
        raise ConfigError(f"{field} = {value!r}: {allowed}")


class FLConfig(Struct):
    """Federated training of one episode."""

    num_clients: int = _static(100)
    """N, clients in all."""
    num_sampled: int = _static(10)
    """n, clients that answer in a round."""
    batch_size: int = _static(64)
    """B, images in a client's batch."""
    local_steps: int = _static(1)
    """S, SGD steps of an honest client ("local iterations" in the paper)."""
    horizon: int = _static(100)
    """H, rounds of an episode."""
    precision: Literal["float32", "tensorfloat32", "bfloat16"] = _static("float32")
    """Of the clients' local training only; what they send is float32. tensorfloat32: products on
    tensor cores of NVIDIA GPUs, no change elsewhere. bfloat16: weights and images too."""
    weighting: Literal["equal", "size"] = _static("equal")
    """What an answer weighs: all the same, as in the paper, or by the images that its client holds,
    as in FedAvg. Rules that take order statistics or select rows do not read it."""
    local_lr: float = 0.3
    """Learning rate of the clients."""
    server_lr: float = 1.0
    """Factor on the aggregated update; the paper's is 1."""

    def check(self) -> None:
        """Raises ConfigError where a value is out of range."""
        for name in ("num_clients", "num_sampled", "batch_size", "local_steps", "horizon"):
            _require_count(name, getattr(self, name))
        _require(
            1 <= self.num_sampled <= self.num_clients,
            "num_sampled",
            self.num_sampled,
            f"between 1 and num_clients = {self.num_clients}",
        )
        allowed = ("float32", "tensorfloat32", "bfloat16")
        _require(
            self.precision in allowed, "precision", self.precision, f"one of {', '.join(allowed)}"
        )
        _require(
            self.weighting in ("equal", "size"), "weighting", self.weighting, "one of equal, size"
        )
        for name in ("local_lr", "server_lr"):
            value = getattr(self, name)
            _require(is_positive(value), name, value, "above 0 and finite, in float32 too")


class MetaConfig(Struct):
    """The learner: Algorithms 1 and 2 of the paper, and what a small budget needs beyond them."""

    algorithm: Literal["meta_sl", "meta_rl", "best_response"] = _static("meta_sl")
    """Algorithm 2 (meta-Stackelberg), Algorithm 1 (Reptile meta-RL, attackers never respond), or
    the attackers' part of Algorithm 2 alone, against a defender that stands still."""
    outer: Literal["fomaml", "reptile", "debiased", "debiased_exact"] = _static("fomaml")
    """The meta gradient of Algorithm 2. First order: line 23 as printed (fomaml), or section 4.1's
    average of the adapted policies (reptile). Through the adaptation, lines 18-21, by
    Hessian-vector products: unbiased for adaptation by a sampled gradient (debiased), or by the
    exact one (debiased_exact; here with a sampled one in its place). Read by meta_sl."""
    gradient: Literal["score", "evolution", "pathwise", "credit"] = _static("score")
    """How grad J is estimated: from the policies' scores (C1); from returns at perturbed
    parameters, in antithetic pairs; through the simulator, where actions are knobs; or, where the
    defender decides about each client, by what each decision changed in its round."""
    randomized: bool = _static(False)
    """With best_response: the defender that stands still samples its actions, instead of playing
    its policy's mode."""
    num_types: int = _static(0)
    """K types sampled from the prior in a meta-step; 0 enumerates the table with weights Q."""
    group_size: int = _static(4)
    """Rollouts that share the environment's randomness and differ in the policies' noise."""
    num_groups: int = _static(1)
    """Groups per batch; group_size x num_groups is the paper's N_b."""
    rollouts_at_once: int = _static(0)
    """The most rollouts of a batch that are played side by side; fewer take less memory. 0 is all;
    -1 lets ``metasg pretrain`` choose (see memory_gib), elsewhere it is all, too. Parts are equal:
    see ``game.rollout.parts``. Changes results by rounding only."""
    adapt_steps: int = _static(1)
    """l, gradient steps from the meta policy to the adapted one."""
    attacker_steps: int = _static(1)
    """N_A, gradient steps of an adaptive attacker's best response in a meta-step."""
    population: int = _static(0)
    """Places for attackers that answered earlier defenders: each is met again in every meta-step of
    meta_sl. 0 keeps none."""
    population_share: float = 0.5
    """Weight of the population in a meta-step, in [0, 1); the prior has the rest."""
    epochs: int = _static(1)
    """Gradient steps on one batch in the outer update; above 1 only with ratio_clip."""
    estimator: Literal["return", "return_to_go", "future_gain"] = _static("return_to_go")
    """Weight of a step's score: the whole discounted return (C1 as printed), the discounted return
    from that step on (the same gradient in expectation), or the discounted average of what is still
    to come minus the previous reward, every step counting alike (not the paper's)."""
    baseline: Literal["none", "batch", "leave_one_out", "group"] = _static("group")
    """What a score's return is compared with at the same step: nothing; the mean of the batch
    (biased by its own share); that of the batch's other episodes; that of the other rollouts of the
    group, which share the environment's randomness."""
    window: int = _static(0)
    """Rounds that pathwise derivatives flow through, a divisor of the horizon; 0 is all."""
    normalize_advantages: bool = _static(False)
    """Divide advantages by their standard deviation over the batch (not the paper's)."""
    optimizer: Literal["sgd", "adam"] = _static("sgd")
    """Outer update on the pseudo-gradient; sgd with outer_lr 1 is Algorithm 2 as printed. Research
    code may hand in an optax transformation, whose updates are multiplied by the step size."""
    policy: Literal["auto", "deep_sets", "attention"] = _static("auto")
    """The defender's: auto is a network of the observation, or deep_sets where it decides about
    each client. Research code may hand in a policy object (hashable)."""
    hidden: tuple[int, ...] = _static((32,))
    """Widths of the hidden layers of policies with a flat observation."""
    set_hidden: tuple[int, ...] = _static((64, 64))
    """Widths of a set policy's layers."""
    init_std: float = _static(0.5)
    """Standard deviation of a fresh policy, before the tanh."""
    learn_std: bool = _static(True)
    """Whether that deviation is learned, or stays."""
    normalize: bool = _static(True)
    """Normalise observations by their running mean and deviation, frozen within a meta-step."""
    discount: float = 0.99
    """gamma, in (0, 1]; J discounts by gamma^(t-1) for t = 1..H."""
    adapt_lr: float = 0.01
    """eta, step size of the adaptation."""
    defender_lr: float = 0.001
    """kappa_D (kappa in Algorithm 1)."""
    attacker_lr: float = 0.001
    """kappa_A."""
    outer_lr: float = 1.0
    """Step size of the outer optimizer."""
    perturbation: float = 0.05
    """Standard deviation of the parameters' perturbation in evolution strategies."""
    ratio_clip: float = 1e9
    """Clip of the likelihood ratio when epochs > 1; 1e9 never binds."""
    max_grad_norm: float = 1e9
    """Norm bound of each outer update; 1e9 never binds."""

    @property
    def adapts_again(self) -> bool:
        """Whether the meta policy is adapted to the best response before it is played (line 18)."""
        return self.algorithm == "meta_sl" and self.outer.startswith("debiased")

    def check(self) -> None:
        """Raises ConfigError where a value is out of range."""
        for each in dataclasses.fields(self):
            value = getattr(self, each.name)
            choices = getattr(each.type, "__args__", None)
            if choices and isinstance(value, str):
                _require(value in choices, each.name, value, f"one of {', '.join(choices)}")
        _require(self.num_types >= 0, "num_types", self.num_types, "0 (all) or more")
        for name in ("num_groups", "epochs"):
            _require_count(name, getattr(self, name))
        share = self.population_share
        _require(0 <= share < 1, "population_share", share, "in [0, 1)")
        for name in ("adapt_steps", "attacker_steps", "num_types", "population"):
            _require_count(name, getattr(self, name), least=0)
        for name in ("hidden", "set_hidden"):
            for width in getattr(self, name):
                _require_count(name, width)
        _require(
            -1 <= self.rollouts_at_once <= MOST,
            "rollouts_at_once",
            self.rollouts_at_once,
            f"at least 1, at most {MOST:,}, 0 (all) or -1 (chosen by memory)",
        )
        _require(
            self.algorithm != "best_response" or self.attacker_steps >= 1,
            "attacker_steps",
            self.attacker_steps,
            "at least 1 with algorithm = 'best_response'",
        )
        _require(
            self.algorithm != "best_response" or self.gradient == "score",
            "gradient",
            self.gradient,
            "with algorithm = 'best_response', score",
        )
        least = 2 if self.baseline == "group" else 1
        _require(
            self.group_size >= least,
            "group_size",
            self.group_size,
            f"at least {least} with baseline {self.baseline!r}",
        )
        batch = self.group_size * self.num_groups
        _require(
            self.baseline != "leave_one_out" or batch >= 2,
            "baseline",
            self.baseline,
            "needs group_size x num_groups of at least 2",
        )
        _require(
            self.gradient != "evolution" or batch % 2 == 0,
            "gradient",
            self.gradient,
            f"needs pairs: group_size x num_groups = {batch} is odd",
        )
        _require_count("group_size", self.group_size)
        allowed = f"at least 1, at most {MOST:,}, or 0 (the whole episode)"
        _require(0 <= self.window <= MOST, "window", self.window, allowed)
        score_only = self.epochs > 1 or self.outer.startswith("debiased")
        _require(
            self.gradient == "score" or not score_only,
            "gradient",
            self.gradient,
            "with epochs above 1 or a debiased outer update, score",
        )
        _require(
            not self.outer.startswith("debiased") or self.epochs == 1,
            "epochs",
            self.epochs,
            f"1 with outer = {self.outer!r}",
        )
        _require(
            self.epochs == 1 or self.ratio_clip < 1,
            "ratio_clip",
            self.ratio_clip,
            f"below 1 (0.2, say) with epochs = {self.epochs}",
        )
        _require(0 < self.discount <= 1, "discount", self.discount, "in (0, 1]")
        for name in ("adapt_lr", "defender_lr", "attacker_lr", "outer_lr"):
            value = getattr(self, name)
            allowed = "at least 0 and finite, in float32 too"
            _require(value == 0 or is_positive(value), name, value, allowed)
        for name in ("perturbation", "ratio_clip", "max_grad_norm", "init_std"):
            value = getattr(self, name)
            finite = is_positive(value) or (value == math.inf and name != "init_std")
            _require(finite, name, value, "above 0, in float32 too")


class TeachConfig(Struct):
    """The teacher: imitation of a filter that is told who is malicious, then under own play."""

    worlds: int = _static(6)
    """Federations drawn at random that are played while a told filter plays; 0 for a learner that
    has been taught before."""
    own_play: int = _static(6)
    """Federations that are played by the learner itself, after the first lessons."""
    passes: int = _static(2)
    """Times that own play and learning from it take turns; the worlds are shared out."""
    trims: tuple[float, ...] = _static((-1.0, -0.55, -0.1))
    """Settings of the knob trim that own play tries, ascending: 0, 10 and 20 % of each side."""
    responders: bool = _static(False)
    """Whether own play also meets attackers who look through the learner each round, and dilute
    what they send with honest work as far as it pays."""
    steps: int = _static(1500)
    """Steps of Adam after each collection of lessons."""
    batch: int = _static(256)
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

    def check(self) -> None:
        """Raises ConfigError where a value is out of range."""
        for name in ("steps", "batch"):
            _require_count(f"teach.{name}", getattr(self, name))
        for name in ("worlds", "own_play", "passes"):
            _require_count(f"teach.{name}", getattr(self, name), least=0)
        _require(is_positive(self.lr), "teach.lr", self.lr, "above 0 and finite, in float32 too")
        for name in ("malicious_weight", "clean_weight"):
            value = getattr(self, name)
            _require(is_positive(value), f"teach.{name}", value, "above 0 and finite")
        _require(0 < self.whole_harm <= 1, "teach.whole_harm", self.whole_harm, "in (0, 1]")
        for name in ("trim_premium", "knob_weight", "weight_decay"):
            value = getattr(self, name)
            allowed = "at least 0 and finite, in float32 too"
            _require(value == 0 or is_positive(value), f"teach.{name}", value, allowed)
        weights = self.earned_weights
        allowed = "three numbers, at least 0"
        _require(len(weights) == 3 and min(weights) >= 0, "teach.earned_weights", weights, allowed)
        _require(0 <= self.drop < 1, "teach.drop", self.drop, "in [0, 1)")
        _require(1 <= self.lr_spread <= LARGEST, "teach.lr_spread", self.lr_spread, "at least 1")


@dataclasses.dataclass(frozen=True)
class GameConfig:
    """What is played: data, model, rules, attackers and rewards. Read once, by ``make_game``."""

    dataset: str = "digits"
    """A registered data set: digits, mnist, fashion_mnist, cifar10."""
    pool: int = 1
    """Average-pool images by this factor."""
    model: str = "mlp"
    """A registered model: mlp, cnn."""
    hidden: tuple[int, ...] = (64,)
    """Widths of the mlp; (channels, channels, width) of the cnn."""
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
    """Of splits, partition and client order."""

    def check(self) -> None:
        """Raises ConfigError where a value is out of range."""
        _require_count("pool", self.pool)
        for name in ("num_root", "num_validation", "num_test"):
            # no set has so many, which says itself how many it has
            _require_count(name, getattr(self, name), int(name != "num_test"), 2**31 - 1)
        for width in self.hidden:
            _require_count("hidden", width)
        _require_seed("seed", self.seed)
        _require(
            self.root_class_share is None or 0 <= self.root_class_share <= 1,
            "root_class_share", self.root_class_share, "in [0, 1], or none for all the same",
        )  # fmt: skip
        _require_count("trigger_size", self.trigger_size)
        _require_count("target", self.target, least=0)
        for name in ("backdoor_weight", "level"):
            value = getattr(self, name)
            allowed = "at least 0 and finite, in float32 too"
            _require(value == 0 or is_positive(value), name, value, allowed)
        _require(bool(self.types), "types", self.types, "at least one attacker type")
        _require(0 <= self.assumed_share < 0.5, "assumed_share", self.assumed_share, "in [0, 0.5)")
        for name, allowed in (
            ("reward", ("clean", "clean+backdoor")),
            ("loss", ("probability", "cross_entropy")),
        ):
            value = getattr(self, name)
            _require(value in allowed, name, value, f"one of {', '.join(allowed)}")
        if self.probabilities:
            q = self.probabilities
            _require(len(q) == len(self.types), "probabilities", q, "one for each type")
            _require(
                min(q) >= 0 and abs(sum(q) - 1) < 1e-6,
                "probabilities",
                q,
                "non-negative, of sum 1",
            )


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """One pre-training run."""

    game: GameConfig = GameConfig()
    fl: FLConfig = FLConfig()
    meta: MetaConfig = MetaConfig()
    teach: TeachConfig = TeachConfig()
    stages: tuple[Literal["teach", "meta"], ...] = ("meta",)
    """What pre-training does, in this order: the teacher (where the rule decides about each
    client), then meta-steps of meta.algorithm."""
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
    """Of the learner."""
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
            _require(stage in ("teach", "meta"), "stages", self.stages, "of teach and meta")
        kinds = ("real", "repeated", "augmented", "generated")
        _require(self.clients in kinds, "clients", self.clients, f"one of {', '.join(kinds)}")
        _require_count("num_simulated", self.num_simulated, most=10**8)
        for name in ("steps", "chunk", "respond_every", "respond_tries"):
            _require_count(name, getattr(self, name), most=2**31 - 1)
        keeps = self.meta.population and "meta" in self.stages
        _require(
            not keeps or self.meta.algorithm == "meta_sl",
            "meta.population",
            self.meta.population,
            f"0 with meta.algorithm = {self.meta.algorithm!r}: meta_sl alone meets it",
        )
        _require_count("keep", self.keep, least=0, most=2**31 - 1)
        gib = self.memory_gib
        _require(0 <= gib < 2**30, "memory_gib", gib, "0 (80 % of free) or more, and finite")
        _require_seed("seed", self.seed)
        if "teach" in self.stages:  # the teacher's worlds are numbered from 1,000 seeds on
            most = SEEDS // 1000 - 1
            _require(self.seed < most, "seed", self.seed, f"with a teacher, below {most:,}")


@dataclasses.dataclass(frozen=True)
class Adaptation:
    """One run whose attacker is hidden, with adaptation online."""

    attack: str = "bfl@0.2"
    """The type that is hidden from the server; one that it never met, too."""
    psi: str = "imagined"
    """How it adapts: imagined (gradients on rollouts of its own world), mixture (each type's best
    action, by its belief), planned (the best of them), trajectory (gradients on the real run so
    far), frozen (not), sampled (not either, its actions sampled); fields as in
    imagined:batches=4,lr=0.02."""
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
        _require(
            self.block >= 1 and horizon % self.block == 0,
            "block",
            self.block,
            f"a divisor of the {horizon} rounds",
        )
        _require(
            0 <= self.conceal < horizon and self.conceal % self.block == 0,
            "conceal",
            self.conceal,
            f"a multiple of block = {self.block} below {horizon}",
        )
        _require_count("world", self.world, least=0, most=2**31 - 1)
        _require_count("num_simulated", self.num_simulated, most=10**8)
