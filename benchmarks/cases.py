"""What is measured: plain data that both environments read. Imports nothing but Python's own."""

import dataclasses
from typing import Any

SUITES = ("rounds", "rules", "game", "scaling")
RULES = (
    "median", "trimmed_mean", "krum", "multi_krum", "geometric_median", "nnm+trimmed_mean",
    "bulyan", "mda",
)  # fmt: skip
# MDA looks at all subsets, and Bulyan chooses its rows one by one
MOST_ROWS = {"mda": 10, "bulyan": 100}
AXES = ("horizon", "groups", "types")


@dataclasses.dataclass(frozen=True)
class Case:
    """One comparison: every contestant that knows it does the same work.

    Attributes:
        suite: one of :data:`SUITES`.
        name: unique in its suite.
        settings: read by the contestants.
        sample_seconds: wanted length of one sample; short calls are repeated within it.
        limit_seconds: a contestant gets no further repetitions once it has used so much.
        grows_from: (name of a smaller case, factor) by which the time is expected to grow; a
            contestant that would then take longer than a call is worth is not called.
    """

    suite: str
    name: str
    settings: dict[str, Any]
    sample_seconds: float = 0.5
    limit_seconds: float = 4.0
    grows_from: tuple[str, float] | None = None

    def __str__(self) -> str:
        return f"{self.suite}: {self.name}"


def cases(suite: str, quick: bool = False) -> list[Case]:
    """The cases of a suite.

    Args:
        suite: one of :data:`SUITES`.
        quick: toy sizes that only show that everything runs; their numbers mean nothing.
    """
    chosen = {"rounds": _rounds, "rules": _rules, "game": _game, "scaling": _scaling}[suite](quick)
    if quick:
        return [dataclasses.replace(case, sample_seconds=0.01) for case in chosen]
    return chosen


def _rounds(quick: bool) -> list[Case]:
    clients = dict(num_clients=100, num_sampled=10, images_each=600, batch_size=32)
    if quick:
        clients = dict(num_clients=20, num_sampled=5, images_each=40, batch_size=8)
    mlp = dict(model="mlp", hidden=[8] if quick else [128], **clients)
    cnn = dict(model="cnn", hidden=[2, 3, 8] if quick else [16, 32, 256], **clients)
    table = [(mlp, 1, "mean"), (mlp, 5, "mean"), (mlp, 1, "median"), (mlp, 1, "krum")]
    table += [(cnn, 1, "mean"), (cnn, 5, "mean")]
    return [
        Case(
            "rounds",
            f"{network['model'].upper()}, {steps} step{'s' * (steps > 1)}, {rule}",
            dict(network, local_steps=steps, rule=rule),
        )
        for network, steps, rule in (table[2:3] if quick else table)
    ]


def _rules(quick: bool) -> list[Case]:
    if quick:
        sizes = [(5, 1000)]
    else:
        sizes = [(n, d) for d in (10_000, 100_000, 1_000_000) for n in (10, 50, 100)]
        sizes += [(1000, 10_000), (1000, 100_000)]

    def name(rule, n, d):
        return f"{rule}, n = {n}, d = {d:,}"

    return [
        Case(
            "rules",
            name(rule, n, d),
            dict(rule=rule, n=n, d=d, peers=n < 1000),
            sample_seconds=0.1,
            limit_seconds=1.0,
            grows_from=(name(rule, n, d // 10), 10.0) if d > sizes[0][1] else None,
        )
        for rule in RULES
        for n, d in sizes
        if n <= MOST_ROWS.get(rule, n)
    ]


def _game(quick: bool) -> list[Case]:
    settings = dict(
        model="cnn", hidden=[32, 64, 636], num_clients=10, batch_size=128, num_images=10_000,
        attacker="ipm@0.3", rounds=4,
    )  # fmt: skip
    if quick:
        settings |= dict(model="mlp", hidden=[8], batch_size=8, num_images=400, rounds=2)
    name = f"{settings['model'].upper()}, 10 of 10 clients, batch {settings['batch_size']}, IPM"
    return [Case("game", name, settings, 1.0, 20.0)]


def _scaling(quick: bool) -> list[Case]:
    rounds = dict(num_sampled=10, images_each=32, num_images=60_000, hidden=[128], batch_size=32)
    populations = [100, 10_000, 1_000_000]
    attack_steps = [10, 49]
    game = dict(hidden=[64], batch_size=64, num_images=6000, group_size=2, horizon=5)
    factors = [1, 3, 8]
    compiled = [Case("scaling", "compilation", dict(models=["mlp", "resnet18"]), limit_seconds=0.0)]
    sizes = ["small", "medium", "large"]
    if quick:
        rounds |= dict(num_sampled=5, num_images=400, hidden=[8], batch_size=8)
        populations, attack_steps, compiled, sizes = [20, 200], [3], [], ["toy"]
        game = dict(hidden=[8], batch_size=8, num_images=1200, group_size=2, horizon=1)
        factors = [1, 2]
    growth = [(AXES[0], 1)]  # which is the first point of every axis
    growth += [(axis, f) for axis in (AXES[:1] if quick else AXES) for f in factors[1:]]
    return [
        Case("scaling", "clients", dict(rounds, populations=populations)),
        Case("scaling", "attacker", dict(rounds, num_clients=100, attack_steps=attack_steps)),
        Case("scaling", "meta-step", dict(game, growth=growth), limit_seconds=6.0),
        Case("scaling", "memory", dict(sizes=sizes), limit_seconds=0.0),
        *compiled,
    ]
