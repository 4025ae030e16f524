"""Tables and figures of a study's outcomes."""

import dataclasses
from pathlib import Path

import numpy as np
from rich.console import Console

from metasg_jax.evaluation.plots import recovery_bars
from metasg_jax.evaluation.statistics import (
    crossed_interval,
    equivalence_test,
    gap_recovery,
    holm,
    t_interval,
    t_test,
)
from metasg_jax.evaluation.tables import markdown_table, rich_table, with_error
from study.settings import Study
from study.stages import Place, uniform

_SCORE, _ACCURACY = 0, 1


@dataclasses.dataclass(frozen=True)
class Outcomes:
    """All final worlds of a study.

    Attributes:
        study: its settings.
        by_name: f64[T, S, K, 3] (score, accuracy, attack success); T is 1 without training seeds.
        grid: f64[S, K, J], scores of constant actions on the final worlds.
        told: i64[S, K] by observation, what the two-phase control's classifier says.
        seconds: all worlds together.
    """

    study: Study
    by_name: dict[str, np.ndarray]
    grid: np.ndarray
    told: dict[str, np.ndarray]
    seconds: float

    @classmethod
    def read(cls, place: Place) -> "Outcomes":
        """Joins the worlds of a study."""
        worlds = place.read("final", place.study.final_worlds)
        seconds = sum(float(each.pop("seconds")) for each in worlds)
        for stage, count in (
            ("references", place.study.selection_worlds),
            ("first_phase", place.study.selection_worlds),
            ("normalize", place.study.adjusted),
        ):
            seconds += sum(float(each["seconds"]) for each in place.read(stage, count))
        grid = np.stack([each.pop("grid") for each in worlds])
        told = {
            name.removeprefix("told, "): np.stack([each.pop(name) for each in worlds])
            for name in list(worlds[0])
            if name.startswith(("told, ", "told when, "))
        }
        by_name = {name: np.stack([each[name] for each in worlds], axis=1) for name in worlds[0]}
        return cls(place.study, by_name, np.asarray(grid, np.float64), told, seconds)

    @property
    def q(self) -> np.ndarray:
        """The prior, f64[K]."""
        return uniform(self.grid.shape[1])

    @property
    def names(self) -> list[str]:
        """Of the types; of pairs where they switch."""
        types, switch = self.study.world.game.types, self.study.world.switch
        if switch is None:
            return list(types)
        return [f"{types[i]}, then {types[j]}" for i, j in enumerate(np.asarray(switch.then))]

    def score(self, name: str) -> np.ndarray:
        """f64[T, S, K]."""
        return self.by_name[name][..., _SCORE]

    def hindsight(self) -> tuple[np.ndarray, np.ndarray]:
        """Scores f64[S, K] of best fixed action and oracle, both chosen on the final worlds."""
        return hindsight(self.grid, self.q)

    def left_out(self) -> tuple[np.ndarray, np.ndarray]:
        """Scores f64[S, K] of best fixed action and oracle, chosen on the *other* final worlds."""
        return left_out(self.grid, self.q)

    def recovery(self, name: str) -> np.ndarray:
        """Gap recovery f64[T] against references in hindsight."""
        fixed, oracle = self.hindsight()
        return gap_recovery(self.score(name) @ self.q, fixed @ self.q, oracle @ self.q)

    def recovery_over_worlds(self, name: str) -> tuple[float, float]:
        """The same with the interval over training seeds and worlds, by the delta method."""
        fixed, oracle = (each @ self.q for each in self.hindsight())
        over, gap = self.score(name) @ self.q - fixed[None], oracle - fixed
        if not gap.mean() > 0:
            return float("nan"), float("nan")
        ratio = over.mean() / gap.mean()
        return ratio, interval((over - ratio * gap[None]) / gap.mean())[1]


def hindsight(scores: np.ndarray, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores f64[S, K] of the best fixed action and of the oracle, by scores f64[S, K, J]."""
    mean = scores.mean(axis=0)
    fixed = scores[:, :, np.argmax(q @ mean)]
    best = mean.argmax(axis=1)
    return fixed, np.stack([scores[:, k, best[k]] for k in range(len(q))], axis=1)


def left_out(scores: np.ndarray, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As :func:`hindsight`, but each world's actions are chosen on the others: not flattering."""
    if len(scores) < 2:
        return hindsight(scores, q)
    rest = (scores.sum(axis=0)[None] - scores) / (len(scores) - 1)
    fixed = np.stack(
        [own[:, np.argmax(q @ other)] for own, other in zip(scores, rest, strict=True)]
    )
    best = [other.argmax(axis=1) for other in rest]
    every = np.arange(len(q))
    return fixed, np.stack([own[every, k] for own, k in zip(scores, best, strict=True)])


def interval(values: np.ndarray) -> tuple[float, float]:
    """Mean and half the interval of [T, S]: over seeds and worlds, or over worlds where T is 1."""
    return crossed_interval(values) if len(values) > 1 else t_interval(values[0])


def pm(values: tuple[float, float], places: int = 3) -> str:
    """``+0.123 ± 0.045``; empty for what does not exist, a recovery where there is no gap."""
    return with_error(*values, "+", places)


def section(outcomes: Outcomes, figure: Path, console: Console) -> str:
    """Markdown of a study; writes its figure."""
    study = outcomes.study
    over = over_the_prior(outcomes)
    types = by_type(outcomes)
    console.print(rich_table(study.title, *over))
    console.print(rich_table(f"{study.title}, by type", *types))
    recovery = {name: outcomes.recovery(name) for name in outcomes.by_name}
    bars = {n: v for n, v in recovery.items() if len(v) > 1 and np.isfinite(v).all()}
    picture = ""
    if bars:
        recovery_bars(bars, figure)
        picture = f"![recovery]({figure.name})\n\n"
    return (
        f"## {study.title}\n\n{markdown_table(*over)}\n{verdicts(outcomes)}\n{picture}"
        f"{markdown_table(*types)}"
    )


def over_the_prior(outcomes: Outcomes) -> tuple[list[str], list[list[str]]]:
    """Header and rows: every contender, best first."""
    study, q = outcomes.study, outcomes.q
    fixed, oracle = outcomes.hindsight()
    main = f"learned, {study.learners[0]}"
    header = ["defender", "score", "minus best fixed", "recovery, hindsight"]
    with_selection = (
        "best fixed" in outcomes.by_name
        and "oracle" in outcomes.by_name
        and outcomes.study.world.switch is None
    )
    header += ["recovery, selection"] * with_selection
    header += [f"{main} minus it"]
    has_clean = "none" in outcomes.names
    header += ["clean accuracy"] * has_clean
    other_fixed, other_oracle = outcomes.left_out()
    scores = {
        "best fixed, hindsight": fixed[None],
        "oracle, hindsight": oracle[None],
        "best fixed, left out": other_fixed[None],
        "oracle, left out": other_oracle[None],
    }
    scores |= {name: outcomes.score(name) for name in outcomes.by_name}
    rows = []
    for name, values in sorted(scores.items(), key=lambda item: -float((item[1] @ q).mean())):
        mean = values @ q
        row = [name, f"{mean.mean():.3f}", pm(interval(mean - (fixed @ q)[None]))]
        row.append(pm(t_interval(gap_recovery(mean, fixed @ q, oracle @ q)), 2))
        if with_selection:
            low, high = (outcomes.score(n)[0] @ q for n in ("best fixed", "oracle"))
            row.append(pm(t_interval(gap_recovery(mean, low, high)), 2))
        lead = outcomes.score(main) @ q - mean
        row.append("" if name == main else pm(interval(lead)))
        if has_clean:
            k = outcomes.names.index("none")
            known = name in outcomes.by_name
            accuracy = outcomes.by_name[name][:, :, k, _ACCURACY].mean() if known else np.nan
            row.append("" if np.isnan(accuracy) else f"{accuracy:.3f}")
        rows.append(row)
    return header, rows


def by_type(outcomes: Outcomes) -> tuple[list[str], list[list[str]]]:
    """Header and rows: references in hindsight, and each learned defender's lead with Holm's p."""
    fixed, oracle = outcomes.hindsight()
    header = ["type", "best fixed", "oracle"]
    rows = [
        [name, f"{fixed[:, k].mean():.3f}", f"{oracle[:, k].mean():.3f}"]
        for k, name in enumerate(outcomes.names)
    ]
    for name in outcomes.study.learners:
        values = outcomes.score(f"learned, {name}")
        lead = values - fixed[None]
        p = holm(np.array([t_test(lead[:, :, k]) for k in range(len(rows))]))
        header += [f"learned, {name}", "minus best fixed", "Holm p"]
        for k, row in enumerate(rows):
            row += [f"{values[:, :, k].mean():.3f}", pm(interval(lead[:, :, k])), f"{p[k]:.3f}"]
    for observation, told in outcomes.told.items():
        if not outcomes.study.known and outcomes.study.world.switch is None:
            header.append(f"type told right, {observation}")
            for k, row in enumerate(rows):
                row.append(f"{np.mean(told[:, k] == k):.0%}")
    return header, rows


def verdicts(outcomes: Outcomes) -> str:
    """The sentences that targets are about, each with its number."""
    q = outcomes.q
    fixed, _ = outcomes.hindsight()
    lines = []
    for name in outcomes.study.learners:
        score = outcomes.score(f"learned, {name}")
        recovery = t_interval(outcomes.recovery(f"learned, {name}"))
        wide = outcomes.recovery_over_worlds(f"learned, {name}")
        lead = score - fixed[None]
        below = {}
        for over, values in (("seeds", lead.mean(axis=1)[:, None]), ("seeds and worlds", lead)):
            p = holm(np.array([t_test(values[:, :, k]) for k in range(len(q))]))
            names = [
                n for k, n in enumerate(outcomes.names) if p[k] < 0.05 and lead[..., k].mean() < 0
            ]
            below[over] = ", ".join(f"`{name}`" for name in names) or "not one"
        equal = equivalence_test(lead @ q, 0.01)
        mean, half = interval(lead @ q)
        told = "no gap to recover"
        if np.isfinite(recovery[0]):
            told = (
                f"recovery in hindsight {pm(recovery, 2)} over training seeds on these worlds, "
                f"± {wide[1]:.2f} over seeds and worlds"
            )
            # a ratio can't be told from 0 where its numerator can't
            told += "" if abs(mean) > half else ", of a lead that holds 0: nothing to claim"
        text = (
            f"- `{name}`: {told}; types significantly below the best fixed action (Holm): "
            f"{below['seeds']} over training seeds on these worlds, {below['seeds and worlds']} "
            f"over seeds and worlds; within 1 point of it: "
            f"{'' if equal < 0.05 else 'not '}shown (p = {equal:.3f})"
        )
        if "none" in outcomes.names and "mean" in outcomes.by_name:
            k = outcomes.names.index("none")
            cost = (
                outcomes.by_name["mean"][:, :, k, _ACCURACY]
                - (outcomes.by_name[f"learned, {name}"][:, :, k, _ACCURACY])
            )
            text += f"; clean accuracy below the plain mean's: {pm(interval(cost))}"
        lines.append(text + ".")
    return "\n".join(lines) + "\n"
