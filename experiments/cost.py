"""What a defence costs the server in a round, beside what the round costs the clients.

    python experiments/cost.py                    # times, writes the page; on a quiet machine

The game card at q = 0.9. One round's updates of ten clients are received once; then the server's
part of a round is timed again and again, one compiled program a defender: its own training on root
images where rule or observation ask for it, observation and root loss, policy, rule and
post-training defence. Nothing is learned: time does not depend on what a policy knows.
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

from metasg_jax.attacks import honest_plan
from metasg_jax.data import load
from metasg_jax.evaluation.tables import markdown_table, rich_table
from metasg_jax.evaluation.worlds import FINAL
from metasg_jax.fl import local_updates
from metasg_jax.fl.sampling import sample_positions
from metasg_jax.game.make import make_observation, make_post_defense, make_rule
from metasg_jax.learning.state import defender_player, init_state
from metasg_jax.programs.device import enable_compilation_cache


@dataclasses.dataclass(frozen=True)
class Run:
    """What is timed."""

    calls: int = 300
    """Timed calls of each program, in turns; the median is reported."""
    out: Path = Path("docs/results/cost.md")
    """The page."""


def trains(game, owners: jax.Array):
    """Local training of some owners of images, from a model f32[d]."""

    @jax.jit
    def play(key, game, w):
        fl, count = game.fl, owners.shape[0]
        positions = sample_positions(key, game.data.sizes[owners], fl.local_steps, fl.batch_size)
        x, y = game.data.batches(owners, positions)
        shape = game.root_x.shape[1:]
        plan = honest_plan(count, shape, game.model.num_classes, fl.local_lr, fl.local_steps)
        return local_updates(game.model, w, x, y, plan, fl.precision)

    return play


def serves(player):
    """The server's part of a round: what is new to the model, and the deployed copy."""

    @jax.jit
    def play(key, game, state, received):
        key_root, key_policy, key_rule, key_deploy = jax.random.split(key, 4)
        xi = game.prior[0]
        if game.needs_root:
            server = jnp.array([game.data.sizes.shape[0] - 1])
            row = trains(game, server)(key_root, game, received.w_global)
            received = received.replace(root_update=row[0])
        loss = state.loss
        if player is not None:
            loss = game.losses(game.deploy(key_deploy, received.w_global, state.previous_action)[0],
                               xi).clean  # fmt: skip
        root, progress = (game.root_x, game.root_y), state.round / game.fl.horizon
        seen, memory = game.observation(
            game.model, state.memory, received, root, loss, state.previous_action, progress
        )
        action = player.act(key_policy, seen)[0] if player else jnp.zeros((game.action_size,))
        steered = action if game.rule.action_spec else None
        update, _, _ = game.rule(key_rule, state.rule_state, received, steered)
        w = received.w_global - update
        return w, game.deploy(jax.random.clone(key_deploy), w, action)[0], memory

    return play


def main(run: Run) -> None:
    """Times and writes."""
    enable_compilation_cache()
    console = Console(soft_wrap=True)
    base, meta = draw(on_card(level=0.9), load("mnist"), FINAL, 0), CARD.meta
    defenders = {}
    for rule in ("clipped_trimmed_mean", "trusted_trimmed_mean"):
        for observation in ("statistics", "inversion"):
            if observation == "inversion" and rule != "clipped_trimmed_mean":
                continue
            game = base.replace(
                rule=make_rule(rule, base.fl.num_sampled, 0.2, base.model),
                observation=make_observation(observation),
            )
            state = init_state(jax.random.key(0), game, meta)
            name = f"learned, {observation}" + " and trust" * (rule == "trusted_trimmed_mean")
            defenders[name] = game, defender_player(state, game, meta, True)
    for rule, post in STATIC:
        game = base.replace(
            rule=make_rule(rule, base.fl.num_sampled, CARD.game.assumed_share, base.model),
            post_defense=make_post_defense(post),
            observation=make_observation("paper"),
        )
        defenders[rule if post == "none" else f"{rule} + {post}"] = game, None

    timed = {}
    for name, (game, player) in defenders.items():
        state = game.reset(jax.random.key(1), game.prior[0])
        nobody = jnp.zeros((game.attacker_action_size,))
        received, _, state = jax.jit(game.attack)(jax.random.key(2), state, game.prior[0], nobody)
        timed[name] = serves(player), (jax.random.key(3), game, state, received)
    clients = jnp.arange(base.fl.num_sampled)
    w = timed["mean"][1][2].w
    timed["clients' training, ten of them"] = trains(base, clients), (jax.random.key(4), base, w)

    for call, args in timed.values():
        jax.block_until_ready(call(*args))
    seconds = {name: [] for name in timed}
    for _ in range(run.calls):
        for name, (call, args) in timed.items():
            begin = time.perf_counter()
            jax.block_until_ready(call(*args))
            seconds[name].append(time.perf_counter() - begin)
    median = {name: 1e3 * statistics.median(values) for name, values in seconds.items()}
    header = ["what", "ms a round", "times the plain mean"]
    rows = [
        [name, f"{value:.2f}", f"{value / median['mean']:.1f}"]
        for name, value in sorted(median.items(), key=lambda item: item[1])
    ]
    console.print(rich_table("cost of a round", header, rows))
    title, _, about = (__doc__ or "").strip().split("\n\n")
    write_page(
        run.out,
        f"# {title.rstrip('.')}\n\n{' '.join(about.split())}\n\n"
        f"Command: `python experiments/cost.py`; medians of {run.calls} calls on "
        f"{jax.devices()[0].device_kind}.\n\n{markdown_table(header, rows)}\n",
    )
    console.print(f"written to {run.out}")


if __name__ == "__main__":
    main(tyro.cli(Run, description=__doc__))
