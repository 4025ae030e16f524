"""What a defence costs the server in a round: observation, policy, rule, post-training defence.

    python experiments/cost.py                    # times, writes the page; on a quiet machine

The game card at q = 0.9. One round's updates of ten clients are received once; then the server's
part of a round is timed again and again, one compiled program a defender, and beside it the
clients' part. Nothing is trained: time does not depend on what a policy has learned.
"""

import dataclasses
import statistics
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import tyro
from pages import write_page
from rich.console import Console
from study.settings import CARD, STATIC, on_card
from study.stages import draw

from metasg_jax.data import load
from metasg_jax.evaluation.tables import markdown_table, rich_table
from metasg_jax.evaluation.worlds import FINAL
from metasg_jax.game.make import make_observation, make_post_defense, make_rule
from metasg_jax.learning.state import attacker_player, defender_player, init_state
from metasg_jax.program import enable_compilation_cache


@dataclasses.dataclass(frozen=True)
class Run:
    """What is timed."""

    calls: int = 300
    """Timed calls of each program, in turns; the median is reported."""
    out: Path = Path("docs/results/cost.md")
    """The page."""


def clients(game, attacker):
    """The clients' part of a round, with none of the server's observation."""

    @jax.jit
    def play(key, game, state):
        received, _, _ = game.attack(key, state, game.prior[0], attacker)
        return received

    return play


def server(game, player):
    """The server's part of a round: what is new to the model, and the deployed copy."""

    @jax.jit
    def play(key, game, state, received):
        root = (game.root_x, game.root_y)
        seen, memory = game.observation(
            game.model, state.memory, received, root, state.loss, state.previous_action,
            state.round / game.fl.horizon,
        )  # fmt: skip
        key_policy, key_rule, key_deploy = jax.random.split(key, 3)
        action = player.act(key_policy, seen)[0] if player else jnp.zeros((game.action_size,))
        steered = action if game.rule.action_spec else None
        update, _, _ = game.rule(key_rule, state.rule_state, received, steered)
        w = received.w_global - update
        return w, game.deploy(key_deploy, w, action)[0], memory

    return play


def main(run: Run) -> None:
    """Times and writes."""
    enable_compilation_cache()
    console = Console(soft_wrap=True)
    base = draw(on_card(level=0.9), load("mnist"), FINAL, 0)
    meta = CARD.meta
    blank = init_state(jax.random.key(0), base, meta)
    attacker = attacker_player(blank, base, meta, 0)
    action = jnp.zeros((base.attacker_action_size,))
    del attacker

    programs = {}
    for observation in ("statistics", "statistics:decay=0", "inversion"):
        game = base.replace(observation=make_observation(observation))
        state = init_state(jax.random.key(0), game, meta)
        programs[f"learned, {observation}"] = game, defender_player(state, game, meta, True)
    for rule, post in STATIC:
        n, share = base.fl.num_sampled, CARD.game.assumed_share
        game = base.replace(
            rule=make_rule(rule, n, share, base.model),
            post_defense=make_post_defense(post),
            observation=make_observation("paper"),
        )
        programs[rule if post == "none" else f"{rule} + {post}"] = game, None

    timed = {}
    for name, (game, player) in programs.items():
        state = game.reset(jax.random.key(1), game.prior[0])
        received, _, state = jax.jit(game.attack)(jax.random.key(2), state, game.prior[0], action)
        timed[name] = server(game, player), (jax.random.key(3), game, state, received)
    game = programs["mean"][0]
    state = game.reset(jax.random.key(1), game.prior[0])
    timed["clients' training (10, one step)"] = clients(game, action), (
        jax.random.key(4), game, state
    )  # fmt: skip

    for call, args in timed.values():
        jax.block_until_ready(call(*args))
    seconds = {name: [] for name in timed}
    for _ in range(run.calls):
        for name, (call, args) in timed.items():
            begin = time.perf_counter()
            jax.block_until_ready(call(*args))
            seconds[name].append(time.perf_counter() - begin)
    median = {name: 1e3 * statistics.median(values) for name, values in seconds.items()}
    floor = median["mean"]
    header = ["what", "ms a round", "times the mean"]
    rows = [
        [name, f"{value:.2f}", f"{value / floor:.1f}"]
        for name, value in sorted(median.items(), key=lambda item: item[1])
    ]
    console.print(rich_table("cost of a round", header, rows))
    title, _, about = (__doc__ or "").strip().split("\n\n")
    write_page(
        run.out,
        f"# {title}\n\n{' '.join(about.split())}\n\nCommand: `python experiments/cost.py`; medians "
        f"of {run.calls} calls on {jax.devices()[0].device_kind}.\n\n"
        f"{markdown_table(header, rows)}\n",
    )
    console.print(f"written to {run.out}")


if __name__ == "__main__":
    main(tyro.cli(Run, description=__doc__))
