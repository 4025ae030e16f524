"""Attacks that one client alone can run, and what it knows while it does."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from metasg_jax.attacks import BACKDOOR, UNTARGETED, AttackContext, check_attack, honest_plan
from metasg_jax.data import TRIGGERS
from metasg_jax.errors import ConfigError
from metasg_jax.registry import parse_variant, unknown_name
from metasg_jax.types import Attack


def client_attack(text: str) -> Attack:
    """An attack that one client can run, from its string; it knows the client's own updates.

    Raises:
        UnknownNameError: for a name that is not registered.
        ConfigError: for one that takes more than a client's images and update, or bad numbers.
    """
    known = {**UNTARGETED, **BACKDOOR}
    name = text.partition(":")[0].strip()
    if name not in known:
        raise unknown_name("attack", name, able())
    attack = check_attack(parse_variant(known, text, "poison", knowledge="own"))
    if not _alone(type(attack)) or attack.knowledge != "own":
        raise ConfigError(
            f"poison: {text!r} takes more than one client's sight; use one of {', '.join(able())}"
        )
    return attack


def able() -> list[str]:
    """Names of the attacks that one client can run."""
    return [name for name, cls in {**UNTARGETED, **BACKDOOR}.items() if _alone(cls)]


def _alone(cls: type[Attack]) -> bool:
    """Whether images, labels and the finished update are all that it changes, by itself."""
    varies = "knowledge" in getattr(cls, "__dataclass_fields__", {})
    attack = cls(knowledge="own") if varies else cls()  # pyrefly: ignore
    return (
        attack.knowledge == "own"
        and not attack.action_spec
        and not attack.second_pass_steps
        and not attack.trains_twice
        and set(attack.uses) <= {"trigger"}
        and _trains_as_usual(attack)
    )


def _trains_as_usual(attack: Attack) -> bool:
    """Whether its plan changes images and labels only: steps and rates are the app's."""
    return _plan_keeps(attack, ("sign", "proximal", "stealth", "lr", "steps"))


def poisons_data(attack: Attack) -> bool:
    """Whether it changes the images or labels that a client trains on."""
    return not _plan_keeps(attack, ("label_map", "fraction"))


def _plan_keeps(attack: Attack, fields: Sequence[str]) -> bool:
    """Whether an attack leaves these fields of an honest plan as they are."""
    shape = (10, 10, 1)
    mask, pattern = TRIGGERS["distributed"](shape)
    ctx = client_context(jnp.zeros((1, 1)), jnp.zeros(1), shape, 10, mask, pattern, 0)
    plan, _, _ = attack.plan(jax.random.key(0), attack.init(1, 1), ctx, no_action(attack))
    return all(np.array_equal(getattr(plan, n), getattr(ctx.plan, n)) for n in fields)


def client_context(rows, w_global, shape, num_classes, mask, pattern, target) -> AttackContext:
    """What one client knows.

    Args:
        rows: f32[n, d], its update in the first row, its own earlier ones in the others.
        w_global: f32[d].
        shape: (h, w, c) of its images.
        num_classes: C.
        mask: f32[h, w, c] of the trigger.
        pattern: f32[h, w, c].
        target: label of a stamped image.
    """
    n = rows.shape[0]
    first = jnp.arange(n) == 0
    return AttackContext(
        malicious=first,
        colluders=jnp.ones(n, bool),
        member=jnp.where(first, 0, -1),
        visible=rows,
        weights=jnp.ones(n),
        w_global=w_global,
        plan=honest_plan(n, shape, num_classes, 0.1, 1, ("trigger",)),
        round=jnp.zeros((), jnp.int32),
        num_malicious=jnp.ones((), jnp.int32),
        trigger_mask=jnp.asarray(mask, jnp.float32),
        trigger_pattern=jnp.asarray(pattern, jnp.float32),
        target=jnp.asarray(target, jnp.int32),
        rule=None,
        num_clients=n,
    )


def no_action(attack: Attack) -> jax.Array:
    """A client's attack turns no knobs."""
    return jnp.zeros(max(1, len(attack.action_spec)))
