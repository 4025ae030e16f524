"""A certificate to read: tables on the terminal and in certify.md, and a plot."""

import math
from pathlib import Path

from rich.console import Console

from metasg_jax.config import MetaConfig, RunConfig
from metasg_jax.evaluation.plots import residual_course
from metasg_jax.evaluation.tables import markdown_table, rich_table
from metasg_jax.files import write_text
from metasg_jax.learning.sampled_gradients import rollouts_per_batch
from metasg_jax.programs.certify.measure import Budget
from metasg_jax.programs.certify.rows import PRIOR, Row, number, pick


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
    write_text(directory / "certify.md", "\n".join(parts))
    residual_course(
        {
            (kind, quantity): [r for r in rows if (r.type, r.quantity) == (kind, quantity)]
            for kind, quantity in norm_keys(game)
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
        return pick([r for r in rows if r.step == step], kind, quantity)

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
                    *(number(get[what]) for what in ("c", "d", "rms")),
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


def norm_keys(game) -> list[tuple[str, str]]:
    """(type, quantity) of all norms of Definition 4.1, as rows have them."""
    players = [(PRIOR, "defender"), *((name, "defender") for name in game.prior.names)]
    responding = zip(game.prior.names, game.prior.adaptive, strict=True)
    players += [(name, "attacker") for name, responds in responding if responds]
    return [(kind, player + fixed) for kind, player in players for fixed in ("", " fixed")]


def _step_size(row: Row, bound: float = math.nan) -> str:
    """At most 1 / L; above 1 / bound, where L is only known to lie below that at these points."""
    if math.isinf(row.estimate):
        return f"above {1 / bound:.2g}" if bound > 0 else "unknown"
    return f"at most {row.estimate:.2g}"
