"""`metasg certify` as a program: residuals and constants along a run, as tables, CSV and a plot."""

import csv
import dataclasses
import hashlib
import math
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from rich.console import Console

from metasg_jax import checkpoint
from metasg_jax.config import MetaConfig, RunConfig
from metasg_jax.data import Dataset
from metasg_jax.errors import CheckpointError, ConfigError
from metasg_jax.evaluation.plots import residual_course
from metasg_jax.evaluation.tables import markdown_table, rich_table
from metasg_jax.game.make import make_game
from metasg_jax.learning.assumptions import (
    check_rewards,
    competition_by_presence,
    pl_bound,
    smoothness,
    step_sizes,
    walk,
)
from metasg_jax.learning.equilibrium import (
    MIN_BATCHES,
    Gradients,
    NormEstimate,
    check_residuals,
    combine,
    mean_gradient,
    residuals,
    rollouts_per_batch,
    sample_gradients,
)
from metasg_jax.learning.state import MetaSGState, attacker_player, defender_player, init_state
from metasg_jax.program import progress
from metasg_jax.runs import whole

PRIOR = "prior"
"""Stands for the average over Q where a row's type does."""


@dataclasses.dataclass(frozen=True)
class Budget:
    """What is spent on each checkpoint, and on which random numbers; the same for all.

    Attributes:
        batches: B, independent batches for each type; even.
        points: of an attacker's ascent; 0 leaves the constants out.
        seed: of the random numbers, which all checkpoints share.
    """

    batches: int = 32
    points: int = 4
    seed: int = 0

    def check(self, config: MetaConfig) -> None:
        """Raises ConfigError where it does not do, or not with this learner."""
        least = 2 * MIN_BATCHES
        if self.batches < least or self.batches % 2:
            raise ConfigError(f"batches = {self.batches}: an even number of at least {least}")
        if self.points < 0:
            raise ConfigError(f"points = {self.points}: at least 1, or 0 (no constants)")
        check_residuals(config, self.batches)


@dataclasses.dataclass(frozen=True)
class Row:
    """One quantity of one checkpoint; numbers that it does not have are NaN.

    Attributes:
        step: of the checkpoint.
        digest: of its state.
        batches: of the budget, as the next two.
        points: likewise.
        seed: likewise.
        type: the attacker type's name, or :data:`PRIOR`.
        quantity: what.
        estimate: NaN where it is not resolved.
        error: its standard error.
        bound: a norm's upper 95 % bound.
        plain: norm of the mean of all draws, biased up.
        squared: unbiased estimate of the squared norm.
        squared_error: its standard error.
        needed: about how many episodes would resolve a norm of half the bound.
    """

    step: int
    digest: str
    batches: int
    points: int
    seed: int
    type: str
    quantity: str
    estimate: float
    error: float = math.nan
    bound: float = math.nan
    plain: float = math.nan
    squared: float = math.nan
    squared_error: float = math.nan
    needed: float = math.nan

    @property
    def text(self) -> str:
        """A norm with its error; or, unresolved, its bound and what it would take."""
        if self._unresolved and self.bound > 0:
            needed = _rounded(self.needed)
            return f"below {self.bound:.2g} (too few rollouts: about {needed} needed)"
        return self.short

    @property
    def short(self) -> str:
        """The same without what it would take, for wide tables."""
        if self._unresolved:
            return f"below {self.bound:.2g} (too few)" if self.bound > 0 else "0"
        if math.isnan(self.error):
            return _number(self.estimate)
        return f"{self.estimate:.3g} ± {self.error:.2g}"

    @property
    def _unresolved(self) -> bool:
        return math.isnan(self.estimate) and not math.isnan(self.bound)


def certify_state(
    state: MetaSGState,
    game,
    config: MetaConfig,
    budget: Budget,
    on_progress: Callable[[str], None] = lambda what: None,
) -> list[Row]:
    """All rows of one state, in a game with a prior.

    Args:
        state: the learner's.
        game: its game.
        config: its settings.
        budget: what to spend.
        on_progress: told what was just played; :func:`plays` times.

    Raises:
        ConfigError: for rewards that are not finite, and for what :meth:`Budget.check` refuses.
    """
    budget.check(config)
    names, adaptive = game.prior.names, game.prior.adaptive
    half = budget.batches // 2
    defender = defender_player(state, game, config)
    # apart from the learner's keys, which come from the same small seeds
    root = jax.random.fold_in(jax.random.key(budget.seed), 0xCE27)

    def drawer(k: int):
        attacker = attacker_player(state, game, config, k)

        def draw(theta, phi, measures: bool) -> Gradients:
            drawn = sample_gradients(
                jax.random.fold_in(root, k), game, np.int32(k),
                defender.replace(params=theta), attacker.replace(params=phi),
                np.int32(half if measures else 0), config, half,
            )  # fmt: skip
            drawn = jax.tree.map(np.asarray, drawn)
            check_rewards(names[k], drawn)
            on_progress(names[k])
            return drawn

        return draw, attacker.params

    drawers = [drawer(k) for k in range(len(names))]
    halves = [
        (draw(state.theta, phi, False), draw(state.theta, phi, True)) for draw, phi in drawers
    ]
    both = [jax.tree.map(lambda a, b: np.concatenate([a, b]), *pair) for pair in halves]
    q = np.asarray(game.prior.probabilities)

    head = dict(
        step=state.num_steps, digest=digest(state), **dataclasses.asdict(budget)
    )  # fmt: skip
    rows: list[Row] = []

    def add(kind: str, quantity: str, estimate: float, error: float = math.nan) -> None:
        rows.append(Row(**head, type=kind, quantity=quantity, estimate=estimate, error=error))

    def add_norm(kind: str, quantity: str, norm: NormEstimate, types: int = 1) -> None:
        each = types * rollouts_per_batch(config)
        shown = (norm.norm, norm.error) if norm.resolved else (math.nan, math.nan)
        needed = norm.batches_needed(norm.bound / 2) * each
        rows.append(
            Row(
                **head,
                type=kind,
                quantity=quantity,
                estimate=shown[0],
                error=shown[1],
                bound=norm.bound,
                plain=norm.plain,
                squared=norm.squared,
                squared_error=norm.squared_error,
                needed=needed,
            )
        )

    found = residuals(both, q, adaptive)
    add_norm(PRIOR, "defender", found.defender, len(names))
    add_norm(PRIOR, "defender fixed", found.defender_fixed, len(names))
    for k, name in enumerate(names):
        add_norm(name, "defender", found.types[k])
        add_norm(name, "defender fixed", found.types_fixed[k])
        for quantity, norms in (
            ("attacker", found.attacker),
            ("attacker fixed", found.attacker_fixed),
        ):
            norm = norms[k]
            if norm is not None:
                add_norm(name, quantity, norm)
    for name, chosen in [(PRIOR, both), *((n, [g]) for n, g in zip(names, both, strict=True))]:
        for rounds, fit in competition_by_presence(chosen).items():
            for quantity, value in dataclasses.asdict(fit).items():
                add(name, f"{quantity} ({rounds})", value)
    if budget.points == 0:
        return rows
    ascent = mean_gradient(combine(q, [first.defender for first, _ in halves]))
    for k, name in enumerate(names):
        if not adaptive[k]:
            continue
        draw, phi = drawers[k]
        walked = walk(draw, state.theta, phi, halves[k], ascent, budget.points)
        mu, constants = pl_bound(walked), smoothness(walked)
        add(name, "mu", mu.value, mu.error)
        for field in dataclasses.fields(constants):
            add_norm(name, field.name, getattr(constants, field.name))
        sizes = step_sizes(constants, mu)
        add(name, "L", sizes.L)
        add(name, "L is whole", float(sizes.whole))
        add(name, "kappa_A", sizes.kappa_A)
        add(name, "kappa_D", sizes.kappa_D)
    return rows


def plays(game, budget: Budget) -> int:
    """How often :func:`certify_state` reports progress."""
    responding = sum(game.prior.adaptive) if budget.points else 0
    return 2 * len(game.prior) + 2 * budget.points * responding


def digest(state: MetaSGState) -> str:
    """A fingerprint of the policies and what they see through: 12 hex digits."""
    found = hashlib.sha256()
    for leaf in jax.tree.leaves((state.theta, state.phi, state.normalizer, state.normalizer_A)):
        found.update(np.asarray(leaf).tobytes())
    return found.hexdigest()[:12]


def find_checkpoints(path: Path) -> tuple[Path, list[int]]:
    """(the run's directory, the steps that ``path`` names): a run's, or one of its checkpoints.

    Raises:
        CheckpointError: where there is none.
    """
    if path.parent.name == "checkpoints" and path.name.isdigit():
        run, wanted = path.parent.parent, int(path.name)
    else:
        run, wanted = path.parent if path.name == "checkpoints" else path, None
    steps = checkpoint.saved_steps(run / "checkpoints")
    if not steps:
        raise CheckpointError(
            f"there is no complete checkpoint in {run}: name a run's directory, or one of its "
            "checkpoints, <run>/checkpoints/<step>"
        )
    if wanted is None:
        return run, steps
    if wanted not in steps:
        raise CheckpointError(
            f"there is no checkpoint of step {wanted} in {run}; there are: "
            f"{', '.join(map(str, steps))}"
        )
    return run, [wanted]


def certify_program(
    run: Path,
    steps: list[int],
    config: RunConfig,
    dataset: Dataset,
    budget: Budget,
    directory: Path,
    console: Console,
) -> list[Row]:
    """Certifies checkpoints of a run; prints tables and writes certify.md, .csv and .png.

    A checkpoint whose rows with the same budget are in the CSV is not computed again.

    Raises:
        CheckpointError: for checkpoints that can't be read.
        ConfigError: where the run or the budget can't be certified.
    """
    budget.check(config.meta)
    begin = time.perf_counter()
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / "certify.csv"
    game = make_game(config.game, config.fl, dataset)
    blank = init_state(jax.random.key(0), game, config.meta)
    known = read_rows(file)
    rows: list[Row] = []
    each, computed = plays(game, budget), 0
    with progress(console, "{task.fields[note]}") as bar:
        task = bar.add_task("certifying", total=each * len(steps), note="compiling")
        for i, step in enumerate(steps):
            state = checkpoint.load(run / "checkpoints", blank, config, step)
            mark = (step, digest(state), *dataclasses.astuple(budget))
            new = [row for row in known if _mark(row) == mark]
            if not new:
                start = time.perf_counter()

                def advance(what, step=step):
                    bar.update(task, advance=1, note=f"step {step}: {what}")

                new = certify_state(state, game, config.meta, budget, advance)
                known = [*known, *new]
                write_rows(known, file)
                computed += 1
                note = f"{time.perf_counter() - start:.0f} s"
            else:
                note = "known"
            bar.update(task, completed=each * (i + 1))
            if not console.is_terminal:
                headline = _pick(new, PRIOR, "defender")
                console.print(f"step {step} ({i + 1}/{len(steps)}, {note}): {headline.text}")
            rows += new
    report(rows, config, game, budget, directory, console)
    rest = ", the others were known" if computed < len(steps) else ""
    console.print(
        f"certified {computed} of {len(steps)} checkpoints in {time.perf_counter() - begin:.0f} s"
        f"{rest}; certify.md, certify.csv and certify.png are in {directory}"
    )
    return rows


def report(
    rows: list[Row], config: RunConfig, game, budget: Budget, directory: Path, console: Console
) -> None:
    """Prints the tables and writes them and the plot."""
    title = (
        f"{config.game.dataset}, {len(game.prior)} types, {budget.batches} batches of "
        f"{rollouts_per_batch(config.meta)} rollouts a type, seed {budget.seed}"
    )
    parts = [f"# Certificate: {title}\n"]
    for name, header, body, note in tables(rows, config.meta, game):
        parts.append(f"## {name}\n")
        if body:
            console.print(rich_table(name, header, body, numbers=False))
            parts.append(markdown_table(header, body))
        console.print(note)
        parts.append(f"{note}\n")
    (directory / "certify.md").write_text("\n".join(parts))
    residual_course(
        {
            (kind, quantity): [r for r in rows if (r.type, r.quantity) == (kind, quantity)]
            for kind, quantity in _norm_keys(game)
        },
        directory / "certify.png",
    )


def tables(
    rows: list[Row], config: MetaConfig, game
) -> list[tuple[str, list[str], list[list[str]], str]]:
    """(title, header, body, note) of each table."""
    names, adaptive = game.prior.names, game.prior.adaptive
    steps = sorted({row.step for row in rows})
    responding = [name for name, a in zip(names, adaptive, strict=True) if a]

    def at(step: int, kind: str, quantity: str) -> Row:
        return _pick([r for r in rows if r.step == step], kind, quantity)

    found = []
    body = []
    for step in steps:
        row = at(step, PRIOR, "defender")
        fixed = at(step, PRIOR, "defender fixed")
        body.append([str(step), row.text, f"{row.plain:.3g}", fixed.text, f"{fixed.plain:.3g}"])
    found.append(
        (
            "the defender's residual, ‖∇θ E_Q L_D‖",
            ["meta-step", "residual", "plain norm", "law fixed", "law fixed, plain norm"],
            body,
            "Definition 4.1 for the average over Q, by pairs of independent batches. A plain norm "
            "of the mean gradient counts the noise as gradient: it is biased up, and falls with "
            "the budget alone. Where the squared norm is not twice its error there is only an "
            "upper 95 % bound; needed is what would resolve half of that. Law fixed: without the "
            "score of the episodes adapted on, which is most of the noise; a diagnostic.",
        )
    )
    for quantity, label, note in (
        (
            "defender",
            "",
            "Diagnostics: at an equilibrium they average to 0 over Q as vectors, not one by one.",
        ),
        ("defender fixed", ", law fixed", "Diagnostics: the same without the score's term."),
    ):
        found.append(
            (
                f"the defender's residual by type, ‖∇θ L_D(·, ξ)‖{label}",
                ["type", *(f"step {s}" for s in steps)],
                [[name, *(at(s, name, quantity).short for s in steps)] for name in names],
                note,
            )
        )
    body = [
        [
            name,
            str(s),
            *(at(s, name, what).text for what in ("attacker fixed", "attacker")),
            f"{at(s, name, 'attacker').plain:.3g}",
        ]
        for name in responding
        for s in steps
    ]
    found.append(
        (
            "the attackers' residuals, ‖∇φ L_A(·, ξ)‖",
            ["type", "meta-step", "adaptation fixed", "full", "full: plain norm"],
            body,
            "Fixed: what line 12 of Algorithm 2 drives to 0. Full: phi also moves the episodes "
            "that the defender adapts to."
            if responding
            else "No type is adaptive: there is no attacker's part, and the game is the "
            "meta-defence problem (C3).",
        )
    )
    last = steps[-1]
    body = []
    for name in (PRIOR, *names):
        for rounds, label in (("with", "attacked"), ("without", "not attacked"), ("all", "all")):
            get = {
                what: at(last, name, f"{what} ({rounds})").estimate
                for what in ("rounds", "c", "d", "rms", "unexplained")
            }
            if get["rounds"] == 0 or (rounds == "all" and name != PRIOR):
                continue
            body.append(
                [
                    name,
                    label,
                    f"{get['rounds']:,.0f}",
                    *(_number(get[what]) for what in ("c", "d", "rms")),
                    f"{get['unexplained']:.1%}",
                    "undefined" if math.isnan(get["c"]) else "yes" if get["c"] < 0 else "no",
                ]
            )
    found.append(
        (
            f"strict competitiveness after meta-step {last}: r_D = c r_A + d",
            ["type", "rounds", "number", "c", "d", "RMS left", "variance left", "c < 0"],
            body,
            "Attacked: rounds in which a malicious client was sampled. Assumption 4.3 wants one c "
            "below 0 and one d for all types and rounds, with nothing left. Where r_A does not "
            "vary, c is undefined.",
        )
    )
    if not responding or not any(r.quantity == "mu" for r in rows):
        return found
    used = used_step_sizes(config)
    body = []
    for name in responding:
        for s in steps:
            mu, whole = at(s, name, "mu"), at(s, name, "L is whole").estimate
            total = at(s, name, "L").estimate
            body.append(
                [
                    name,
                    str(s),
                    "unknown" if math.isinf(mu.estimate) else f"at most {mu.text}",
                    *(at(s, name, f"L{ij}").short for ij in ("11", "12", "21", "22")),
                    "unknown" if total == 0 else f"{total:.3g}" + ("" if whole else " (in part)"),
                    f"{_step_size(at(s, name, 'kappa_A'), at(s, name, 'L22').bound)} ({used[0]})",
                    f"{_step_size(at(s, name, 'kappa_D'))} ({used[1]})",
                ]
            )
    found.append(
        (
            "constants along an attacker's ascent, and the step sizes of Theorem D.7",
            ["type", "meta-step", "μ", "L11", "L12", "L21", "L22", "L", "κ_A (used)", "κ_D (used)"],
            body,
            "By the points visited within the unit ball: the L are lower bounds on the constants "
            "of Assumption D.2, μ an upper bound on that of Assumption 4.4; κ_A = 1 / L22 and "
            "κ_D = 1 / L with L = L11 + L12 L21 / μ are then at most what is shown; above, where "
            "these points only show that L22 is below a bound. In part: only those terms that are "
            "resolved.",
        )
    )
    return found


def used_step_sizes(config: MetaConfig) -> tuple[str, str]:
    """The learner's own: of the attackers and of the defender."""
    if config.optimizer == "adam":
        return f"Adam {config.attacker_lr:g}", f"Adam {config.outer_lr:g}"
    return f"{config.attacker_lr:g}", f"{config.outer_lr * config.defender_lr:g}"


def read_rows(file: Path) -> list[Row]:
    """The rows of a certify.csv, none where there is none.

    Raises:
        ConfigError: for a file that is something else.
    """
    if not file.is_file():
        return []
    fields = dataclasses.fields(Row)
    with file.open(newline="") as lines:
        reader = csv.DictReader(lines)
        if reader.fieldnames != [f.name for f in fields]:
            raise ConfigError(f"out: {file} is not a certificate of this version; move it away")
        return [
            Row(**{f.name: f.type(line[f.name] or "nan") for f in fields})  # pyrefly: ignore
            for line in reader
        ]


def write_rows(rows: list[Row], file: Path) -> None:
    """Writes certify.csv; a run that is killed leaves the old one or the new one."""
    with whole(file) as part, part.open("w", newline="") as lines:
        writer = csv.writer(lines)
        writer.writerow([f.name for f in dataclasses.fields(Row)])
        for row in rows:
            values = dataclasses.astuple(row)
            writer.writerow(["" if v != v else v for v in values])


def _mark(row: Row) -> tuple:
    return row.step, row.digest, row.batches, row.points, row.seed


def _pick(rows: list[Row], kind: str, quantity: str) -> Row:
    return next(r for r in rows if (r.type, r.quantity) == (kind, quantity))


def _norm_keys(game) -> list[tuple[str, str]]:
    players = [(PRIOR, "defender"), *((name, "defender") for name in game.prior.names)]
    responding = zip(game.prior.names, game.prior.adaptive, strict=True)
    players += [(name, "attacker") for name, responds in responding if responds]
    return [(kind, player + fixed) for kind, player in players for fixed in ("", " fixed")]


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3g}"


def _step_size(row: Row, bound: float = math.nan) -> str:
    """At most 1 / L; above 1 / bound, where L is only known to lie below that at these points."""
    if math.isinf(row.estimate):
        return f"above {1 / bound:.2g}" if bound > 0 else "unknown"
    return f"at most {row.estimate:.2g}"


def _rounded(value: float) -> str:
    """Two digits: an order of magnitude is meant."""
    if not math.isfinite(value) or value <= 0:
        return "many more"
    digits = max(0, int(math.log10(value)) - 1)
    return f"{round(value, -digits):,.0f}"
