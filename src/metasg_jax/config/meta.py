"""Settings of the learner: algorithms, estimates of the gradient, policies and step sizes."""

import dataclasses
import math
from typing import Literal

from metasg_jax.config.checks import require, require_count
from metasg_jax.config.fields import static
from metasg_jax.limits import MOST, is_positive
from metasg_jax.struct import Struct


class MetaConfig(Struct):
    """The learner: Algorithms 1 and 2 of the paper, and what a small budget needs beyond them.

    Example:
        >>> MetaConfig(algorithm="meta_rl", adapt_steps=3).adapts_again
        False
    """

    algorithm: Literal["meta_sl", "meta_rl", "best_response"] = static("meta_sl")
    """Algorithm 2 (meta-Stackelberg), Algorithm 1 (Reptile meta-RL, attackers never respond), or
    the attackers' part of Algorithm 2 alone, against a defender that stands still."""
    outer: Literal["fomaml", "reptile", "debiased", "debiased_exact"] = static("fomaml")
    """The meta gradient of Algorithm 2. First order: line 23 as printed (fomaml), or section 4.1's
    average of the adapted policies (reptile). Through the adaptation, lines 18-21, by
    Hessian-vector products: unbiased for adaptation by a sampled gradient (debiased), or by the
    exact one (debiased_exact; here with a sampled one in its place). Read by meta_sl."""
    gradient: Literal["score", "evolution", "pathwise", "credit"] = static("score")
    """How grad J is estimated: from the policies' scores (C1); from returns at perturbed
    parameters, in antithetic pairs; through the simulator, where actions are knobs; or, where the
    defender decides about each client, by what each decision changed in its round."""
    randomized: bool = static(False)
    """With best_response: the defender that stands still samples its actions, instead of playing
    its policy's mode."""
    num_types: int = static(0)
    """K types sampled from the prior in a meta-step; 0 enumerates the table with weights Q."""
    group_size: int = static(4)
    """Rollouts that share the environment's randomness and differ in the policies' noise."""
    num_groups: int = static(1)
    """Groups per batch; group_size x num_groups is the paper's N_b."""
    rollouts_at_once: int = static(0)
    """The most rollouts of a batch that are played side by side; fewer take less memory. 0 is all;
    -1 lets ``metasg pretrain`` choose (see memory_gib), elsewhere it is all, too. Parts are equal:
    see ``game.rollout.parts``. Changes results by rounding only."""
    adapt_steps: int = static(1)
    """l, gradient steps from the meta policy to the adapted one."""
    attacker_steps: int = static(1)
    """N_A, gradient steps of an adaptive attacker's best response in a meta-step."""
    population: int = static(0)
    """Places for attackers that answered earlier defenders: each is met again in every meta-step of
    meta_sl. 0 keeps none."""
    population_share: float = 0.5
    """Weight of the population in a meta-step, in [0, 1); the prior has the rest."""
    epochs: int = static(1)
    """Gradient steps on one batch in the outer update; above 1 only with ratio_clip."""
    estimator: Literal["return", "return_to_go", "future_gain"] = static("return_to_go")
    """Weight of a step's score: the whole discounted return (C1 as printed), the discounted return
    from that step on (the same gradient in expectation), or the discounted average of what is still
    to come minus the previous reward, every step counting alike (not the paper's)."""
    baseline: Literal["none", "batch", "leave_one_out", "group"] = static("group")
    """What a score's return is compared with at the same step: nothing; the mean of the batch
    (biased by its own share); that of the batch's other episodes; that of the other rollouts of the
    group, which share the environment's randomness."""
    window: int = static(0)
    """Rounds that pathwise derivatives flow through, a divisor of the horizon; 0 is all."""
    normalize_advantages: bool = static(False)
    """Divide advantages by their standard deviation over the batch (not the paper's)."""
    optimizer: Literal["sgd", "adam"] = static("sgd")
    """Outer update on the pseudo-gradient; sgd with outer_lr 1 is Algorithm 2 as printed. Research
    code may hand in an optax transformation, whose updates are multiplied by the step size."""
    policy: Literal["auto", "deep_sets", "attention"] = static("auto")
    """The defender's: auto is a network of the observation, or deep_sets where it decides about
    each client. Research code may hand in a policy object (hashable)."""
    hidden: tuple[int, ...] = static((32,))
    """Widths of the hidden layers of policies with a flat observation."""
    set_hidden: tuple[int, ...] = static((64, 64))
    """Widths of a set policy's layers."""
    init_std: float = static(0.5)
    """Standard deviation of a fresh policy, before the tanh."""
    learn_std: bool = static(True)
    """Whether that deviation is learned, or stays."""
    normalize: bool = static(True)
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
                require(value in choices, each.name, value, f"one of {', '.join(choices)}")
        require(self.num_types >= 0, "num_types", self.num_types, "0 (all) or more")
        for name in ("num_groups", "epochs"):
            require_count(name, getattr(self, name))
        share = self.population_share
        require(0 <= share < 1, "population_share", share, "in [0, 1)")
        for name in ("adapt_steps", "attacker_steps", "num_types", "population"):
            require_count(name, getattr(self, name), least=0)
        for name in ("hidden", "set_hidden"):
            for width in getattr(self, name):
                require_count(name, width)
        require(
            -1 <= self.rollouts_at_once <= MOST,
            "rollouts_at_once",
            self.rollouts_at_once,
            f"at least 1, at most {MOST:,}, 0 (all) or -1 (chosen by memory)",
        )
        require(
            self.algorithm != "best_response" or self.attacker_steps >= 1,
            "attacker_steps",
            self.attacker_steps,
            "at least 1 with algorithm = 'best_response'",
        )
        require(
            self.algorithm != "best_response" or self.gradient == "score",
            "gradient",
            self.gradient,
            "with algorithm = 'best_response', score",
        )
        least = 2 if self.baseline == "group" else 1
        require(
            self.group_size >= least,
            "group_size",
            self.group_size,
            f"at least {least} with baseline {self.baseline!r}",
        )
        batch = self.group_size * self.num_groups
        require(
            self.baseline != "leave_one_out" or batch >= 2,
            "baseline",
            self.baseline,
            "needs group_size x num_groups of at least 2",
        )
        require(
            self.gradient != "evolution" or batch % 2 == 0,
            "gradient",
            self.gradient,
            f"needs pairs: group_size x num_groups = {batch} is odd",
        )
        require_count("group_size", self.group_size)
        allowed = f"at least 1, at most {MOST:,}, or 0 (the whole episode)"
        require(0 <= self.window <= MOST, "window", self.window, allowed)
        score_only = self.epochs > 1 or self.outer.startswith("debiased")
        require(
            self.gradient == "score" or not score_only,
            "gradient",
            self.gradient,
            "with epochs above 1 or a debiased outer update, score",
        )
        require(
            not self.outer.startswith("debiased") or self.epochs == 1,
            "epochs",
            self.epochs,
            f"1 with outer = {self.outer!r}",
        )
        require(
            self.epochs == 1 or self.ratio_clip < 1,
            "ratio_clip",
            self.ratio_clip,
            f"below 1 (0.2, say) with epochs = {self.epochs}",
        )
        require(0 < self.discount <= 1, "discount", self.discount, "in (0, 1]")
        for name in ("adapt_lr", "defender_lr", "attacker_lr", "outer_lr"):
            value = getattr(self, name)
            allowed = "at least 0 and finite, in float32 too"
            require(value == 0 or is_positive(value), name, value, allowed)
        for name in ("perturbation", "ratio_clip", "max_grad_norm", "init_std"):
            value = getattr(self, name)
            finite = is_positive(value) or (value == math.inf and name != "init_std")
            require(finite, name, value, "above 0, in float32 too")
