"""A trust for each client: the shipped defender beside the perfect filter and every static rule.

``python experiments/trust.py card-0.5 never-met-0.5 ..`` plays studies (all by default) and writes
``docs/results/trust/STUDY.json``; who is there is not played again; ``--page`` makes the page of
what is there. What is played is registered here, before its worlds are opened: final worlds 200
and on, which no other page uses. Static rules choose their help (start, server step, fine-tuning)
on selection worlds.
"""

import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np
import without_context  # noqa: F401, the body "alone"
from attack_adaptive import load_rival

from metasg_jax.config import FLConfig, GameConfig, RunConfig
from metasg_jax.data import load
from metasg_jax.evaluation.contestants import Contestant, parse_contestant
from metasg_jax.evaluation.judge import Judged, judge, trust_game
from metasg_jax.evaluation.switching import Switch, cycle
from metasg_jax.evaluation.worlds import FINAL, SELECTION, world
from metasg_jax.programs.device import enable_compilation_cache

OUT = Path("docs/results/trust")
FIRST = 200

CARD = (
    "none", "ipm:scale=1@0.2", "ipm:scale=5@0.2", "alie:z=1.5@0.2", "lmp:z=2@0.2", "bfl@0.05",
    "bfl:boost=5@0.05", "bfl@0.2", "ipm:scale=2@0.1+bfl:boost=3@0.05",
)  # fmt: skip
NEVER_MET = (
    "min_max@0.2", "min_sum@0.2", "eb@0.2", "lmp_krum@0.2", "lmp_trim@0.2", "tailored@0.2",
    "rl@0.2", "pgd@0.2", "neurotoxin@0.2", "tailored_bfl@0.2", "brl@0.2",
)  # fmt: skip
BESIDE = (
    "mean", "median", "fltrust", *(
        f"{rule}{start} / fine_tune"
        for rule in ("median", "trimmed_mean", "multi_krum", "fltrust")
        for start in ("", " / warm")
    ),
)  # fmt: skip
CONTROLS = ("v1 / shuffled", "untrained", "attack_adaptive")
RULES = ("mean", "median", "trimmed_mean", "multi_krum", "fltrust")
"""With ``--tune`` each also gets the best of :data:`HELPS`, by selection worlds."""
HELPS = tuple(
    f"{start}{step}{post}"
    for start in ("", " / warm")
    for step in ("", " / lr=2")
    for post in ("", " / fine_tune")
)


def federation(level=0.5, types=CARD, partition="q", root=100, dataset="mnist", pool=2,
               hidden=(64,), model="mlp", observation="clients", root_class_share=None,
               **fl) -> RunConfig:  # fmt: skip
    """The game card unless said otherwise, with 100 root images."""
    game = GameConfig(
        dataset=dataset, pool=pool, model=model, hidden=hidden, partition=partition, level=level,
        num_root=root, num_validation=1000, num_test=2000, types=types, observation=observation,
        root_class_share=root_class_share,
    )  # fmt: skip
    # by size the perfect filter itself falls, from 0.847 to 0.824 at Dirichlet 0.1
    return RunConfig(game, FLConfig(**{"weighting": "equal", **fl}))


def with_share(share):
    """The card's attacks by another share of the clients."""
    return ("none", *(f"{a}@{share}" for a in ("ipm:scale=1", "ipm:scale=5", "alie:z=1.5",
            "lmp:z=2", "bfl", "bfl:boost=5")))  # fmt: skip


def unlike(types):
    """The same attacks by colluders that send unlike rows; a mixed one stays."""

    def noisy(text):
        return text.replace("@", ",noise=1@" if ":" in text else ":noise=1@", 1)

    return tuple(t if t == "none" or "+" in t else noisy(t) for t in types)


WHOLE = dict(pool=1, hidden=(128,), local_steps=10, batch_size=32, local_lr=0.1, num_clients=40)


@dataclasses.dataclass(frozen=True)
class Study:
    """What is played.

    Attributes:
        config: the federation.
        worlds: final worlds.
        rules: static rules beside it; each chooses its help.
        extra: other contestants.
        switch: types that become others in mid-run.
        own: whether the server has an update of its own to mix in.
    """

    config: RunConfig
    worlds: int = 6
    rules: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    switch: Switch | None = None
    own: bool = True


STUDIES = {
    **{
        f"card-{q}": Study(
            federation(q),
            20,
            RULES,
            (*CONTROLS, *(BESIDE if q == 0.5 else BESIDE[:3])),
        )
        for q in (0.1, 0.5, 0.9)
    },
    **{
        f"never-met-{q}": Study(
            federation(q, NEVER_MET), 4, (), ("median / fine_tune", "fltrust / fine_tune")
        )
        for q in (0.5, 0.9)
    },
    **{f"share-{s}": Study(federation(0.5, with_share(s))) for s in (0.05, 0.1, 0.3, 0.4)},
    "root-20": Study(federation(root=20)),
    "unlike": Study(federation(types=unlike(CARD))),
    "root-missing": Study(federation(root_class_share=0.0)),
    "root-half": Study(federation(root_class_share=0.5)),
    "anonymous": Study(federation(observation="clients:memory=none")),
    "no-influence": Study(federation(observation="clients:influence=off")),
    "no-root": Study(federation(observation="clients:root=off"), own=False),
    "neither": Study(federation(observation="clients:memory=none,influence=off")),
    "switch": Study(federation(), switch=cycle(len(CARD), 1, 50)),
    "late": Study(federation(types=tuple(t if t == "none" else f"{t}@30" for t in CARD))),
    "harmless": Study(federation(types=("mimic@0.2", "free_rider@0.2")), 6, (), ("mean",)),
    "fashion": Study(federation(dataset="fashion_mnist")),
    "dirichlet-0.1": Study(federation(0.1, partition="dirichlet")),
    "dirichlet-0.5": Study(federation(0.5, partition="dirichlet")),
    "n-5": Study(federation(num_sampled=5)),
    "n-20": Study(federation(num_sampled=20)),
    "n-50": Study(federation(num_sampled=50)),
    "rounds-500": Study(federation(horizon=500)),
    "mlp-784": Study(federation(**WHOLE)),
    "cnn": Study(
        federation(
            **{**WHOLE, "hidden": (8, 16, 32), "horizon": 60, "local_steps": 5}, model="cnn"
        ),
        1,
    ),
    # defenders taught without a part, beside that with all: --defender
    "parts-card": Study(federation()),
    "parts-met": Study(federation(types=NEVER_MET)),
    "parts-fashion": Study(federation(dataset="fashion_mnist")),
    "parts-n-20": Study(federation(num_sampled=20)),
}


def main() -> None:
    """Plays what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("studies", nargs="*", default=list(STUDIES))
    parser.add_argument("--defender", nargs="*", default=["v1"], help="names or directories")
    parser.add_argument("--tune", action="store_true", help="let static rules choose their help")
    parser.add_argument("--page", action="store_true")
    args = parser.parse_args()
    if args.page:
        from trust_page import write_page

        write_page(OUT, STUDIES)
        return
    enable_compilation_cache()
    OUT.mkdir(parents=True, exist_ok=True)
    for name in args.studies:
        study = STUDIES[name]
        keep_playing(OUT / f"{name}.json", lambda found, s=study: play_study(s, args, found))


def keep_playing(path: Path, go_on) -> None:
    """Writes what ``go_on`` makes of the JSON at ``path``, of an empty one where there is none."""
    found = json.loads(path.read_text()) if path.is_file() else {}
    played = go_on(found)
    if played != found:
        path.write_text(json.dumps(played, indent=1) + "\n")


def play_study(study: Study, args: argparse.Namespace, found: dict) -> dict:
    """JSON of a study; who stands in ``found`` is not played again.

    With ``args.tune`` rules choose of :data:`HELPS` on three selection worlds.
    """
    config = study.config
    dataset = load(config.game.dataset)
    helped = found.get("helped", [])
    if args.tune and not helped:
        helped = [best_help(config, dataset, rule, worlds=3) for rule in study.rules]
    names = [*args.defender, "told", "root_only", *helped, *study.extra]
    worlds = range(FIRST, FIRST + study.worlds)
    played = play(
        config, dataset, names, worlds, found, switch=study.switch,
        contestant=lambda name: contestant(name, study, dataset),
    )  # fmt: skip
    return played if played == found else {**played, "helped": helped}


def best_help(config: RunConfig, dataset, rule: str, worlds: int) -> str:
    """The rule with that of :data:`HELPS` which scores best on so many selection worlds."""
    names = [rule + how for how in HELPS]
    tried = judge(
        [parse_contestant(name, config.fl.num_sampled) for name in names], config, dataset,
        range(worlds), SELECTION, "validation", say,
    )  # fmt: skip
    return names[int(np.argmax([tried.mean(j).mean() for j in range(len(names))]))]


def play(
    config: RunConfig, dataset, names: list[str], worlds: range, found: dict, responder=None,
    switch: Switch | None = None, contestant=None,
) -> dict:  # fmt: skip
    """JSON of what contestants reach on final worlds, after those that ``found`` has.

    ``contestant`` makes one of its name; by default :func:`parse_contestant`.
    """
    make = contestant or (lambda name: parse_contestant(name, config.fl.num_sampled))
    there = [row["contestant"] for row in found.get("rows", [])]
    old = found.get("worlds", [])
    if there:  # in other worlds too
        worlds = [*old, *(w for w in worlds if w not in old)]

    def rows(names, worlds):
        """Lines of those who play there."""
        if not (names and worlds):
            return {}
        judged = judge(
            [make(name) for name in names], config, dataset, worlds, FINAL, "test", say, switch,
            responder,
        )  # fmt: skip
        return judged.to_json()

    more = rows(there, worlds[len(old) :])
    if more:
        found = with_worlds(found, more)
    missing = [name for name in dict.fromkeys(names) if name not in there]
    new = rows(missing, worlds)
    if not new:
        return found
    by_name = {row["contestant"]: row for row in (*found.get("rows", []), *new["rows"])}
    names = [*dict.fromkeys(names), *(name for name in by_name if name not in names)]
    return summarised(new, [by_name[name] for name in names])


def with_worlds(found: dict, more: dict) -> dict:
    """JSON of the same contestants in the worlds of both; types count alike."""
    columns = ("score", "accuracy", "asr", "kept")
    rows = [
        {**a, **{name: a[name] + b[name] for name in columns}}
        for a, b in zip(found["rows"], more["rows"], strict=True)
    ]
    return summarised({**found, "worlds": found["worlds"] + more["worlds"]}, rows)


def summarised(about: dict, rows: list[dict]) -> dict:
    """JSON of rows from several games of the same worlds, with the means and regrets of all."""
    types = about["types"]
    about = {key: value for key, value in about.items() if key not in ("types", "rows")}
    alike = np.full(len(types), 1 / len(types))
    arrays = (
        np.array([row[name] for row in rows], float)
        for name in ("score", "accuracy", "asr", "kept")
    )
    return Judged([row["contestant"] for row in rows], types, alike, *arrays, about).to_json()


def say(what, done, total):
    """Progress."""
    print(what, f"{done}/{total}", flush=True)


def contestant(name: str, study: Study, dataset) -> Contestant:
    """The contestant of that name; ``attack_adaptive`` is the rival that learned this task."""
    if name == "attack_adaptive":
        return Contestant(
            name, "rule", rule=load_rival(world(trust_game(study.config), dataset, 0))
        )
    who = parse_contestant(name, study.config.fl.num_sampled)
    if study.own:
        return who
    return dataclasses.replace(who, knobs=(*who.knobs[:2], -1.0))


if __name__ == "__main__":
    main()
