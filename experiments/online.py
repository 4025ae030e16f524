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
WORLDS, BLOCK = range(500, 506), 10
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
ARMS = (
    "frozen", "imagined:lr=0.003,most_kl=1.0", "imagined:lr=0.003,most_kl=1.0 / no guard",
    "planned", "planned / imagines looking", "frozen / trim=0.3",
)  # fmt: skip
"""The last is a control: what standing still and trimming adds."""
TRIED = (
    "frozen", "imagined:lr=0.001,most_kl=0.2", "imagined:lr=0.003,most_kl=0.2 / no guard",
    "imagined:lr=0.003,most_kl=1.0 / no guard", "planned", "planned / no guard",
    "planned / imagines looking", "planned / imagines looking / no guard",
)  # fmt: skip
"""On selection worlds. Who imagines looking has attackers in its own world who look, too."""


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
    blind = own_world(state, run, dataset, settings.seed, num_simulated=run.num_simulated)
    meta = defender_player(state, blind.game, run.meta, True)
    key, knobs = jax.random.key(number), game.attacker_action_size
    seeing = blind.replace(responder=make_responder("looking", blind.game.attacker_action_size))
    sampling = meta.replace(greedy=False)
    worlds = [(own, learn_belief(jax.random.fold_in(key, 1), own, sampling))
              for own in (blind, seeing)]  # fmt: skip
    attackers = attackers_of(types, state, run, game)
    found: dict[str, dict[str, float]] = {arm: {} for arm in arms}
    for arm in arms:
        text, *options = arm.split(" / ")
        psi = parse_variant(PSI, text, "psi")
        own, belief = worlds["imagines looking" in options]
        trim = 0.3 if "trim=0.3" in options else None
        player = meta.replace(policy=meta.policy.stricter(trim=trim))
        server = Server(own, player, belief, psi, "no guard" not in options)
        prepared = psi.begin(jax.random.fold_in(key, 2), own, player)
        for name, (kind, responder) in REAL.items():
            blocks = (types.index(kind),) * (run.fl.horizon // BLOCK)
            hidden = Hidden(game, blocks, attackers, make_responder(responder, knobs))
            metrics, played = play_adapting(jax.random.fold_in(key, 3), hidden, server, prepared)
            taken = sum(bool(b.verdict.accepted) for b in played if b.verdict is not None)
            found[arm][name] = round(float(metrics.score), 5)
            print(f"world {number}  {arm:42} {name:28} {metrics.score:.3f}  {taken} taken",
                  flush=True)  # fmt: skip
    return found


def main() -> None:
    """Plays."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--selection", type=int, nargs="*", help="worlds, from 0")
    parser.add_argument("--worlds", type=int, nargs="*", default=[*WORLDS], help="final ones")
    args = parser.parse_args()
    enable_compilation_cache()
    if args.selection is not None:
        arms = list(TRIED)
        told = [play_world(number, SELECTION, arms) for number in args.selection]
        for arm in arms:
            gains = [[w[arm][n] - w["frozen"][n] for n in REAL] for w in told]
            print(arm, dict(zip(REAL, np.mean(gains, axis=0).round(3), strict=True)))
        return
    for number in args.worlds:
        arms = [arm for arm in ARMS if arm not in there(number)]
        if arms:
            played = there(number) | play_world(number, FINAL, arms)
            # another process may have added its worlds meanwhile
            worlds = {number: there(number) for number in WORLDS} | {number: played}
            worlds = {str(number): world for number, world in worlds.items() if world}
            write_text(OUT, json.dumps({"worlds": worlds}, indent=1) + "\n")


def there(number: int) -> dict[str, dict[str, float]]:
    """What has been played in a world."""
    return json.loads(OUT.read_text())["worlds"].get(str(number), {}) if OUT.is_file() else {}


if __name__ == "__main__":
    main()
