"""What the stages of pre-training are worth, and whether a population of best responses pays.

``python experiments/population.py --seeds 0 1`` trains on digits, each seed in a federation of its
own, by the settings of ``make pretrain``: the teacher; from what it taught Algorithm 2 with a
population; and from there too Algorithm 1, for as many meta-steps and as many rounds.
All three are judged on final worlds, by the card's attacks and by attackers who look through the
decision, and ``docs/results/worst_case/population.json`` is written. ``--arms`` adds ablations:
Algorithm 1 with as many episodes of a type as Algorithm 2 has, in place of as many rounds
(``meta_rl_short``, what ``make pretrain`` does), Algorithm 2 without a population in as many rounds
(``meta_sg_alone``), and both algorithms from the shipped defender on (``v3_meta_sg``,
``v3_meta_rl``). Runs that are there are not trained again, and ``--out`` keeps them. What is played
is registered here, before its worlds are opened; steps and step size were chosen with seed 0 on
three selection worlds, of 1e-4 and 3e-4.
"""

import argparse
import dataclasses
import json
import re
from pathlib import Path

import numpy as np
from rich.console import Console

from metasg_jax.config import RunConfig
from metasg_jax.data import load
from metasg_jax.evaluation.contestants import parse_contestant
from metasg_jax.evaluation.judge import judge
from metasg_jax.evaluation.worlds import FINAL
from metasg_jax.files import write_text
from metasg_jax.presets.cpu import get_config
from metasg_jax.programs.budget import rounds_per_step
from metasg_jax.programs.device import enable_compilation_cache
from metasg_jax.programs.pretrain import pretrain_program

OUT = Path("docs/results/worst_case/population.json")
WORLDS = range(600, 606)
JUDGED = {
    "card": ("none", ("none", "ipm:scale=5@0.2", "lmp:z=2@0.2", "bfl@0.2", "bfl:boost=5@0.05",
                      "pgd@0.2")),
    "looking": ("looking", ("none", "bfl@0.2", "blended_bfl@0.2", "blended_ipm@0.2")),
    "kept": ("looking / kept", ("none", "blended_bfl@0.2")),
}  # fmt: skip
"""Responder and types by study."""
CONTROLS = ("v3", "told")
ARMS = ("taught", "meta_sg", "meta_rl")


def config_of(arm: str, seed: int, taught: str = "") -> RunConfig:
    """``taught`` by the teacher; ``meta_sg`` and ``meta_rl`` begin with what it left."""
    preset = get_config("digits")
    base = dataclasses.replace(
        preset, game=dataclasses.replace(preset.game, seed=seed), seed=seed, begin=taught
    )
    if arm == "taught":
        return dataclasses.replace(base, stages=("teach",))
    if arm.startswith("v3_"):
        return config_of(arm.removeprefix("v3_"), seed, "v3")
    meta = base.meta.replace(algorithm="meta_sl", population=4)
    sg = dataclasses.replace(base, stages=("meta",), meta=meta, respond_tries=10)
    if arm == "meta_sg":
        return sg
    algorithm = "meta_sl" if arm == "meta_sg_alone" else "meta_rl"
    alone = dataclasses.replace(sg, meta=sg.meta.replace(algorithm=algorithm, population=0))
    groups = 1 if arm == "meta_rl_short" else round(rounds(sg) / rounds(alone))
    return dataclasses.replace(alone, meta=alone.meta.replace(num_groups=groups))


def rounds(config: RunConfig) -> float:
    """FL rounds a meta-step, the population's and those of the search for responses included."""
    meta, own = config.meta, rounds_per_step(config)
    if not meta.population:
        return own
    adaptive = sum("blended" in each for each in config.game.types)
    met = meta.population * 2 * meta.group_size * meta.num_groups * config.fl.horizon
    return own + met + adaptive * config.respond_tries * config.fl.horizon / config.respond_every


def train(arm: str, seed: int, out: Path) -> tuple[Path, dict[str, list[float]]]:
    """(the trained defender's directory, which may be there; what its opponents earned)."""
    directory = out / f"{arm}-{seed}"
    taught = "" if arm == "taught" else str(out / f"taught-{seed}" / "defender")
    console = Console(record=True, width=200)
    if not (directory / "defender").is_dir():
        pretrain_program(
            config_of(arm, seed, taught), load("digits"), directory, directory.is_dir(), console
        )
    return directory / "defender", earned(console.export_text())


def earned(text: str) -> dict[str, list[float]]:
    """What the best response of each type earned, by rounds of the double oracle; of a log."""
    found: dict[str, list[float]] = {}
    for line in re.findall(r"responses to the defender of meta-step \d+: (.*)", text):
        for name, value in re.findall(r"(\S+) earns (-?[\d.]+)", line):
            found.setdefault(name, []).append(float(value))
    return found


def judged(names: dict[str, str], seed: int) -> dict:
    """Scores [worlds, types] by study and name."""
    preset, found = get_config("digits"), {}
    who = [parse_contestant(name, preset.fl.num_sampled) for name in names.values()]
    for study, (responder, types) in JUDGED.items():
        game = dataclasses.replace(preset.game, types=types, seed=seed)
        told = judge(
            who, RunConfig(game, preset.fl), load("digits"), WORLDS, FINAL, "test", say, None,
            responder,
        )  # fmt: skip
        scores = {n: np.round(told.score[j], 5).tolist() for j, n in enumerate(names)}
        found[study] = {"types": told.types, "score": scores}
    return found


def main() -> None:
    """Trains and judges."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument("--arms", nargs="*", default=[*ARMS], help="also meta_rl_short, ..")
    parser.add_argument("--out", type=Path, default=Path("runs/population"))
    args = parser.parse_args()
    enable_compilation_cache()
    for seed in args.seeds:
        before = there().get(str(seed), {})
        known = before["card"]["score"] if before else {}
        arms = [arm for arm in args.arms if arm not in known]
        if not arms:
            continue
        trained = {arm: train(arm, seed, args.out) for arm in arms}
        names = {arm: str(path) for arm, (path, _) in trained.items()}
        played = judged(names | {name: name for name in CONTROLS if name not in known}, seed)
        for study, one in played.items():
            one["score"] = (before[study]["score"] if before else {}) | one["score"]
        paid = trained["meta_sg"][1] if "meta_sg" in trained else before["earned"]
        found = there() | {str(seed): played | {"earned": paid}}
        about = {arm: rounds(config_of(arm, 0)) * config_of(arm, 0).steps for arm in ARMS[1:]}
        write_text(OUT, json.dumps({"rounds": about, "seeds": found}, indent=1) + "\n")


def there() -> dict:
    """What has been played, by seed."""
    return json.loads(OUT.read_text())["seeds"] if OUT.is_file() else {}


def say(what, done, total):
    """Progress."""
    print(what, f"{done}/{total}", flush=True)


if __name__ == "__main__":
    main()
