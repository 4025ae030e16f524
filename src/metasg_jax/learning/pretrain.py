"""Many meta-steps in one program: a ``lax.scan``, in chunks that change nothing."""

import functools

import jax

from metasg_jax.config import MetaConfig
from metasg_jax.learning.meta_rl import meta_rl_update
from metasg_jax.learning.meta_sl import meta_sl_update
from metasg_jax.learning.respond import best_response_update
from metasg_jax.learning.state import MetaSGState
from metasg_jax.types import Info, Key

ALGORITHMS = {
    "meta_sl": meta_sl_update,
    "meta_rl": meta_rl_update,
    "best_response": best_response_update,
}


@functools.partial(jax.jit, static_argnames="num_steps", donate_argnames="state")
def pretrain(
    key: Key, state: MetaSGState, game, config: MetaConfig, num_steps: int
) -> tuple[MetaSGState, Info]:
    """Runs ``num_steps`` meta-steps of ``config.algorithm`` on from ``state``, which is donated.

    Step s draws its randomness from ``fold_in(key, s)``, s counted from the learner's beginning:
    cutting a run into chunks, or resuming it, gives the same bits.

    Returns:
        (state, info with a leading axis num_steps).

    Example:
        >>> from metasg_jax.learning import init_state
        >>> from metasg_jax.testing import bandit
        >>> game, config = bandit(), MetaConfig(group_size=2)
        >>> state = init_state(jax.random.key(0), game, config)
        >>> state, info = pretrain(jax.random.key(1), state, game, config, 3)
        >>> state.num_steps, info["return_D"].shape
        (3, (3,))
    """
    update = ALGORITHMS[config.algorithm]

    def step(state, _):
        return update(jax.random.fold_in(key, state.step), state, game, config)

    return jax.lax.scan(step, state, None, length=num_steps)
