"""How the time of rounds and meta-steps grows, and what compiling costs; no peers."""

import functools
import json
import os
import subprocess
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import inputs, worlds
from benchmarks.cases import Case
from benchmarks.worker import Contestant, Makers, NotHere
from metasg_jax.config import FLConfig, GameConfig, MetaConfig
from metasg_jax.errors import ConfigError
from metasg_jax.fl.simulate import simulate, start
from metasg_jax.game.make import make_game, make_rule
from metasg_jax.game.types import make_prior, parse_type
from metasg_jax.learning import init_state, meta_sl_step
from metasg_jax.models import make_model

_ROUNDS = 50


def makers_of(case: Case) -> Makers:
    """The contestants of a case: one for each size."""
    s = case.settings
    if case.name == "clients":
        return {
            f"N = {count:,}": functools.partial(_rounds, s, num_clients=count)
            for count in s["populations"]
        }
    if case.name == "attacker":
        return _attackers(s)
    if case.name == "meta-step":
        return {
            f"{axis} x {factor}": functools.partial(_meta_step, s, axis, factor)
            for axis, factor in s["growth"]
        }
    if case.name == "memory":
        return {size: functools.partial(_memory, size) for size in s["sizes"]}
    return {name: call for model in s["models"] for name, call in _compilations(model).items()}


def _rounds(
    s: dict,
    num_clients: int,
    attacker: str = "none",
    num_sampled: int | None = None,
    local_steps: int = 1,
) -> Contestant:
    """Rounds of the simulator; images are few and shared, only the index grows with N."""
    try:
        spec = parse_type(attacker, num_clients)
    except ConfigError as error:
        raise NotHere(str(error)) from error
    fl = FLConfig(
        num_clients=num_clients,
        num_sampled=num_sampled or s["num_sampled"],
        batch_size=s["batch_size"],
        local_steps=local_steps,
        local_lr=0.05,
        horizon=1,
    )
    index = np.random.default_rng(1).integers(
        0, s["num_images"], (num_clients + 1, s["images_each"]), dtype=np.int32
    )
    data = worlds.indexed(s["num_images"], index)
    model = make_model("mlp", (28, 28, 1), inputs.NUM_CLASSES, s["hidden"])
    rule = make_rule("mean", fl.num_sampled, inputs.SHARE)
    prior = make_prior([spec], (jnp.zeros((28, 28, 1)), jnp.zeros((28, 28, 1))), 0)
    colluders = () if attacker == "none" else prior.colluders(prior[0])
    state = start(jax.random.key(0), model, fl, rule, colluders)
    key = jax.random.key(1)
    return Contestant(
        lambda: jax.block_until_ready(
            simulate(key, state, model, fl, data, rule, colluders, num_rounds=_ROUNDS)
        ),
        factor=1 / _ROUNDS,
        compiles=True,
    )


def _attackers(s: dict) -> Makers:
    """Honest rounds, rounds with an attacker of many steps, and one client's training alone."""
    rounds = functools.partial(_rounds, s, s["num_clients"])
    makers: Makers = {"honest": rounds}
    for steps in s["attack_steps"]:
        makers[f"attacker, {steps} steps"] = functools.partial(
            rounds, attacker=f"rl:max_steps={steps}@0.2"
        )
        makers[f"one client, {steps} steps"] = functools.partial(
            rounds, num_sampled=1, local_steps=steps
        )
    return makers


def _meta_step(s: dict, axis: str, factor: int) -> Contestant:
    """A meta-step with one of its sizes multiplied."""
    times = {axis: factor}
    # two fixed types and one that responds, or multiples
    fixed = [
        f"ipm:scale={i}@0.2" if i % 2 else f"ipm:scale=0.{i}@0.1"
        for i in range(1, 2 * times.get("types", 1) + 1)
    ]
    adaptive = [f"rl:max_scale={i + 2}@0.2" for i in range(times.get("types", 1))]
    horizon, groups = s["horizon"] * times.get("horizon", 1), times.get("groups", 1)
    game = _pooled_game(
        s["num_images"],
        tuple(s["hidden"]),
        FLConfig(batch_size=s["batch_size"], horizon=horizon),
        (*fixed, *adaptive),
    )
    config = MetaConfig(
        group_size=s["group_size"], num_groups=groups, adapt_steps=1, attacker_steps=1
    )
    state = init_state(jax.random.key(0), game, config)
    key = jax.random.key(1)
    per_type = groups * s["group_size"] * horizon
    phases = len(fixed) * (config.adapt_steps + 1)
    phases += len(adaptive) * (config.adapt_steps + 1 + config.attacker_steps)
    return Contestant(
        lambda: jax.block_until_ready(meta_sl_step(key, state, game, config)),
        compiles=True,
        facts={"rounds": per_type * phases},
    )


def _pooled_game(num_images: int, hidden: tuple[int, ...], fl: FLConfig, types: tuple[str, ...]):
    config = GameConfig(pool=2, hidden=hidden, types=types, num_root=100, num_validation=100)
    return make_game(config, fl, worlds.dataset(num_images, 100))


def _compilations(model: str) -> Makers:
    """Compiling ``meta_sl_step`` in a new process, first without and then with a filled cache."""
    folder = tempfile.TemporaryDirectory()

    def compile_again() -> float:
        environment = os.environ | {
            "JAX_COMPILATION_CACHE_DIR": folder.name,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        return _apart(["benchmarks.compilation", model], environment)["seconds"]

    timed = functools.partial(Contestant, compile_again, clocked=True, once=True)
    return {f"{model}, cold cache": timed, f"{model}, warm cache": timed}


def _memory(size: str) -> Contestant:
    """A meta-step of a size in a process of its own: its peak, and what was expected."""
    begin = time.perf_counter()
    facts = _apart(["benchmarks.memory", size])["facts"]
    seconds = time.perf_counter() - begin
    return Contestant(lambda: seconds, clocked=True, once=True, facts=facts)


def _apart(command: list[str], environment: dict[str, str] | None = None) -> dict:
    """What a module prints last, run in a new process."""
    done = subprocess.run(
        [sys.executable, "-m", *command], env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return json.loads(done.stdout.splitlines()[-1])
