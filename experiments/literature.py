"""What the literature reports of attacks and defences, measured on MNIST: agrees, or does not.

    python experiments/literature.py                        # writes docs/results/literature.csv
    python experiments/literature.py --seeds 2 --rounds 50 --out /tmp/try.csv

A claim is a difference between two cells, an attack against a rule each, with the least difference
that counts as agreement, its margin. Both were fixed before the run, but for those marked "added".
It agrees where the mean over paired seeds reaches the margin and its 95 % interval (Student's t, a
claim at a time) excludes 0; it does not where the whole interval lies below the margin; else it is
undecided. A claim of no difference agrees where the interval lies within the margin, does not where
it lies outside.

Worlds, all MNIST average-pooled to 14x14, MLP 196-64-10, learning rate 0.3, batch 64, one local
step: ``few`` has 25 clients that all answer, IID; ``few, uneven`` the same with q = 0.9; ``many``
100 clients of which 10 answer, q = 0.5; ``many, IID`` and ``many, uneven`` the same with q = 0.1
and 0.9; ``many, 5 steps`` as ``many`` with five local steps of learning rate 0.1; ``many, bars`` as
``many`` with the distributed trigger, four bars of three pixels, in place of a square of 3x3.
"""

import dataclasses
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console
from rich.progress import track
from tables import write_tables

from metasg_jax.config import FLConfig, GameConfig
from metasg_jax.data import load
from metasg_jax.evaluation import matrix
from metasg_jax.evaluation.statistics import t_interval
from metasg_jax.evaluation.tables import rich_table
from metasg_jax.fl import Attackers, Call, Federation, collect, sample_clients
from metasg_jax.game.make import make_game, make_rule
from metasg_jax.game.shapes import of_one_shape
from metasg_jax.post_defenses import NoDefense
from metasg_jax.programs.device import enable_compilation_cache

FEW = FLConfig(num_clients=25, num_sampled=25)
MANY = FLConfig()
WORLDS = {
    "few": (FEW, 0.1),
    "few, uneven": (FEW, 0.9),
    "many": (MANY, 0.5),
    "many, IID": (MANY, 0.1),
    "many, uneven": (MANY, 0.9),
    "many, 5 steps": (MANY.replace(local_steps=5, local_lr=0.1), 0.5),
    "many, bars": (MANY, 0.5),
}


@dataclasses.dataclass(frozen=True)
class Cell:
    """One attack against one rule.

    Attributes:
        world: of :data:`WORLDS`.
        attack: an attacker type.
        rule: as :func:`~metasg_jax.game.make.make_rule` reads it.
        share: that the rule assumes to be malicious.
        rest: rounds without attack that follow.
    """

    world: str
    attack: str
    rule: str
    share: float = 0.2
    rest: int = 0

    def __str__(self) -> str:
        after = f", then {self.rest} rounds without" if self.rest else ""
        return f"{self.attack} against {self.rule}{after}"


@dataclasses.dataclass(frozen=True)
class Claim:
    """``quantity`` of ``high`` exceeds that of ``low`` by at least ``margin``.

    Attributes:
        text: what is said, and by whom.
        high: a cell.
        low: a cell.
        quantity: ``accuracy`` or ``asr``.
        margin: in share of images.
        equal: whether the claim is that they differ by less than the margin instead.
    """

    text: str
    high: Cell
    low: Cell
    quantity: str
    margin: float
    equal: bool = False


def _harm(text, world, attack, rule, margin, share=0.2, equal=False) -> Claim:
    """Accuracy without attack exceeds that under attack."""
    none, under = (Cell(world, a, rule, share) for a in ("none", attack))
    return Claim(text, none, under, "accuracy", margin, equal)


def _cure(text, world, attack, rule, margin, quantity="asr", without="mean") -> Claim:
    """A rule does better than another one under the same attack."""
    bad, good = Cell(world, attack, without), Cell(world, attack, rule)
    high, low = (bad, good) if quantity == "asr" else (good, bad)
    return Claim(text, high, low, quantity, margin)


XIE = "Xie et al. 2020"
CLAIMS = (
    _harm(f"IPM of small scale defeats Krum ({XIE})", "few", "ipm:scale=0.1@0.44", "krum", 0.1,
          0.44),
    _harm(f"IPM of large scale does not defeat Krum ({XIE})", "few", "ipm:scale=10@0.44", "krum",
          0.02, 0.44, equal=True),
    _harm(f"IPM of large scale defeats the median ({XIE})", "few", "ipm:scale=10@0.44", "median",
          0.1, 0.44),
    _harm("the same with 20 % of 100 clients, 10 of them sampled", "many", "ipm:scale=0.5@0.2",
          "krum", 0.1),
    _harm("the same for the median", "many", "ipm:scale=10@0.2", "median", 0.1),
    _harm("ALIE (z = 1.5) defeats Krum where clients differ (Baruch et al. 2019; Karimireddy et "
          "al. 2022)", "few, uneven", "alie@0.2", "krum", 0.1),
    _harm("ALIE defeats the trimmed mean where clients differ (the same)", "few, uneven",
          "alie@0.2", "trimmed_mean:beta=0.2", 0.1),
    _harm("ALIE hardly harms Krum where they don't", "few", "alie@0.2", "krum", 0.05, equal=True),
    Claim("BFL under the mean: a backdoor, beside the median (Bagdasaryan et al. 2020)",
          Cell("many", "bfl@0.05", "mean"), Cell("many", "bfl@0.05", "median"), "asr", 0.5),
    _harm("... and no harm to accuracy", "many", "bfl@0.05", "mean", 0.02, equal=True),
    _cure("norm bounding stops model replacement by 1 of 100 clients (Sun et al. 2019)", "many",
          "bfl:replace_model=1@0.01", "norm_bound:max_norm=0.2", 0.5),
    Claim("... but not a backdoor of honest size by 5 of 100 (Wang et al. 2020)",
          Cell("many", "bfl@0.05", "mean"), Cell("many", "bfl@0.05", "norm_bound:max_norm=0.2"),
          "asr", 0.2, equal=True),
    _cure("NNM rescues the trimmed mean from ALIE where clients differ (Allouah et al. 2023)",
          "few, uneven", "alie@0.2", "nnm+trimmed_mean:beta=0.2", 0.05, "accuracy",
          "trimmed_mean:beta=0.2"),
    _harm("Mimic harms Krum where clients differ (Karimireddy et al. 2022)", "few, uneven",
          "mimic@0.2", "krum", 0.05),
    _cure("... and bucketing helps (the same)", "few, uneven", "mimic@0.2", "bucketing+krum", 0.05,
          "accuracy", "krum"),
    Claim("Min-Max harms the trimmed mean more than ALIE (Shejwalkar and Houmansadr 2021)",
          Cell("many", "alie@0.2", "trimmed_mean:beta=0.2"),
          Cell("many", "min_max@0.2", "trimmed_mean:beta=0.2"), "accuracy", 0.01),
    _harm("Fang's attack defeats Krum (Fang et al. 2020)", "many", "lmp_krum@0.2", "krum", 0.1),
    _cure("FLAME removes backdoors (Nguyen et al. 2022)", "many", "bfl@0.2", "flame", 0.5),
    _cure("... with IID clients", "many, IID", "bfl@0.2", "flame", 0.5),
    _cure("... with five local steps", "many, 5 steps", "bfl@0.2", "flame", 0.5),
    _cure("DeepSight removes backdoors (Rieger et al. 2022)", "many", "bfl@0.2", "deepsight", 0.5),
    _cure("... with IID clients", "many, IID", "bfl@0.2", "deepsight", 0.5),
    _cure("... with five local steps", "many, 5 steps", "bfl@0.2", "deepsight", 0.5),
    Claim("DBA outdoes BFL of as many clients against the median (Xie et al. 2020)",
          Cell("many", "dba@0.2", "median"), Cell("many", "bfl@0.2", "median"), "asr", 0.05),
    Claim("added: ... with the trigger of four bars", Cell("many, bars", "dba@0.2", "median"),
          Cell("many, bars", "bfl@0.2", "median"), "asr", 0.05),
    Claim("added: ... and against the geometric median, as in the paper",
          Cell("many, bars", "dba@0.05", "geometric_median"),
          Cell("many, bars", "bfl@0.05", "geometric_median"), "asr", 0.05),
    Claim("added: ... and against FoolsGold, as in the paper",
          Cell("many, bars", "dba@0.05", "foolsgold:num_clients=100"),
          Cell("many, bars", "bfl@0.05", "foolsgold:num_clients=100"), "asr", 0.05),
    Claim("added: Min-Max harms the trimmed mean more than ALIE with its formula's z, 0.286",
          Cell("many", "alie:z=0.286@0.2", "trimmed_mean:beta=0.2"),
          Cell("many", "min_max@0.2", "trimmed_mean:beta=0.2"), "accuracy", 0.01),
    Claim("Neurotoxin outlasts BFL: 100 rounds after the attack (Zhang et al. 2022)",
          Cell("many", "neurotoxin@0.2", "norm_bound:max_norm=0.2", rest=100),
          Cell("many", "bfl@0.2", "norm_bound:max_norm=0.2", rest=100), "asr", 0.05),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Literature:
    """What is run."""

    rounds: int = 200
    """FL rounds under attack."""
    seeds: int = 8
    """Each with its own splits, partition, model and batches; the same for all cells."""
    first_seed: int = 10
    """The claims were drafted on seeds 0 and 1, which are not among these."""
    out: Path = Path("docs/results/literature.csv")
    """Where the tables go, in long form."""


def worlds_of(name: str, attacks: tuple[str, ...], seeds: range, dataset) -> list:
    """A game a seed, all of one shape, with these attacks."""
    fl, level = WORLDS[name]
    config = GameConfig(
        dataset=dataset.name, pool=2, level=level, types=attacks, rule="mean", post_defense="none"
    )
    if name == "many, bars":
        config = dataclasses.replace(config, trigger="distributed", trigger_size=7)
    return of_one_shape(
        [make_game(dataclasses.replace(config, seed=s), fl, dataset) for s in seeds]
    )


_judge = jax.jit(matrix.judge)
_begin = jax.jit(matrix.begin)
_play = jax.jit(matrix.play_rounds, static_argnames="num_rounds")


def play_cell(cell: Cell, world, attacks: tuple[str, ...], seed: int, rounds: int):
    """Accuracy and ASR after the last round."""
    fl = world.fl
    game = world.replace(rule=make_rule(cell.rule, fl.num_sampled, cell.share, world.model))
    i, none = (jnp.int32(attacks.index(a)) for a in (cell.attack, "none"))
    key_model, key_rounds, key_post = jax.random.split(jax.random.key(seed), 3)
    state = _play(key_rounds, game, _begin(key_model, game, i), i, num_rounds=rounds)
    if cell.rest:
        state = _play(key_rounds, game, state, none, num_rounds=cell.rest)
    metrics = _judge(key_post, game, state.w, i, (NoDefense(),))
    return float(metrics.accuracy[0]), float(metrics.asr[0])


def along(world: str, attack: str, rule: str, seeds: range, rounds: int, dataset):
    """Every tenth round of training under an attack: what came, what the rule said of it, who lied.

    Yields:
        (rows f32[n, d], info of the rule, bool[n]).
    """
    for seed, base in zip(seeds, worlds_of(world, (attack,), seeds, dataset), strict=True):
        game = base.replace(rule=make_rule(rule, base.fl.num_sampled, 0.2, base.model))
        xi = game.prior[0]
        key_model, key_rounds = jax.random.split(jax.random.key(seed))
        state = _begin(key_model, game, 0)
        for t in range(0, rounds, 10):
            got, info = _probe(jax.random.fold_in(key_rounds, 1000 + t), game, state)
            ids = np.asarray(got.client_ids)
            malicious = ids < int(xi.num_untargeted + xi.num_backdoor)
            yield np.asarray(got.updates, np.float64), jax.tree.map(np.asarray, info), malicious
            state = _play(key_rounds, game, state, 0, num_rounds=10)


@jax.jit
def _probe(key, game, state):
    key_sample, key_collect, key_rule = jax.random.split(key, 3)
    colluders = game.prior.colluders(game.prior[0])
    actions = tuple(jnp.zeros((max(1, group.table.action_size),)) for group in colluders)
    ids = sample_clients(key_sample, game.fl.num_clients, game.fl.num_sampled)
    received, _ = collect(
        key_collect, Federation(game.model, game.fl, game.data), Call(state.w, ids, state.round),
        Attackers(colluders, state.attack_states, actions), game.rule, True,
    )  # fmt: skip
    return received, game.rule(key_rule, state.rule_state, received)[2]


def trust_of_reversed(dataset, seeds: range, rounds: int) -> list[list[str]]:
    """FLTrust's scores of honest and of reversed rows."""
    rows = []
    for attack in ("sign_flip@0.2", "ipm:scale=1@0.2"):
        scores: dict[bool, list[float]] = {True: [], False: []}
        for _, info, malicious in along("many", attack, "fltrust", seeds, rounds, dataset):
            for bad in (True, False):
                scores[bad] += info["trust"][malicious == bad].tolist()
        for bad, name in ((True, "reversed"), (False, "honest")):
            values = np.array(scores[bad])
            kept = f"{(values > 0).mean():.1%}"
            rows.append([attack, name, str(len(values)), f"{values.mean():.3f}", kept])
    return rows


def kept_by_clusters(dataset, seeds: range, rounds: int) -> list[list[str]]:
    """Which rows FLAME and DeepSight keep, and how alike the rows are, under a backdoor."""
    rows = []
    for rule in ("flame", "deepsight"):
        for world in ("many", "many, IID", "many, 5 steps"):
            kept: dict[bool, list] = {True: [], False: []}
            cosines: dict[str, list] = {"honest": [], "malicious": [], "between": []}
            for updates, info, bad in along(world, "bfl@0.2", rule, seeds, rounds, dataset):
                for which in (True, False):
                    kept[which] += info["selected"][bad == which].tolist()
                unit = updates / np.linalg.norm(updates, axis=1, keepdims=True)
                cosine = unit @ unit.T
                pairs = np.tri(len(bad), k=-1, dtype=bool)
                both, neither = bad[:, None] & bad[None], ~bad[:, None] & ~bad[None]
                cosines["malicious"] += cosine[pairs & both].tolist()
                cosines["honest"] += cosine[pairs & neither].tolist()
                cosines["between"] += cosine[pairs & ~both & ~neither].tolist()
            shares = (f"{np.mean(kept[which]):.0%}" for which in (True, False))
            means = (f"{np.mean(values):.2f}" for values in cosines.values())
            rows.append([rule, world, *shares, *means])
    return rows


def reach_of_crafts(dataset, seeds: range, rounds: int) -> list[list[str]]:
    """How far from the honest mean colluders stand, and whether Krum takes them."""
    rows = []
    for world in ("many", "few, uneven"):
        for attack in ("alie@0.2", "min_max@0.2", "min_sum@0.2", "ipm:scale=0.5@0.2", "mimic@0.2"):
            reach, taken = [], []
            for updates, info, bad in along(world, attack, "krum", seeds, rounds, dataset):
                honest = updates[~bad]
                if not bad.any() or len(honest) < 2:
                    continue
                mean = honest.mean(axis=0)
                spread = np.linalg.norm(honest - mean[None], axis=1).mean()
                reach.append(np.linalg.norm(updates[bad][0] - mean) / spread)
                taken.append(bad[int(info["selected"])])
            rows.append([world, attack, f"{np.mean(reach):.2f}", f"{np.mean(taken):.0%}"])
    return rows


def verdict(claim: Claim, differences: np.ndarray) -> tuple[str, str]:
    """(difference with half its interval, ``agrees``, ``does not`` or ``undecided``)."""
    mean, half = t_interval(differences)
    if claim.equal:
        holds, fails = abs(mean) + half < claim.margin, abs(mean) - half > claim.margin
    else:
        holds, fails = mean >= claim.margin and mean - half > 0, mean + half < claim.margin
    word = "agrees" if holds else "does not" if fails else "undecided"
    return f"{mean:+.3f} ± {half:.3f}", word


def main(args: Literature) -> None:
    """Plays all cells, judges the claims and writes the tables."""
    enable_compilation_cache()
    console = Console(soft_wrap=True)
    dataset = load("mnist")
    begin = time.perf_counter()
    wanted = {cell: 0 for claim in CLAIMS for cell in (claim.high, claim.low)}
    values: dict[Cell, np.ndarray] = {}
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    for name in WORLDS:
        mine = [cell for cell in wanted if cell.world == name]
        attacks = tuple({"none": 0} | {cell.attack: 0 for cell in mine})
        games = worlds_of(name, attacks, seeds, dataset)
        # a rule at a time, so that its program is compiled once
        for cell in track(sorted(mine, key=lambda c: c.rule), name, console=console):
            played = [
                play_cell(cell, game, attacks, s, args.rounds)
                for s, game in zip(seeds, games, strict=True)
            ]
            values[cell] = np.array(played)
    rows = []
    for claim in CLAIMS:
        column = ("accuracy", "asr").index(claim.quantity)
        high, low = values[claim.high][:, column], values[claim.low][:, column]
        wish = f"within {claim.margin:g}" if claim.equal else f"at least {claim.margin:g}"
        cells_text = f"{claim.high}: {high.mean():.3f}; {claim.low}: {low.mean():.3f}"
        rows.append(
            [claim.text, claim.high.world, f"{claim.quantity}: {cells_text}", wish,
             *verdict(claim, high - low)]
        )  # fmt: skip
    header = ["claim", "world", "means", "wanted", "difference", "verdict"]
    trust = trust_of_reversed(dataset, seeds, args.rounds)
    trust_header = ["attack", "rows", "number", "mean trust", "trusted at all"]
    kept = kept_by_clusters(dataset, seeds[:3], args.rounds)
    kept_header = ["rule", "world", "malicious kept", "honest kept", "cosine, honest pairs",
                   "malicious pairs", "between"]  # fmt: skip
    reach = reach_of_crafts(dataset, seeds[:3], args.rounds)
    reach_header = ["world", "attack", "distance / mean honest distance", "Krum takes it"]
    seconds = time.perf_counter() - begin
    short = [[row[0], row[1], row[-2], row[-1]] for row in rows]
    short_header = ["claim", "world", "difference", "verdict"]
    console.print(rich_table("the literature on mnist", short_header, short, numbers=False))
    console.print(rich_table("FLTrust", trust_header, trust))
    tables = {"claims": (header, rows), "trust": (trust_header, trust),
              "kept": (kept_header, kept), "reach": (reach_header, reach)}  # fmt: skip
    write_tables(args.out, tables)
    console.print(f"{seconds:.0f} s; written to {args.out}")


if __name__ == "__main__":
    main(tyro.cli(Literature, description=__doc__))
