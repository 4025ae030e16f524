"""What a pre-training run will cost, before it runs: memory, rounds and FLOPs from shapes alone.

Nothing here computes on a device, and no model is known by name: sizes and FLOPs are read off the
traced forward and backward passes.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr

from metasg_jax.attacks import NoAttack
from metasg_jax.config import MetaConfig, RunConfig
from metasg_jax.errors import ConfigError
from metasg_jax.fl.client import clients_at_once, cross_entropy
from metasg_jax.game.bsmg import FLGame
from metasg_jax.game.rollout import as_shapes, parts
from metasg_jax.game.types import parse_type
from metasg_jax.learning.state import init_state
from metasg_jax.programs.device import free_memory
from metasg_jax.types import Model

# blocks of rows f32[rollouts, n, d] alive at a time, as XLA lays them out: trained, and what the
# rule makes of them; one more for each group of colluders that crafts; and for attacks with noise
# of their own its random words and its normals
_COPIES = 2
_COPIES_OF_NOISE = 3
# scalars of a round's info
_INFO = 10


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of a meta-step, by part.

    Attributes:
        data: the game's arrays, images above all.
        rows: [rollouts, n, d], what all clients send.
        updates: these and the copies of them that live side by side.
        activations: images of the round and what local training keeps of its forward pass; or what
            the rewards need for all root images, whichever is more.
        trajectory: episodes of all types.
        learner: policies and optimizers, old and new.
    """

    data: int
    rows: int
    updates: int
    activations: int
    trajectory: int
    learner: int

    @property
    def total(self) -> int:
        """The peak: activations are gone when most copies of the updates come."""
        round_peak = max(self.updates, self.rows + self.activations)
        return self.data + round_peak + self.trajectory + self.learner


@dataclasses.dataclass(frozen=True)
class Estimate:
    """The cost of a meta-step.

    Attributes:
        memory: at its peak.
        rounds: FL rounds, all types enumerated.
        flops_per_round: of the matrix products of one FL round: local training forward and back,
            rewards on root images; the mean over the types' rounds.
        types_played: expected number of rollout batches of each type.
    """

    memory: Memory
    rounds: int
    flops_per_round: float
    types_played: tuple[float, ...]


def estimate(game: FLGame, config: RunConfig) -> Estimate:
    """The cost of a meta-step of ``config`` in ``game``.

    Example:
        >>> from metasg_jax import FLConfig, GameConfig, RunConfig, make_game
        >>> config = RunConfig(GameConfig(types=("none",)), FLConfig(horizon=10))
        >>> cost = estimate(make_game(config.game, config.fl), config)
        >>> cost.rounds, cost.memory.updates > cost.memory.learner
        (80, True)
    """
    played = batches_of_types(game, config.meta)
    flops = [type_flops(game, k) for k in range(len(game.prior))]
    return Estimate(
        memory=memory(game, config.meta),
        rounds=rounds_per_step(config),
        flops_per_round=sum(p * f for p, f in zip(played, flops, strict=True)) / sum(played),
        types_played=played,
    )


def rounds_per_step(config: RunConfig) -> int:
    """FL rounds of one meta-step, all types enumerated; adaptive types' responses included."""
    meta = config.meta
    specs = [parse_type(text, config.fl.num_clients) for text in config.game.types]
    batches = sum(_batches(meta, spec.adaptive) for spec in specs)
    return batches * meta.group_size * meta.num_groups * config.fl.horizon


def batches_of_types(game: FLGame, meta: MetaConfig) -> tuple[float, ...]:
    """Expected batches of episodes that a meta-step plays against each type.

    A type that may not be drawn (``num_types`` > 0) counts by its probability of being drawn.
    """
    played = []
    for q, adaptive in zip(game.prior.probabilities.tolist(), game.prior.adaptive, strict=True):
        drawn = 1 - (1 - q) ** meta.num_types if meta.num_types else 1.0
        played.append(_batches(meta, adaptive) * drawn)
    return tuple(played)


def _batches(meta: MetaConfig, adaptive: bool) -> int:
    """Batches of episodes that a meta-step plays against a type that is drawn."""
    if meta.algorithm == "meta_rl":
        return meta.adapt_steps
    if meta.algorithm == "best_response":
        return meta.attacker_steps
    again = (meta.adapt_steps + 1) * meta.adapts_again
    return meta.adapt_steps + again + 1 + adaptive * meta.attacker_steps


def memory(game: FLGame, meta: MetaConfig) -> Memory:
    """Bytes at the peak of a meta-step; ``meta.rollouts_at_once`` of -1 counts as all."""
    fl, model, rows = game.fl, game.model, game.fl.num_sampled + game.needs_root
    groups, members = parts(meta.num_groups, meta.group_size, meta.rollouts_at_once)
    rollouts = groups * members
    learner = jax.eval_shape(lambda key, game: init_state(key, game, meta), jax.random.key(0), game)
    image = math.prod(model.input_shape) * 4
    # members of a group train on the same images
    batches = groups * rows * fl.local_steps * fl.batch_size * image
    trained = clients_at_once(model, rows, fl.batch_size)
    params, *batch = _batch(model, fl.batch_size)
    backward = _largest_bytes(jax.make_jaxpr(jax.grad(_loss(model)))(params, *batch).jaxpr)
    kept = _kept_bytes(model, fl.batch_size) + backward
    params, x, _ = _batch(model, game.root_y.shape[0])
    forward = _largest_bytes(jax.make_jaxpr(model.apply)(params, x).jaxpr)
    # of the root images: what goes into a layer, what comes out, and patches, which XLA keeps
    training, rewards = rollouts * trained * kept + batches, rollouts * 3 * forward
    each = 2 * (_observation_size(game.observation_spec) + game.action_size)
    each += 2 * (game.attacker_observation_size + game.attacker_action_size) + 2 + _INFO
    episodes = meta.num_groups * meta.group_size * fl.horizon
    # of a type, all batches live until the last is played; of the others, what the update reads
    batches_kept = 1 + (meta.adapt_steps + 1) * meta.adapts_again
    played = _batches(meta, any(game.prior.adaptive)) + len(game.prior) * batches_kept
    tables = game.prior.untargeted, game.prior.backdoor
    copies = _COPIES + sum(any(not isinstance(a, NoAttack) for a in t.kinds) for t in tables)
    copies += _COPIES_OF_NOISE * any(table.noisy for table in tables)
    sent = rollouts * rows * _num_params(model) * 4
    return Memory(
        data=_bytes(game),
        rows=sent,
        updates=copies * sent,
        activations=max(training, rewards),
        trajectory=played * episodes * each * 4,
        learner=2 * _bytes(learner),
    )


def _observation_size(spec) -> int:
    """Numbers in an observation: O, or those of all leaves of a pytree of shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(as_shapes(spec)))


def fit(game: FLGame, meta: MetaConfig, limit: int) -> int:
    """The ``rollouts_at_once`` under which a meta-step fits into ``limit`` bytes; 0 is all.

    Raises:
        ConfigError: where not even one rollout fits.
    """
    total = meta.num_groups * meta.group_size
    sizes = {math.prod(parts(meta.num_groups, meta.group_size, k)) for k in range(1, total + 1)}
    need = 0
    for at_once in sorted(sizes, reverse=True):
        need = memory(game, meta.replace(rollouts_at_once=at_once)).total
        if need <= limit:
            return at_once % total
    raise ConfigError(
        f"memory_gib = {limit / 2**30:.3g}: one rollout at a time needs {need / 2**30:.3g} GiB; "
        "raise it, or lower fl.num_sampled, fl.batch_size, game.hidden or game.num_root"
    )


def type_flops(game: FLGame, k: int) -> float:
    """FLOPs of the matrix products of one FL round against the type at index ``k``."""
    fl, model = game.fl, game.model
    rows = fl.num_sampled + game.needs_root
    params, x, y = _batch(model, fl.batch_size)
    step = product_flops(jax.make_jaxpr(jax.grad(_loss(model)))(params, x, y))
    prior = game.prior
    apart = sum(
        table.kinds[int(kinds[k, 0])].second_pass_steps
        for table, kinds in (
            (prior.untargeted, prior.types.untargeted),
            (prior.backdoor, prior.types.backdoor),
        )
    )
    xi = prior[k]
    w = jax.ShapeDtypeStruct((_num_params(model),), jnp.float32)
    action = jax.ShapeDtypeStruct((game.action_size,), jnp.float32)

    def pay(key, w, action):
        return game.losses(game.deploy(key, w, action)[0], xi)

    rewards = product_flops(
        jax.make_jaxpr(pay)(jax.random.key(0), w, action), bool(xi.has_backdoor)
    )
    return (rows * fl.local_steps + apart) * step + rewards


def product_flops(jaxpr: ClosedJaxpr, costly_branch: bool = True) -> float:
    """FLOPs of the matrix products and convolutions of a traced program.

    A scan counts by its length, a ``while`` once, a ``cond`` by its costliest branch, or by its
    cheapest.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> product_flops(jax.make_jaxpr(jnp.dot)(jnp.ones((2, 3)), jnp.ones((3, 5))))
        60.0
    """
    choose = max if costly_branch else min

    def count(jaxpr: Jaxpr) -> float:
        total = 0.0
        for equation in jaxpr.eqns:
            avals: Any = [v.aval for v in (*equation.invars, *equation.outvars)]
            name, inner = equation.primitive.name, _inner(equation)
            if name == "dot_general":
                (contracted, _), _ = equation.params["dimension_numbers"]
                shape = avals[0].shape
                depth = math.prod(shape[axis] for axis in contracted)
                total += 2.0 * avals[-1].size * depth
            elif name == "conv_general_dilated":
                kernel = avals[1]
                features = kernel.shape[equation.params["dimension_numbers"].rhs_spec[0]]
                total += 2.0 * avals[-1].size * kernel.size / features
            elif name == "cond":
                total += choose(map(count, inner))
            else:
                total += equation.params.get("length", 1) * sum(map(count, inner))
        return total

    return count(jaxpr.jaxpr)


def _inner(equation) -> list[Jaxpr]:
    leaves = jax.tree.leaves(equation.params, is_leaf=lambda v: isinstance(v, Jaxpr | ClosedJaxpr))
    return [
        leaf.jaxpr if isinstance(leaf, ClosedJaxpr) else leaf
        for leaf in leaves
        if isinstance(leaf, Jaxpr | ClosedJaxpr)
    ]


def _num_params(model: Model) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(_batch(model, 1)[0]))


def _loss(model: Model):
    return lambda params, x, y: cross_entropy(model, params, x, y)


def _batch(model: Model, size: int):
    params = jax.eval_shape(model.init, jax.random.key(0))
    x = jax.ShapeDtypeStruct((size, *model.input_shape), jnp.float32)
    return params, x, jax.ShapeDtypeStruct((size,), jnp.int32)


def _kept_bytes(model: Model, size: int) -> int:
    """What one client's backward pass keeps of its forward pass, without parameters and images."""
    params, x, y = _batch(model, size)
    kept = jax.eval_shape(
        lambda p, x, y: jax.vjp(lambda p: _loss(model)(p, x, y), p)[1], params, x, y
    )
    return max(0, _bytes(kept) - _bytes(params) - _bytes(x))


def _largest_bytes(jaxpr: Jaxpr) -> int:
    """The largest array that a traced program computes."""
    avals: Any = [v.aval for e in jaxpr.eqns for v in e.outvars]
    sizes = [4 * aval.size for aval in avals]
    return max([0, *sizes, *(_largest_bytes(j) for e in jaxpr.eqns for j in _inner(e))])


def _bytes(tree: Any) -> int:
    # a setting is a plain float, and becomes an f32
    return sum(
        math.prod(np.shape(leaf)) * getattr(leaf, "dtype", np.dtype("float32")).itemsize
        for leaf in jax.tree.leaves(tree)
    )


def resolve_chunk(config: RunConfig, game) -> RunConfig:
    """The settings with ``meta.rollouts_at_once`` chosen by memory, where it is -1.

    Raises:
        ConfigError: where not even one rollout fits.
    """
    if config.meta.rollouts_at_once != -1:
        return config
    limit = round(config.memory_gib * 2**30) or int(0.8 * free_memory())
    chosen = fit(game, config.meta, limit)
    return dataclasses.replace(config, meta=config.meta.replace(rollouts_at_once=chosen))
