"""Policies: static objects with ``init``, ``sample``, ``log_prob`` and ``mode``."""

from metasg_jax.policies.categorical import Categorical
from metasg_jax.policies.fixed import Fixed
from metasg_jax.policies.gaussian import Gaussian
from metasg_jax.policies.random import Random
from metasg_jax.policies.set_policy import SetPolicy
from metasg_jax.registry import Registry

POLICIES = Registry(
    "policy",
    {
        "gaussian": Gaussian,
        "categorical": Categorical,
        "set": SetPolicy,
        "fixed": Fixed,
        "random": Random,
    },
)

__all__ = ["POLICIES", "Categorical", "Fixed", "Gaussian", "Random", "SetPolicy"]
