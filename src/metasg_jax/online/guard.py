"""Whether a candidate may replace the policy that plays: a look ahead in the own world, whose
promises are held against what came of them.
"""

import functools

import jax
import jax.numpy as jnp
from scipy.special import stdtrit

from metasg_jax.game.rollout import Player, rollout
from metasg_jax.online.belief import against_likely, likely
from metasg_jax.online.misfit import STRANGE
from metasg_jax.online.view import OnlineView, OwnWorld, ServerState
from metasg_jax.struct import Struct
from metasg_jax.types import Key


class Verdict(Struct):
    """What the look ahead says of a candidate.

    Attributes:
        gain: f32[], its reward a round minus that of the present policy, by the belief.
        error: f32[], standard error of that over repeats.
        accepted: bool[], whether the gain is above the doubt, by a one-sided test at 5 %.
        loss: f32[], clean loss a round on root images that is promised of the policy that will
            play.
        spread: f32[], standard deviation of that over repeats.
    """

    gain: jax.Array
    error: jax.Array
    accepted: jax.Array
    loss: jax.Array
    spread: jax.Array


class Trust(Struct):
    """What the server knows of its own world's promises.

    Attributes:
        loss: f32[], promised for the block that is played; NaN before the first.
        spread: f32[], of it.
        doubt: f32[], by how much a promise was broken at most so far, beyond two spreads; in
            clean loss, which is the reward's greater part: a gain has the same unit.
        misfit: f32[], of what was seen to the own world's types, the mean over the blocks so far;
            NaN before the first. Who becomes a stranger late is seen by broken promises alone.
        blocks: f32[], so many.
    """

    loss: jax.Array
    spread: jax.Array
    doubt: jax.Array
    misfit: jax.Array
    blocks: jax.Array

    @property
    def strange(self) -> jax.Array:
        """bool[], whether no type of the own world explains what was seen."""
        return self.misfit > STRANGE


def no_promise() -> Trust:
    """Before the first look ahead."""
    unknown = jnp.full((), jnp.nan, jnp.float32)
    return Trust(unknown, unknown, jnp.zeros((), jnp.float32), unknown, jnp.zeros((), jnp.float32))


def hold(trust: Trust, view: OnlineView, misfit: jax.Array) -> tuple[Trust, jax.Array]:
    """Holds a promise, and the own world's types, against a block.

    The clean loss on root images is what both worlds measure alike; of a backdoor the server has
    an estimate only.

    Args:
        trust: with what was promised for the block.
        view: the block.
        misfit: f32[], of the block; see :func:`~metasg_jax.online.misfit.misfit`.

    Returns:
        (trust, its doubt raised where need be; bool[], whether the promise was broken.)
    """
    short = view.loss.mean() - trust.loss - 2 * trust.spread
    broken = short > 0  # not where nothing was promised
    doubt = jnp.where(broken, jnp.maximum(trust.doubt, short), trust.doubt)
    blocks = trust.blocks + 1
    before = jnp.nan_to_num(trust.misfit)
    mean = before + (misfit - before) / blocks
    trust = trust.replace(doubt=doubt, misfit=mean, blocks=blocks)
    return trust, broken


@functools.partial(jax.jit, static_argnames=("block", "num_rounds", "repeats"))
def look_ahead(
    key: Key,
    own: OwnWorld,
    belief: jax.Array,
    server: ServerState,
    current: Player,
    candidate: Player,
    doubt: jax.Array | float = 0.0,
    block: int = 10,
    num_rounds: int = 20,
    repeats: int = 4,
) -> Verdict:
    """Plays both policies from the present model, under the same random numbers.

    Each as it would play the real run: its mode, or sampling.

    Args:
        key: consumed.
        own: the server's own world.
        belief: f32[K] over its types; those below 0.05 aren't played.
        server: where the real run stands.
        current: the policy that plays.
        candidate: the one that would.
        doubt: what the gain has to be above, beyond what chance explains.
        block: static, rounds of it that a promise is about.
        num_rounds: static, that are played ahead: what a policy does to a model shows late.
        repeats: static, at least 2.
    """
    quantile = stdtrit(repeats - 1, 0.95)
    weights = likely(belief)

    def against(i):
        def one(r):
            key_r = jax.random.fold_in(jax.random.fold_in(key, i), r)
            key_start, key_environment, key_policies = jax.random.split(key_r, 3)

            def earned(player):  # keys are cloned: both policies are to share them
                start = own.at(jax.random.clone(key_start), i, server)
                _, played = rollout(
                    jax.random.clone(key_environment), jax.random.clone(key_policies), own.game,
                    own.game.prior[i], player, own.attacker(i), state=start,
                    num_rounds=num_rounds, responder=own.responder,
                )  # fmt: skip
                lost = played.info["loss"][:block].mean()
                return jnp.stack([played.defender.reward.mean(), lost])

            return jnp.stack([earned(current), earned(candidate)])

        return jax.vmap(one)(jnp.arange(repeats))

    found = jnp.tensordot(weights, against_likely(against, weights), 1)  # [R, 2, 2]
    gains = found[:, 1, 0] - found[:, 0, 0]
    error = gains.std(ddof=1) / jnp.sqrt(repeats)
    accepted = gains.mean() - quantile * error > doubt
    losses = jnp.where(accepted, found[:, 1, 1], found[:, 0, 1])
    return Verdict(gains.mean(), error, accepted, losses.mean(), losses.std(ddof=1))
