"""What every rule and every attack makes of a round: one program, less to compile than one each."""

import jax.numpy as jnp
import numpy as np

from tests.aggregators.every_rule import RULES, call, whole_action
from tests.attacks.test_contracts import ACTION, CRAFTS, half


def results_of_rules(got, without=()):
    """(update, state, info) by name."""
    made = {}
    for name, make in RULES.items():
        if name in without:
            continue
        rule = make()
        knobs = [0.0] * len(rule.action_spec)
        made[name] = call(
            rule, got, whole_action(rule, knobs).astype(jnp.float32) if knobs else None
        )
    return made


def results_of_attacks(ctx):
    """What each plans and crafts, by name."""
    attacks = {name: make() for name, make in CRAFTS.items()}
    return {
        name: [half(method, attack, ctx, np.float32(ACTION)) for method in ("plan", "craft")]
        for name, attack in attacks.items()
    }
