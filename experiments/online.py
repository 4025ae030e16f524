"""Does adapting online pay where a policy decides about each client? ``v3`` with a Psi, or frozen.

``python experiments/online.py`` plays digits (the federation of ``make pretrain``): each way to
adapt beside the frozen policy in the same worlds, with the same keys, against types that are in the
server's own world and against others, some of whom look through the decision each round. It writes
``docs/results/worst_case/online.json``; who is there is not played again. ``--selection`` plays
selection worlds and writes nothing: step, limit and grid were chosen there. What is played is
registered here, before its worlds are opened.
"""

import argparse
import dataclasses
import json
from pathlib import Path

import jax
import numpy as np

from metasg_jax.data import load
from metasg_jax.evaluation.worlds import FINAL, SELECTION, world_settings
from metasg_jax.files import write_text
from metasg_jax.game.make import make_game
from metasg_jax.game.shapes import of_shared_shape
from metasg_jax.learning.state import defender_player, init_state
from metasg_jax.online import (
    PSI,
    Hidden,
    Server,
    attackers_of,
    learn_belief,
    own_world,
    play_adapting,
)
from metasg_jax.presets.cpu import get_config
from metasg_jax.programs.device import enable_compilation_cache
from metasg_jax.programs.pretrain import begin_with
from metasg_jax.registry import parse_variant
from metasg_jax.responders import make_responder

OUT = Path("docs/results/worst_case/online.json")
WORLDS, CHOOSING, BLOCK = range(500, 506), range(2), 10
IMAGINED = ("none", "ipm:scale=5@0.2", "bfl@0.2", "blended_bfl:fraction=0.25@0.2")
"""The types of the server's own world."""
REAL = {
    **{name: (name, "none") for name in IMAGINED},
    "pgd": ("pgd@0.2", "none"),
    "lmp": ("lmp:z=2@0.2", "none"),
    "looking, for payoff": ("blended_bfl@0.2", "looking"),
    "looking, to be kept": ("blended_bfl@0.2", "looking / kept"),
}
"""Type and responder by name; after the first four they are in no own world."""
ARMS = ("frozen", "imagined:lr=0.003,most_kl=0.05", "planned", "planned / no guard")
TRIED = (
    "frozen", "imagined:lr=0.001,most_kl=0.05", "imagined:lr=0.003,most_kl=0.05",
    "imagined:lr=0.01,most_kl=0.05", "imagined:lr=0.003,most_kl=0.05 / no guard", "planned",
    "planned / no guard",
)  # fmt: skip
"""On selection worlds."""


def config():
    """The federation of ``make pretrain``."""
    base = get_config("digits")
    return dataclasses.replace(base, game=dataclasses.replace(base.game, types=IMAGINED))


def play_world(number: int, stream: int, arms: list[str]) -> dict[str, dict[str, float]]:
    """Scores by arm and type of one world."""
    run, dataset = config(), load("digits")
    settings = world_settings(run, dataset, number, stream)
    types = tuple(dict.fromkeys(name for name, _ in REAL.values()))
    settings = dataclasses.replace(settings, types=types, probabilities=())
    game = of_shared_shape(make_game(settings, run.fl, dataset))
    blank = make_game(run.game, run.fl, dataset)
    state = begin_with("v3", init_state(jax.random.key(0), blank, run.meta))
    own = own_world(state, run, dataset, settings.seed, num_simulated=run.num_simulated)
    meta = defender_player(state, own.game, run.meta, True)
    key = jax.random.key(number)
    belief = learn_belief(jax.random.fold_in(key, 1), own, meta.replace(greedy=False))
    attackers = attackers_of(types, state, run, game)
    found: dict[str, dict[str, float]] = {arm: {} for arm in arms}
    for arm in arms:
        text, _, guard = arm.partition(" / ")
        psi = parse_variant(PSI, text, "psi")
        server = Server(own, meta, belief, psi, guard != "no guard")
        prepared = psi.begin(jax.random.fold_in(key, 2), own, meta)
        for name, (kind, responder) in REAL.items():
            blocks = (types.index(kind),) * (run.fl.horizon // BLOCK)
            hidden = Hidden(
                game, blocks, attackers, make_responder(responder, game.attacker_action_size)
            )
            metrics, played = play_adapting(jax.random.fold_in(key, 3), hidden, server, prepared)
            taken = sum(bool(b.verdict.accepted) for b in played if b.verdict is not None)
            found[arm][name] = round(float(metrics.score), 5)
            print(f"world {number}  {arm:42} {name:28} {metrics.score:.3f}  {taken} taken",
                  flush=True)  # fmt: skip
    return found


def main() -> None:
    """Plays."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--selection", action="store_true")
    args = parser.parse_args()
    enable_compilation_cache()
    if args.selection:
        arms = list(TRIED)
        told = [play_world(number, SELECTION, arms) for number in CHOOSING]
        for arm in arms:
            gains = [[w[arm][n] - w["frozen"][n] for n in REAL] for w in told]
            print(arm, dict(zip(REAL, np.mean(gains, axis=0).round(3), strict=True)))
        return
    found = json.loads(OUT.read_text()) if OUT.is_file() else {"worlds": {}}
    for number in WORLDS:
        before = found["worlds"].get(str(number), {})
        arms = [arm for arm in ARMS if arm not in before]
        if arms:
            found["worlds"][str(number)] = before | play_world(number, FINAL, arms)
            write_text(OUT, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
