"""``metasg matrix`` as a program: a sweep of all defences and attacks, and who is worst off."""

from pathlib import Path

from rich.console import Console

from metasg_jax import __version__, files
from metasg_jax.data import Dataset
from metasg_jax.evaluation import matrix
from metasg_jax.evaluation.plots import heat_map
from metasg_jax.evaluation.tables import markdown_table, rich_table
from metasg_jax.programs.simulate import FIELDS, Plan, write_rows
from metasg_jax.programs.sweep import Run, Sweep, play_sweep, seconds_of_play


def matrix_program(
    plan: Plan, dataset: Dataset, out: Path, console: Console, command: str = "metasg matrix"
) -> matrix.Matrix:
    """Plays every attack against every rule, and writes the tables.

    Args:
        plan: what is played.
        dataset: the images.
        out: directory of the tables; a file a run is in ``runs`` there.
        console: where progress and the table are shown.
        command: what the report says it was made with.

    Raises:
        ConfigError, UnknownNameError, CheckpointError: as ``sweep_program``.
    """
    done = play_sweep(Sweep(plan, {}), dataset, out, console)
    rows = [_row(run, outcome) for run, outcome in done.items()]
    write_rows(out / "matrix.csv", rows, (*FIELDS, "seconds"))
    result = matrix.assemble(plan.attacks, plan.rules, plan.posts, plan.seeds, rows)
    files.write_text(out / "matrix.md", _report(plan, result, seconds_of_play(plan, done), command))
    heat_map(result, out / "matrix.png")
    header, body = matrix.defence_rows(result)
    shown = f"defences by their worst case, {min(20, len(body))} of {len(body)}"
    console.print(rich_table(shown, header, body[:20]))
    console.print(f"matrix.md, matrix.csv and matrix.png are in {out}")
    return result


def _row(run: Run, outcome: dict) -> dict:
    """A line of ``matrix.csv``; what is None there is NaN here."""
    numbers = {name: "nan" if value is None else value for name, value in outcome.items()}
    about = {"attack": run.attack, "rule": run.rule, "post": run.post, "seed": run.seed}
    return about | numbers | {"diverged": int(outcome["diverged"])}


def _report(plan: Plan, result: matrix.Matrix, seconds: float, command: str) -> str:
    game, fl = plan.game, plan.fl
    _, rows = matrix.defence_rows(result)
    rows = [[r, post, f"{w} ± {se}" if se else w, *rest[:3]] for r, post, w, se, *rest in rows]
    rule, post, score, by, *_ = rows[0]
    worst, _ = matrix.worst_case(result)
    parts = [
        f"# Attacks against defences on {game.dataset}\n",
        f"**Of {worst.size} defences `{rule}` with the post-training defence `{post}` has the best "
        f"worst case, {score}, under `{by}`. {(worst > 0.5).sum()} keep more than 0.5 in their "
        f"worst case, {(worst <= 0).sum()} keep nothing: they are at 0 or below.**\n",
        "Score: test accuracy after the last round, minus the attack's success rate where there is "
        "a backdoor. Each rule with the post-training defence that gives it the best worst case, "
        "chosen on these very runs:\n",
        markdown_table(
            ["rule", "post-training", "worst score", "by", "mean score", "clean accuracy"],
            [row for i, row in enumerate(rows) if row[0] not in {each[0] for each in rows[:i]}],
        ),
        "![heat map](matrix.png)\n",
        f"Command: `{command}`, version {__version__}, {seconds:,.0f} s, compiling included. Every "
        "run of every attack, rule, post-training defence and seed is in "
        "[matrix.csv](matrix.csv).\n",
        f"{fl.num_clients} clients, {fl.num_sampled} sampled, {fl.local_steps} local step(s) of "
        f"batch {fl.batch_size}, learning rate {fl.local_lr:g}, partition {game.partition} "
        f"{game.level:g}, {plan.rounds} rounds, {game.model} with hidden widths "
        f"{', '.join(map(str, game.hidden))}, images pooled by {game.pool}, {game.num_root} root "
        f"images. {len(plan.attacks)} attacks, {len(plan.rules)} rules, {len(plan.posts)} "
        f"post-training defences; mean ± standard error over {plan.seeds} seeds, each with its own "
        "splits, partition, model and batches, the same in all cells. Trigger: "
        f"{game.trigger} of size {game.trigger_size} at {game.trigger_position}, target "
        f"{game.target}. A share after @ is of all clients. The rules assume a share of "
        f"{game.assumed_share:g} malicious ones; fields that a name does not set have their "
        f"defaults, those of post-training defences too (`metasg list`). A worst "
        "case is that of this list of attacks: one made for the defence may do worse (`metasg "
        "exploit`).\n",
    ]
    return "\n".join(parts)
