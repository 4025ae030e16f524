"""A finite set of attacks of which one acts, chosen by a traced index: only it runs."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metasg_jax.attacks.base import AttackContext, restrict, unlike
from metasg_jax.attacks.plan import LocalPlan
from metasg_jax.struct import Struct, field
from metasg_jax.types import Attack, Key


class AttackTable(Struct):
    """Attacks grouped by kind; those of a kind share one traced body and differ in their numbers.

    Attributes:
        kinds: an attack a kind, its float fields stacked over slots.
        noisy: static, whether some attack has ``noise``: a program without it is smaller by two
            draws of f32[n, d], which it would compile and find room for.

    ``kind`` must not be batched (a loop counter, or a constant): then ``lax.switch`` runs one
    branch. Under a batched index every branch would run.
    """

    kinds: tuple[Attack, ...]
    noisy: bool = field(static=True, default=True)

    @property
    def uses(self) -> tuple[str, ...]:
        """Optional fields of the plan that some attack of the table fills."""
        return tuple(sorted({name for attack in self.kinds for name in attack.uses}))

    @property
    def action_size(self) -> int:
        """The longest action of any kind; shorter ones read its first entries."""
        return max(len(attack.action_spec) for attack in self.kinds)

    @property
    def second_pass_steps(self) -> int:
        """The longest second pass of any kind; 0 where there is none."""
        return max(attack.second_pass_steps for attack in self.kinds)

    def needs_second_pass(self, kind: jax.Array) -> jax.Array:
        """bool[]: whether the kind's clients train apart."""
        return jnp.array([attack.second_pass_steps > 0 for attack in self.kinds])[kind]

    @property
    def some_train_twice(self) -> bool:
        """Whether clients of some kind train honestly too."""
        return any(attack.trains_twice for attack in self.kinds)

    def trains_twice(self, kind: jax.Array) -> jax.Array:
        """bool[]: whether the kind's clients train honestly too."""
        return jnp.array([attack.trains_twice for attack in self.kinds])[kind]

    def pools_images(self, kind: jax.Array) -> jax.Array:
        """bool[]: whether the kind's second pass is on images of all of its clients."""
        return jnp.array([attack.pools_images for attack in self.kinds])[kind]

    def sees_model(self, kind: jax.Array) -> jax.Array:
        """bool[]: whether the kind's policy sees the global model."""
        return jnp.array([attack.sees_model for attack in self.kinds])[kind]

    def init(self, n: int, d: int) -> tuple[Any, ...]:
        """One state a kind; a branch changes its own only, so that all branches agree in type."""
        return tuple(attack.init(n, d) for attack in self.kinds)

    def plan(
        self, kind, slot, key: Key, state, ctx: AttackContext, action: jax.Array
    ) -> tuple[LocalPlan, tuple]:
        """The plan of the chosen attack, and the states."""
        return self._switch("plan", kind, slot, key, state, ctx, action)

    def craft(
        self, kind, slot, key: Key, state, ctx: AttackContext, action: jax.Array
    ) -> tuple[jax.Array, tuple]:
        """The rows f32[n, d] of the chosen attack, made unlike each other, and the states."""
        # before the key is consumed
        key_noise = jax.random.fold_in(key, 1) if self.noisy else None
        rows, states = self._switch("craft", kind, slot, key, state, ctx, action)
        if key_noise is not None:
            rows = unlike(key_noise, rows, self.noise(kind, slot))
        return rows, states

    def noise(self, kind, slot) -> jax.Array:
        """f32[], of the chosen attack."""
        noises = [jnp.atleast_1d(attack.noise) for attack in self.kinds]
        begin = np.cumsum([0] + [len(each) for each in noises[:-1]])
        return jnp.concatenate(noises)[jnp.asarray(begin)[kind] + slot]

    def _switch(self, method, kind, slot, key, state, ctx, action):
        def branch(k, stacked):
            def run():
                attack = jax.tree.map(lambda leaf: leaf[slot], stacked)
                out, new, _ = getattr(attack, method)(key, state[k], restrict(attack, ctx), action)
                return out, (*state[:k], new, *state[k + 1 :])

            return run

        return jax.lax.switch(kind, [branch(k, a) for k, a in enumerate(self.kinds)])


def attack_table(attacks: Sequence[Attack]) -> tuple[AttackTable, list[int], list[int]]:
    """Groups attacks by kind: equal class and equal static fields.

    Args:
        attacks: in the order of the types; repetitions are welcome.

    Returns:
        (table, kind of each attack, slot of each attack within its kind).

    Example:
        >>> from metasg_jax.attacks import ALIE, IPM, NoAttack
        >>> _, kinds, slots = attack_table([NoAttack(), IPM(1.0), ALIE(), IPM(5.0)])
        >>> kinds, slots
        ([0, 1, 2, 1], [0, 0, 0, 1])
    """
    groups: dict[Any, list[Attack]] = {}
    kinds, slots = [], []
    for attack in attacks:
        structure = jax.tree.structure(attack)
        group = groups.setdefault(structure, [])
        kinds.append(list(groups).index(structure))
        slots.append(len(group))
        group.append(attack)
    stacked = tuple(
        jax.tree.map(lambda *leaves: jnp.asarray(leaves, jnp.float32), *group)
        for group in groups.values()
    )
    # what is traced may be anything
    noisy = any(isinstance(a.noise, jax.core.Tracer) or float(a.noise) > 0 for a in attacks)
    return AttackTable(stacked, noisy), kinds, slots
