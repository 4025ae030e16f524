"""Limited bandwidth: what compressed updates do to attacks, static rules and the shipped defender.

``python experiments/bandwidth.py top_k:share=0.1 sign ..`` plays compressors (all by default) and
writes ``docs/results/bandwidth.json``; who is there is not played again; ``--table`` prints the
table of what is there. What is played is registered here, before its worlds are opened: final
worlds 400 to 403, which no other page uses. ``v1`` was taught without compression.
"""

import argparse
import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from trust import federation, keep_playing, play

from metasg_jax.config import FLConfig, RunConfig
from metasg_jax.data import load
from metasg_jax.evaluation.contestants import Contestant, parse_contestant
from metasg_jax.evaluation.judge import trust_game
from metasg_jax.evaluation.tables import markdown_table
from metasg_jax.evaluation.worlds import world
from metasg_jax.fl.wire import bytes_a_round
from metasg_jax.game.shapes import of_shared_shape
from metasg_jax.programs.device import enable_compilation_cache

OUT = Path("docs/results/bandwidth.json")
WORLDS = range(400, 404)
ATTACKS = ("none", "ipm:scale=5@0.2", "bfl@0.2", "alie:z=1.5@0.2")
COMPRESSIONS = ("none", "top_k:share=0.1", "top_k:share=0.01", "random_k:share=0.1", "int8", "sign")
CONTESTANTS = (
    "v1", "told", "root_only", "mean", "median / fine_tune", "fltrust / fine_tune",
    "multi_krum / fine_tune",
)  # fmt: skip
SHIPPED = parse_contestant("v1", FLConfig().num_sampled)


def main() -> None:
    """Plays what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("compressions", nargs="*", default=COMPRESSIONS)
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    if args.table:
        print(table(json.loads(OUT.read_text())))
        return
    enable_compilation_cache()
    for name in args.compressions:
        for step in (play_study, rank_study):
            keep_playing(OUT, lambda found, c=name, s=step: {**found, c: s(c, found.get(c, {}))})


def play_study(compression: str, found: dict) -> dict:
    """JSON of all contestants under one compressor; who stands in ``found`` is not played again."""
    config = federation(0.5, ATTACKS, compression=compression)
    dataset = load(config.game.dataset)
    return play(config, dataset, list(CONTESTANTS), WORLDS, found, contestant=contestant)


def rank_study(compression: str, found: dict) -> dict:
    """The same with the bytes of a round, and how ``v1`` ranks clients."""
    if "ranks" in found:
        return found
    config = federation(0.5, ATTACKS, compression=compression)
    ranks, size = ranks_of(config, load(config.game.dataset))
    sent, received = bytes_a_round(config.fl, size)
    return {**found, "bytes_sent": sent, "bytes_received": received, "ranks": ranks}


def contestant(name: str) -> Contestant:
    """The contestant of that name; ``told`` does not ask its policy, so it takes that of ``v1``:
    the two share a program.
    """
    who = parse_contestant(name, FLConfig().num_sampled)
    return dataclasses.replace(who, player=SHIPPED.player) if name == "told" else who


def ranks_of(config: RunConfig, dataset) -> tuple[dict, int]:
    """How ``v1`` ranks clients, by attack, and the size d of the model.

    That is the share of pairs of an honest and a hostile row, of all rounds of a world, in which it
    trusts the honest one more: 1 is a perfect order, 0.5 none. One number a world.
    """
    ranks, size = {name: [] for name in ATTACKS[1:]}, 0
    for number in WORLDS:
        game = of_shared_shape(world(trust_game(config), dataset, number))
        trust, malicious, w = map(
            np.asarray, trust_of_rows(jax.random.key(number), game, SHIPPED.player)
        )
        size = w.shape[-1]
        for k, name in enumerate(ATTACKS[1:], 1):
            honest, hostile = trust[k][~malicious[k]], trust[k][malicious[k]]
            pairs = honest[:, None] - hostile[None]
            ranks[name].append(float(((pairs > 0) + 0.5 * (pairs == 0)).mean()))
        print("ranks", config.fl.compression, number, flush=True)
    return ranks, size


@jax.jit
def trust_of_rows(key, game, player):
    """(trust f32[K, H, n] under the player's own decisions, malicious bool[K, H, n], f32[K, d])."""
    nothing = jnp.zeros((game.attacker_action_size,), jnp.float32)

    def episode(_, i):
        xi = game.prior[i]

        def step(state, t):
            key_attack, key_defend = jax.random.split(jax.random.fold_in(key, t))
            malicious = game.malicious(state, xi)
            received, view, state = game.attack(key_attack, state, xi, nothing)
            trust = player.policy.trust(player.params, player.normalizer(view))
            state, _ = game.defend(key_defend, state, xi, received, player.mode(view))
            return state, (trust, malicious)

        state = game.reset(jax.random.fold_in(key, game.horizon), xi)
        state, rows = jax.lax.scan(step, state, jnp.arange(game.horizon))
        return None, (*rows, state.w)

    return jax.lax.scan(episode, None, jnp.arange(len(game.prior), dtype=jnp.int32))[1]


def table(found: dict) -> str:
    """A row a compressor: bytes, scores, and whom ``v1`` keeps and how it ranks."""
    header = ["compressor", "KB sent a round", *CONTESTANTS, "`v1` keeps honest / hostile", "order"]
    body = []
    for name in filter(found.__contains__, COMPRESSIONS):
        study = found[name]
        rows = {row["contestant"]: row for row in study["rows"]}
        kept = np.array(rows["v1"]["kept"], float)  # of worlds, types, (honest, hostile)
        honest, hostile = kept[..., 0].mean(), kept[:, 1:, 1].mean()
        order = np.mean(list(study["ranks"].values()))
        body.append(
            [f"`{name}`", f"{study['bytes_sent'] / 1000:.0f}",
             *(f"{rows[who]['mean']:.3f}" for who in CONTESTANTS),
             f"{honest:.2f} / {hostile:.2f}", f"{order:.3f}"]
        )  # fmt: skip
    return markdown_table(header, body)


if __name__ == "__main__":
    main()
