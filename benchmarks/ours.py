"""The worker of this library, which also measures the floor: ``python -m benchmarks.ours``."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import floor, inputs, scaling, worlds
from benchmarks.cases import Case
from benchmarks.worker import Contestant, Makers, NotHere, serve
from metasg_jax import __version__
from metasg_jax.aggregators import AGGREGATORS
from metasg_jax.config import FLConfig, GameConfig
from metasg_jax.fl.simulate import simulate, start
from metasg_jax.game.make import make_game, make_rule
from metasg_jax.game.rollout import Player, init_normalizer, rollout
from metasg_jax.models import make_model
from metasg_jax.policies import Fixed
from metasg_jax.testing import received


def makers_of(case: Case) -> Makers:
    """Ours and the floor in a case."""
    makers = {
        "rounds": _rounds,
        "rules": _rules,
        "game": _game,
        "scaling": scaling.makers_of,
    }[case.suite]
    return makers(case)


def _rounds(case: Case) -> Makers:
    s = case.settings
    images = s["num_sampled"] * s["batch_size"]
    flops = s["local_steps"] * floor.training_flops(s["model"], s["hidden"], images)
    return {
        "ours": functools.partial(_simulator, s),
        "floor": functools.partial(floor.products, flops),
    }


def _simulator(s: dict) -> Contestant:
    fl = FLConfig(
        num_clients=s["num_clients"],
        num_sampled=s["num_sampled"],
        batch_size=s["batch_size"],
        local_steps=s["local_steps"],
        local_lr=0.05,
        horizon=1,
    )
    data = worlds.dealt(s["num_clients"], s["images_each"])
    model = make_model(s["model"], (28, 28, 1), inputs.NUM_CLASSES, s["hidden"])
    rule = make_rule(s["rule"], fl.num_sampled, inputs.SHARE)
    state = start(jax.random.key(0), model, fl, rule)
    key = jax.random.key(1)
    # one call plays many: its working memory is new to the process, page by page, in every call
    rounds = (200 if s["model"] == "mlp" else 20) // s["local_steps"]
    return Contestant(
        lambda: jax.block_until_ready(
            simulate(key, state, model, fl, data, rule, num_rounds=rounds)
        ),
        factor=1 / rounds,
        compiles=True,
        facts={"parameters": model.num_params},
    )


def _rules(case: Case) -> Makers:
    s = case.settings

    @functools.cache
    def updates():
        return jnp.asarray(inputs.updates(s["n"], s["d"]))

    def ours() -> Contestant:
        rule = _rule(s["rule"], s["n"])
        given = received(updates())
        state = rule.init(s["n"], s["d"])
        key = jax.random.key(0)
        aggregate = jax.jit(lambda given: rule(key, state, given)[0])
        return Contestant(
            lambda: aggregate(given).block_until_ready(), result=np.asarray, compiles=True
        )

    makers = {"ours": ours, "floor": functools.partial(floor.one_read, s["n"], s["d"])}
    if s["rule"] not in ("median", "trimmed_mean"):
        makers["Gram product"] = lambda: floor.gram(updates())
    return makers


def _rule(name: str, n: int):
    before, _, rule = name.rpartition("+")
    if rule not in AGGREGATORS:
        raise NotHere(f"{rule} is not there yet")
    share = inputs.malicious(rule, n) / n
    if not before:
        return make_rule(rule, n, share)
    try:
        return make_rule(name, n, share)
    except KeyError as error:
        raise NotHere(f"{before} is not there yet") from error


def _game(case: Case) -> Makers:
    s = case.settings
    flops = floor.training_flops(s["model"], s["hidden"], s["num_clients"] * s["batch_size"])
    return {
        "ours": functools.partial(_episode, s),
        "floor": functools.partial(floor.products, flops),
    }


def _episode(s: dict) -> Contestant:
    dataset = worlds.dataset(s["num_images"], 100)
    fl = FLConfig(
        num_clients=s["num_clients"],
        num_sampled=s["num_clients"],
        batch_size=s["batch_size"],
        local_lr=0.05,
        horizon=s["rounds"],
    )
    config = GameConfig(
        model=s["model"],
        hidden=tuple(s["hidden"]),
        types=(s["attacker"],),
        num_root=100,
        num_validation=100,
    )
    game = make_game(config, fl, dataset)
    defender, attacker = (
        Player(jnp.zeros((actions,)), init_normalizer(seen), Fixed(actions))
        for actions, seen in (
            (game.action_size, game.observation_spec),
            (game.attacker_action_size, game.attacker_observation_size),
        )
    )

    @jax.jit
    def play(game, defender, attacker):
        keys = jax.random.split(jax.random.key(0))
        return rollout(keys[0], keys[1], game, game.prior[0], defender, attacker)[1]

    return Contestant(
        lambda: jax.block_until_ready(play(game, defender, attacker)),
        factor=1 / s["rounds"],
        compiles=True,
        facts={"parameters": game.model.num_params},
    )


if __name__ == "__main__":
    serve(makers_of, {"metasg_jax": __version__, "jax": jax.__version__})
