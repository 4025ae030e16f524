"""Whether a candidate may replace the policy that plays: a look ahead in the own world."""

import functools

import jax
import jax.numpy as jnp

from metasg_jax.game.rollout import Player, rollout
from metasg_jax.online.belief import likely
from metasg_jax.online.view import OwnWorld, ServerState
from metasg_jax.struct import Struct
from metasg_jax.types import Key


class Verdict(Struct):
    """What the look ahead says of a candidate.

    Attributes:
        gain: f32[], its reward a round minus that of the present policy, by the belief.
        error: f32[], standard error of that over repeats.
        accepted: bool[].
    """

    gain: jax.Array
    error: jax.Array
    accepted: jax.Array


@functools.partial(jax.jit, static_argnames=("num_rounds", "repeats"))
def look_ahead(
    key: Key,
    own: OwnWorld,
    belief: jax.Array,
    server: ServerState,
    current: Player,
    candidate: Player,
    num_rounds: int = 20,
    repeats: int = 4,
) -> Verdict:
    """Plays both policies from the present model, under the same random numbers.

    Args:
        key: consumed.
        own: the server's own world.
        belief: f32[K] over its types; those below 0.05 aren't played.
        server: where the real run stands.
        current: the policy that plays.
        candidate: the one that would.
        num_rounds: static.
        repeats: static.
    """
    weights = likely(belief)

    def against(_, i):
        def play():
            def one(r):
                key_r = jax.random.fold_in(jax.random.fold_in(key, i), r)
                key_start, key_environment, key_policies = jax.random.split(key_r, 3)

                def earned(player):  # keys are cloned: both policies are to share them
                    start = own.at(jax.random.clone(key_start), i, server)
                    _, played = rollout(
                        jax.random.clone(key_environment), jax.random.clone(key_policies), own.game,
                        own.game.prior[i], player.replace(greedy=True), own.attacker(i),
                        state=start, num_rounds=num_rounds,
                    )  # fmt: skip
                    return played.defender.reward.mean()

                return earned(candidate) - earned(current)

            return jax.vmap(one)(jnp.arange(repeats))

        return None, jax.lax.cond(weights[i] > 0, play, lambda: jnp.zeros((repeats,)))

    counter = jnp.arange(len(own.game.prior), dtype=jnp.int32)
    gains = weights @ jax.lax.scan(against, None, counter)[1]
    error = gains.std(ddof=1) / jnp.sqrt(repeats)
    return Verdict(gains.mean(), error, gains.mean() > 0)
