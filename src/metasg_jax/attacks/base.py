"""What an attacker sees, and the honest defaults that every attack starts from."""

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from metasg_jax.attacks.plan import LocalPlan
from metasg_jax.numerics import row_norms
from metasg_jax.struct import Struct, field
from metasg_jax.types import Aggregator, Attack, Info, Key

KNOWLEDGE = ("own", "all", "rule")


class AttackContext(Struct):
    """What the attacker knows in one round.

    What an attack may not know is zeroed before it is called, according to its ``knowledge``:
    ``own`` (the colluders' updates), ``all`` (every update) or ``rule`` (every update
    and the server's rule).

    Attributes:
        malicious: bool[n], the sampled clients that this attack controls; may be none or all.
        colluders: bool[n], all sampled clients of the mastermind: in a mixed attack those of the
            other attack too.
        member: i32[n], number of each of its clients among all of its clients, from 0; -1 for the
            others.
        visible: f32[n, d], the updates it may see; None while it plans. A row that it may not see
            is 0, as is its entry in ``weights``.
        honest: f32[n, d], what its own clients would have sent honestly, 0 elsewhere; None while it
            plans, and where no attack of the game has ``trains_twice``.
        weights: f32[n].
        w_global: f32[d].
        plan: the honest plan of these clients, n rows.
        round: i32[].
        num_clients: N, static.
        num_malicious: i32[], clients that the attack controls among all N.
        trigger_mask: f32[h, w, c].
        trigger_pattern: f32[h, w, c].
        target: i32[], label that a stamped image should get.
        rule: the server's rule, or None where ``knowledge`` is not ``rule``.
        look: (update f32[d], stamped) -> f32[], the mean cross-entropy of images of this attack's
            own clients if the server applied the update; with ``stamped``, of those of other
            classes with the trigger on, towards the target. None while it plans.
        server_lr: f32[], the server's factor on the aggregated update, which all clients know.
    """

    malicious: jax.Array
    colluders: jax.Array
    member: jax.Array
    visible: jax.Array | None
    weights: jax.Array
    w_global: jax.Array
    plan: LocalPlan
    round: jax.Array
    num_malicious: jax.Array
    trigger_mask: jax.Array
    trigger_pattern: jax.Array
    target: jax.Array
    rule: Aggregator | None
    num_clients: int = field(static=True)
    look: Callable[[jax.Array, bool], jax.Array] | None = field(static=True, default=None)
    honest: jax.Array | None = None
    server_lr: jax.Array | float = 1.0


def restrict(attack: Attack, ctx: AttackContext) -> AttackContext:
    """Zeroes what ``attack`` may not know, whatever it would do with it."""
    known = ctx.colluders if attack.knowledge == "own" else jnp.ones_like(ctx.colluders)
    visible = None if ctx.visible is None else jnp.where(known[:, None], ctx.visible, 0.0)
    honest = None if ctx.honest is None else jnp.where(ctx.malicious[:, None], ctx.honest, 0.0)
    return ctx.replace(
        visible=visible,
        honest=honest,
        weights=jnp.where(known, ctx.weights, 0.0),
        rule=ctx.rule if attack.knowledge == "rule" else None,
    )


def seen(ctx: AttackContext) -> jax.Array:
    """The updates f32[n, d] that an attack may see; while it plans there are none yet.

    Raises:
        ValueError: when called by ``plan``.
    """
    if ctx.visible is None:
        raise ValueError("no update has been made yet: read updates in craft, not in plan")
    return ctx.visible


class AttackBase(Struct):
    """Honest behaviour; an attack overrides what it changes.

    Attributes:
        knowledge: one of :data:`KNOWLEDGE`; a static field where an attack has variants that know
            more or less.
        uses: optional fields of the plan that it fills: of ``trigger``, ``radius``.
        action_spec: names of the knobs it turns each round; empty for a non-adaptive attack.
        second_pass_steps: where positive, its clients first train honestly; then one row follows
            the plan for at most that many steps, hiding behind the mean of those honest updates
            (``reference``), and all of them send it. Honest rounds stay fast.
        pools_images: whether that row is trained on images of all of its clients, sampled or not;
            else on those of the first that was sampled.
        trains_twice: whether its clients train honestly too, on the same batches, so that both can
            be mixed (``AttackContext.honest``).
        sees_model: whether its policy sees the global model and its loss, or only the share of its
            clients among those sampled and how far the episode has come.
        noise: of its clients' own, so that colluders who would send one vector send unlike ones:
            each coordinate is multiplied by 1 + ``noise`` times a standard normal, and the row
            brought back to its norm. At 1 their cosines are 0.5, in every layer. Applied by the
            table, see :func:`unlike`.
    """

    noise: float = field(default=0.0, kw_only=True)

    pools_images: ClassVar[bool] = False
    trains_twice: ClassVar[bool] = False
    uses: ClassVar[tuple[str, ...]] = ()
    action_spec: ClassVar[tuple[str, ...]] = ()

    @property
    def knowledge(self) -> str:
        """The colluders' updates only."""
        return "own"

    @property
    def sees_model(self) -> bool:
        """True."""
        return True

    @property
    def second_pass_steps(self) -> int:
        """0: no second pass."""
        return 0

    def check_trigger(self, mask: jax.Array) -> None:
        """Raises ConfigError where it can't use a trigger f32[h, w, c]; most can use any."""

    def init(self, n: int, d: int) -> Any:
        """State carried from round to round; empty unless an attack says otherwise."""
        return ()

    def plan(
        self, key: Key, state: Any, ctx: AttackContext, action: jax.Array
    ) -> tuple[LocalPlan, Any, Info]:
        """How its clients train: n rows, of which only the malicious are read."""
        return ctx.plan, state, {}

    def craft(
        self, key: Key, state: Any, ctx: AttackContext, action: jax.Array
    ) -> tuple[jax.Array, Any, Info]:
        """What its clients send: f32[n, d], of which only the malicious rows are read."""
        return seen(ctx), state, {}


def unlike(key: Key, rows: jax.Array, noise: jax.Array) -> jax.Array:
    """Rows f32[n, d] of the same norms, each turned away by noise of its own (multiplicative).

    Args:
        key: consumed.
        rows: what colluders would send.
        noise: f32[], relative to a coordinate; 0 gives the rows as they are and costs nothing,
            unless it is batched.
    """
    # raw, because a batched condition would take the key once for each branch
    raw, kind = jax.random.key_data(key), jax.random.key_impl(key)

    def turned():
        drawn = jax.random.normal(jax.random.wrap_key_data(raw, impl=kind), rows.shape, jnp.float32)
        norms = row_norms(rows)[:, None]
        # in proportion to the coordinate: spread evenly it would spare the layers that are small
        moved = rows * (1 + noise * drawn)
        return moved * (norms / jnp.maximum(row_norms(moved)[:, None], 1e-12))

    return jax.lax.cond(noise > 0, turned, lambda: rows)
