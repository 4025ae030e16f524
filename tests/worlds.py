"""A federation small enough to check by hand: 8 clients of 8 images each, and the server's 8."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from metasg_jax.aggregators import Mean
from metasg_jax.attacks import BACKDOOR, UNTARGETED, AttackContext, attack_table, honest_plan
from metasg_jax.config import FLConfig
from metasg_jax.fl import Attackers, Call, ClientData, Colluders, Federation, collect
from metasg_jax.models import make_model

NUM_CLIENTS, N, PER_CLIENT, IMAGE, CLASSES = 8, 6, 8, (4, 4, 1), 3
MODEL = make_model("mlp", IMAGE, CLASSES, (5,))
D = MODEL.num_params
MASK = np.zeros(IMAGE, np.float32)
MASK[:2, :2] = 1.0
PATTERN = np.full(IMAGE, 0.75, np.float32)
TARGET = 2
SAMPLED = np.arange(N, dtype=np.int32)
ATTACKS = {**UNTARGETED, **BACKDOOR}
# compiler options for tests of a program's very bits: tests/conftest.py turns this off
WITH_FUSIONS = {"xla_cpu_use_fusion_emitters": True}


def client_data(seed=0, sizes=None) -> ClientData:
    rng = np.random.default_rng(seed)
    count = (NUM_CLIENTS + 1) * PER_CLIENT
    return ClientData(
        images=rng.integers(0, 256, (count, *IMAGE), dtype=np.uint8),
        labels=rng.integers(0, CLASSES, count).astype(np.int32),
        index=np.arange(count, dtype=np.int32).reshape(NUM_CLIENTS + 1, PER_CLIENT),
        sizes=np.full(NUM_CLIENTS + 1, PER_CLIENT, np.int32) if sizes is None else np.int32(sizes),
    )


@functools.cache
def start():
    """Parameters f32[d] of a fresh model: numbers, even where who asks first is being traced."""
    with jax.ensure_compile_time_eval():
        return np.asarray(MODEL.ravel(MODEL.init(jax.random.key(7))))


def group(attacks, which=0, first=0, count=2) -> Colluders:
    """Clients ``first .. first + count - 1`` follow ``attacks[which]``."""
    table, kinds, slots = attack_table(attacks)
    numbers = [jnp.int32(v) for v in (kinds[which], slots[which], first, count, 0, TARGET)]
    return Colluders(table, *numbers[:5], MASK, PATTERN, numbers[5])


@functools.partial(jax.jit, static_argnames="needs_root")
def _collect(seed, fl, data, w, ids, groups, actions, needs_root):
    states = tuple(group.table.init(ids.shape[0], w.shape[0]) for group in groups)
    return collect(
        jax.random.key(seed), Federation(MODEL, fl, data), Call(w, ids, jnp.int32(3)),
        Attackers(groups, states, actions), Mean(), needs_root,
    )[0]  # fmt: skip


def play(*groups, action=(0.0, 0.0, 0.0), ids=SAMPLED, data=None, seed=0, root=False, **fl):
    """What the server receives in one round."""
    settings = {"num_sampled": len(ids), "batch_size": 4, "local_steps": 2, **fl}
    config = FLConfig(num_clients=NUM_CLIENTS, **settings)
    data = client_data() if data is None else data
    actions = tuple(jnp.array(action) for _ in groups)
    seed = jnp.asarray(seed, jnp.int32)
    return _collect(seed, config, data, start(), ids, groups, actions, needs_root=root)


def attack_alone(attack, active=True, first=0, count=2, **settings):
    """Rows f32[n, d] sent when clients ``first .. first + count - 1`` follow ``attack``.

    The group's table holds all attacks whatever is played, so that one program serves all tests;
    ``active=False`` plays no attack by that same program.
    """
    attacks = [attack if type(attack) is make else make() for make in ATTACKS.values()]
    which = attacks.index(attack) if active else list(ATTACKS).index("none")
    return np.asarray(play(group(attacks, which, first, count), **settings).updates)


def context(seed=0, malicious=(0, 1), colluders=(0, 1), visible=None) -> AttackContext:
    """A context of the sampled clients, before it is restricted to what an attack may know."""
    rows = np.random.default_rng(seed).normal(size=(N, D)).astype(np.float32)
    plan = honest_plan(N, IMAGE, CLASSES, 0.3, 2, ("trigger", "radius"))
    return AttackContext(
        malicious=np.isin(SAMPLED, malicious),
        colluders=np.isin(SAMPLED, colluders),
        member=np.where(np.isin(SAMPLED, malicious), SAMPLED, -1).astype(np.int32),
        visible=rows if visible is None else visible,
        weights=np.ones(N, np.float32),
        w_global=start(),
        plan=plan,
        round=np.int32(0),
        num_malicious=np.int32(len(malicious)),
        trigger_mask=MASK,
        trigger_pattern=PATTERN,
        target=np.int32(TARGET),
        rule=Mean(),
        num_clients=NUM_CLIENTS,
        look=look,
        honest=0.5 * rows,
    )


def look(update, stamped):
    """Stands for what images of the attacker's clients would say of an update."""
    return jnp.sum(jnp.sin(update)) + stamped


def primitives(jaxpr) -> list[str]:
    """Names of all primitives of a jaxpr, those of inner jaxprs too."""
    names = []
    for eqn in jaxpr.eqns:
        names.append(eqn.primitive.name)
        for inner in jax.tree.leaves(
            list(eqn.params.values()), is_leaf=lambda v: hasattr(v, "eqns") or hasattr(v, "jaxpr")
        ):
            if hasattr(inner, "jaxpr") or hasattr(inner, "eqns"):
                names += primitives(getattr(inner, "jaxpr", inner))
    return names
