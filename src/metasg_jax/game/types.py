"""The attacker's type xi and the prior Q over types (section 2.2 of the paper)."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from metasg_jax.attacks import BACKDOOR, UNTARGETED, AttackTable, attack_table, check_attack
from metasg_jax.attacks.none import NoAttack
from metasg_jax.errors import ConfigError
from metasg_jax.fl.colluders import Colluders
from metasg_jax.registry import number, parse_variant
from metasg_jax.struct import Struct, field
from metasg_jax.types import Attack


class AttackType(Struct):
    """One private type xi, or a stack of them.

    Attributes:
        index: i32[], its place in the prior. Must never be batched: it is a loop counter.
        untargeted: (kind, slot) in the prior's table, i32[2].
        backdoor: likewise, i32[2].
        num_backdoor: i32[], M1: clients 0 .. M1 - 1.
        num_untargeted: i32[], M2: clients M1 .. M1 + M2 - 1.
        onset: i32[], the first round in which they attack; honest before.
        trigger_mask: f32[h, w, c].
        trigger_pattern: f32[h, w, c].
        target: i32[].
    """

    index: jax.Array
    untargeted: jax.Array
    backdoor: jax.Array
    num_backdoor: jax.Array
    num_untargeted: jax.Array
    onset: jax.Array
    trigger_mask: jax.Array
    trigger_pattern: jax.Array
    target: jax.Array

    @property
    def rho(self) -> jax.Array:
        """M1 / (M1 + M2), the backdoor's weight in the attacker's reward; 0 without attackers."""
        total = self.num_backdoor + self.num_untargeted
        return self.num_backdoor / jnp.maximum(total, 1)

    @property
    def has_backdoor(self) -> jax.Array:
        """bool[]."""
        return self.num_backdoor > 0

    def active(self, round) -> jax.Array:
        """bool[]: whether its clients attack in a round i32[]."""
        return round >= self.onset


class TypeTable(Struct):
    """A finite table of types xi, of any kind, and the prior Q over them.

    Attributes:
        types: a type whose leaves are stacked over K; it has a leaf ``index`` i32[K].
        probabilities: f32[K], of sum 1.
        names: K strings, static.
        adaptive: K booleans, static: whether the attacker has something to respond with.
    """

    types: Any
    probabilities: jax.Array
    names: tuple[str, ...] = field(static=True)
    adaptive: tuple[bool, ...] = field(static=True)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, i) -> Any:
        """The type at a Python or traced index."""
        return jax.tree.map(lambda leaf: leaf[i], self.types)


class Prior(TypeTable):
    """The types of the FL game, :class:`AttackType` stacked over K, and their attacks.

    Attributes:
        untargeted: the untargeted attacks of all types.
        backdoor: the backdoor attacks of all types.
    """

    untargeted: AttackTable
    backdoor: AttackTable

    @property
    def action_size(self) -> int:
        """A_A: an attacker's action holds the untargeted knobs, then those of the backdoor."""
        return max(1, self.untargeted.action_size + self.backdoor.action_size)

    def colluders(self, xi: AttackType) -> tuple[Colluders, Colluders]:
        """The backdoor's and the untargeted attack's clients of type ``xi``."""
        trigger = dict(
            onset=xi.onset,
            trigger_mask=xi.trigger_mask,
            trigger_pattern=xi.trigger_pattern,
            target=xi.target,
        )
        kind, slot = xi.backdoor
        first = jnp.zeros((), jnp.int32)
        backdoor = Colluders(self.backdoor, kind, slot, first, xi.num_backdoor, **trigger)
        kind, slot = xi.untargeted
        untargeted = Colluders(
            self.untargeted, kind, slot, xi.num_backdoor, xi.num_untargeted, **trigger
        )
        return backdoor, untargeted

    def sees_model(self, xi: AttackType) -> jax.Array:
        """bool[]: whether the attacker sees the global model; of two attacks both must."""
        kinds = xi.untargeted[0], xi.backdoor[0]
        return self.untargeted.sees_model(kinds[0]) & self.backdoor.sees_model(kinds[1])

    def split_action(self, action: jax.Array) -> tuple[jax.Array, jax.Array]:
        """An attacker's action f32[A] as (backdoor's, untargeted's), as :meth:`colluders` are."""
        size = self.untargeted.action_size
        return action[size:], action[:size]


@dataclasses.dataclass(frozen=True)
class TypeSpec:
    """A type before it is tabulated.

    Attributes:
        name: for tables.
        untargeted: an attack of :data:`~metasg_jax.attacks.UNTARGETED`.
        backdoor: an attack of :data:`~metasg_jax.attacks.BACKDOOR`.
        num_untargeted: M2, clients of all N.
        num_backdoor: M1.
        onset: the first round of the attack.
    """

    name: str
    untargeted: Attack = NoAttack()
    backdoor: Attack = NoAttack()
    num_untargeted: int = 0
    num_backdoor: int = 0
    onset: int = 0

    @property
    def adaptive(self) -> bool:
        """Whether the attacker has knobs to turn."""
        return bool(self.untargeted.action_spec or self.backdoor.action_spec)


def parse_type(text: str, num_clients: int) -> TypeSpec:
    """Reads ``attack[:knob=value,..]@share[@onset][+attack[:..]@share]``.

    A share is of all clients, rounded to whole ones; only ``none`` goes without. The knobs are the
    fields of the attack's class. ``bfl@0.2@30`` is honest until round 30; of a mixed attack the
    later onset counts for both.

    Raises:
        UnknownNameError: for an attack that is not registered.
        ConfigError: for an unknown knob, a value out of range, a share that is missing or comes to
            no client, or more attackers than clients.

    Example:
        >>> spec = parse_type("ipm:scale=2@0.1+bfl:boost=3@0.05", 100)
        >>> spec.untargeted.scale, spec.num_untargeted, spec.num_backdoor
        (2.0, 10, 5)
    """
    known = {**UNTARGETED, **BACKDOOR}
    parts: dict[str, tuple[Attack, int]] = {}
    onset = 0
    for part in text.split("+"):
        head, _, rest = part.partition("@")
        share_text, _, onset_text = rest.partition("@")
        if onset_text:
            if not onset_text.isdigit():
                raise ConfigError(f"types: onset {onset_text!r} in {text!r}: a round, 0 or later")
            onset = max(onset, int(onset_text))
        name = head.strip().partition(":")[0]
        if name not in known:
            (BACKDOOR if "untargeted" in parts else UNTARGETED)[name]  # raises, with a near match
        side = "backdoor" if name in BACKDOOR and name != "none" else "untargeted"
        if side in parts:
            raise ConfigError(f"types: {text!r} names two {side} attacks; use at most one of each")
        attack = check_attack(parse_variant(known, head, "types"))
        if not share_text and name != "none":
            raise ConfigError(f"types: {name} in {text!r} has no share: write {name}@0.2, say")
        share = number(share_text or "0", f"types: share {share_text!r} in {text!r}")
        if not 0 <= share <= 1:
            raise ConfigError(f"types: share {share_text} in {text!r}: between 0 and 1")
        count = round(share * num_clients)
        if name != "none" and not count:
            raise ConfigError(
                f"types: {text!r}: a share of {share:g} of {num_clients} clients is nobody; at "
                f"least {1 / num_clients:.2g}, or none"
            )
        parts[side] = (attack, count)
    untargeted, m2 = parts.get("untargeted", (NoAttack(), 0))
    backdoor, m1 = parts.get("backdoor", (NoAttack(), 0))
    if m1 + m2 > num_clients:
        raise ConfigError(
            f"types: {text!r} has {m1 + m2} attackers but num_clients is {num_clients}"
        )
    return TypeSpec(text, untargeted, backdoor, m2, m1, onset)


def make_prior(
    specs: Sequence[TypeSpec],
    trigger: tuple[ArrayLike, ArrayLike],
    target: int,
    probabilities: Sequence[float] = (),
) -> Prior:
    """Tabulates types.

    Args:
        specs: K types.
        trigger: (mask, pattern), each f32[h, w, c].
        target: label of a stamped image.
        probabilities: K numbers of sum 1; empty is uniform.

    Raises:
        ConfigError: for an attack that can't use this trigger.
    """
    k = len(specs)
    untargeted, kinds_u, slots_u = attack_table([s.untargeted for s in specs])
    backdoor, kinds_b, slots_b = attack_table([s.backdoor for s in specs])
    mask, pattern = (jnp.asarray(a, jnp.float32) for a in trigger)
    for spec in specs:
        spec.backdoor.check_trigger(mask)

    def integers(values):
        return jnp.asarray(values, jnp.int32)

    types = AttackType(
        index=jnp.arange(k, dtype=jnp.int32),
        untargeted=integers(list(zip(kinds_u, slots_u, strict=True))),
        backdoor=integers(list(zip(kinds_b, slots_b, strict=True))),
        num_backdoor=integers([s.num_backdoor for s in specs]),
        num_untargeted=integers([s.num_untargeted for s in specs]),
        onset=integers([s.onset for s in specs]),
        trigger_mask=jnp.broadcast_to(mask[None], (k, *mask.shape)),
        trigger_pattern=jnp.broadcast_to(pattern[None], (k, *pattern.shape)),
        target=jnp.full((k,), target, jnp.int32),
    )
    q = jnp.asarray(probabilities or [1 / k] * k, jnp.float32)
    adaptive = tuple(s.adaptive for s in specs)
    names = tuple(s.name for s in specs)
    return Prior(types, q, names, adaptive, untargeted, backdoor)
