"""Does a population of best responses pay? Algorithm 2 with one beside Algorithm 1, on trust.

``python experiments/population.py --seeds 0 1`` trains both from ``v1`` for as many meta-steps and
as many rounds, each seed in a federation of its own; judges them, and ``v1`` as it was, on final
worlds against attackers who look through the decision; and writes
``docs/results/worst_case/population.json``. Runs that are there are not trained again, and
``--out`` keeps them. What is played is registered here, before its worlds are opened.
"""

import argparse
import dataclasses
import json
import re
from pathlib import Path

import numpy as np
from rich.console import Console

from metasg_jax.config import FLConfig, GameConfig, MetaConfig, RunConfig
from metasg_jax.data import load
from metasg_jax.defender.files import find, read_defender
from metasg_jax.evaluation.contestants import parse_contestant
from metasg_jax.evaluation.judge import judge
from metasg_jax.evaluation.worlds import FINAL
from metasg_jax.files import write_text
from metasg_jax.presets.cpu import TRUST
from metasg_jax.programs.budget import rounds_per_step
from metasg_jax.programs.device import enable_compilation_cache
from metasg_jax.programs.pretrain import pretrain_program

OUT = Path("docs/results/worst_case/population.json")
WORLDS = range(400, 406)
TYPES = ("none", "ipm:scale=5@0.2", "bfl@0.2", "blended_bfl@0.2", "blended_ipm@0.2")
GAME = GameConfig(
    dataset="digits", hidden=(32,), level=0.5, num_root=40, num_validation=200, types=TYPES, **TRUST
)
FL = FLConfig(num_clients=50, num_sampled=10, batch_size=16, horizon=40, local_lr=0.3)
LEARNER = MetaConfig(
    gradient="score", group_size=4, adapt_steps=1, attacker_steps=1, adapt_lr=1e-3,
    attacker_lr=0.01, optimizer="adam", outer_lr=1e-4, defender_lr=1.0, discount=0.9,
    estimator="future_gain", normalize_advantages=True, normalize=False, rollouts_at_once=-1,
)  # fmt: skip
STEPS, EVERY, TRIES = 40, 5, 10


def config_of(arm: str, seed: int) -> RunConfig:
    """``meta_sg`` has a population, ``meta_rl`` none; both play about as many rounds."""
    sg = RunConfig(
        dataclasses.replace(GAME, seed=seed), FL,
        LEARNER.replace(algorithm="meta_sl", population=4), stages=("meta",), steps=STEPS,
        chunk=EVERY, seed=seed, clients="augmented", num_simulated=2000, respond_every=EVERY,
        respond_tries=TRIES,
    )  # fmt: skip
    if arm == "meta_sg":
        return sg
    rl = dataclasses.replace(sg, meta=LEARNER.replace(algorithm="meta_rl"))
    groups = round(rounds(sg) / rounds(rl))
    return dataclasses.replace(rl, meta=rl.meta.replace(num_groups=groups))


def rounds(config: RunConfig) -> float:
    """FL rounds a meta-step, the population's and those of the search for responses included."""
    meta, own = config.meta, rounds_per_step(config)
    if not meta.population:
        return own
    adaptive = sum("blended" in each for each in config.game.types)
    met = meta.population * 2 * meta.group_size * meta.num_groups * config.fl.horizon
    return own + met + adaptive * TRIES * config.fl.horizon / EVERY


def train(arm: str, seed: int, out: Path) -> tuple[Path, dict[str, list[float]]]:
    """(the trained defender's directory, which may be there; what its opponents earned)."""
    directory = out / f"{arm}-{seed}"
    config = config_of(arm, seed)
    player, _ = read_defender(find("v1"))

    def begin(state, game):
        return state.replace(theta=player.params, normalizer=player.normalizer)

    console = Console(record=True, width=200)
    pretrain_program(config, load("digits"), directory, directory.is_dir(), console, begin)
    return directory / "defender", earned(console.export_text())


def earned(text: str) -> dict[str, list[float]]:
    """What the best response of each type earned, by rounds of the double oracle; of a log."""
    found: dict[str, list[float]] = {}
    for line in re.findall(r"responses to the defender of meta-step \d+: (.*)", text):
        for name, value in re.findall(r"(\S+) earns (-?[\d.]+)", line):
            found.setdefault(name, []).append(float(value))
    return found


def main() -> None:
    """Trains and judges."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument("--out", type=Path, default=Path("runs/population"))
    args = parser.parse_args()
    enable_compilation_cache()
    found = json.loads(OUT.read_text()) if OUT.is_file() else {"seeds": {}}
    about = {arm: rounds(config_of(arm, 0)) * STEPS for arm in ("meta_sg", "meta_rl")}
    for seed in args.seeds:
        if str(seed) in found["seeds"]:
            continue
        arms = {arm: train(arm, seed, args.out) for arm in ("meta_sg", "meta_rl")}
        game = dataclasses.replace(GAME, seed=seed)
        names = {"v1": "v1", "told": "told", **{arm: str(path) for arm, (path, _) in arms.items()}}
        who = [parse_contestant(name, FL.num_sampled) for name in names.values()]
        judged = judge(
            who, RunConfig(game, FL), load("digits"), WORLDS, FINAL, "test", say, None, "looking"
        )
        found["seeds"][str(seed)] = {
            name: np.round(judged.score[j], 5).tolist() for j, name in enumerate(names)
        }
        found.setdefault("earned", {})[str(seed)] = arms["meta_sg"][1]
        found |= {"types": judged.types, "worlds": [*WORLDS], "steps": STEPS, "rounds": about}
        write_text(OUT, json.dumps(found, indent=1) + "\n")


def say(what, done, total):
    """Progress."""
    print(what, f"{done}/{total}", flush=True)


if __name__ == "__main__":
    main()
