"""The server that ignores its clients: the card's model, trained on the root images alone.

    python experiments/root_only.py    # writes docs/results/root_only.md, minutes

The control of every defence on the game card that is easiest to forget. The same model (an MLP
196-64-10) is trained on nothing but the server's root images, whole batches, Adam at 0.003, for 500
steps, and judged as all defences are: on the test images of the final worlds, accuracy minus the
success of the type's trigger, which a model that no client has touched shows by chance only. No
attacker reaches it, so that its score hardly depends on the type or on q.
"""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from pages import opening, write_page
from rich.console import Console
from study.program import commit
from study.settings import CARD, on_card

from metasg_jax.data import load
from metasg_jax.evaluation.episodes import held_out
from metasg_jax.evaluation.metrics import measure_deployed
from metasg_jax.evaluation.statistics import t_interval
from metasg_jax.evaluation.tables import markdown_table, with_error
from metasg_jax.evaluation.worlds import FINAL, world
from metasg_jax.post_defenses import undefended
from metasg_jax.post_defenses.root import cross_entropy


@dataclasses.dataclass(frozen=True)
class Run:
    """What is run."""

    sizes: tuple[int, ...] = (20, 50, 100, 200, 500)
    """Root images; the card has 200."""
    worlds: int = 6
    """Final worlds."""
    steps: int = 500
    """Of the training."""
    out: Path = Path("docs/results/root_only.md")
    """Where the table goes."""


def main() -> None:
    """The whole command."""
    run, console = tyro.cli(Run, description=__doc__), Console(soft_wrap=True)
    dataset, rows = load(CARD.game.dataset), []
    for size in run.sizes:
        config = on_card(level=0.9, num_root=size).config
        found = np.stack([
            np.asarray(judged(jax.random.key(s), world(config, dataset, s, FINAL), run.steps))
            for s in range(run.worlds)
        ])  # fmt: skip
        score, accuracy, asr = np.nanmean(found, axis=1).T
        rows.append([f"{size}", *(with_error(*t_interval(v)) for v in (score, accuracy, asr))])
        console.print(f"{size} root images: {rows[-1][1]}")
    header = ["root images", "score over the card's types", "accuracy", "attack success"]
    text = [
        *opening(__doc__, f". Written at commit {commit()}."),
        f"95 % intervals over {run.worlds} final worlds.\n",
        markdown_table(header, rows),
    ]
    write_page(run.out, "\n".join(text) + "\n")


@functools.partial(jax.jit, static_argnames="steps")
def judged(key, game, steps: int) -> jax.Array:
    """(score, accuracy, attack success) f32[K, 3] of the model by type."""
    deployed = undefended(game.model, trained(key, game, steps))
    images, labels = held_out(game, "test")

    def against(i):
        found = measure_deployed(
            game.model, deployed, images, labels, game.prior[i], jnp.bool_(False)
        )
        score = jnp.where(jnp.isnan(found.asr), found.accuracy, found.score)
        return jnp.stack([score, found.accuracy, found.asr])

    return jax.lax.map(against, jnp.arange(len(game.prior), dtype=jnp.int32))


def trained(key, game, steps: int):
    """The parameters of a fresh model after so many steps on the root images."""
    optimizer = optax.adam(0.003)
    params = game.model.init(key)

    def step(carry, _):
        params, state = carry
        gradient = jax.grad(
            lambda p: cross_entropy(game.model, undefended(game.model, p), game.root_x, game.root_y)
        )(params)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, optimizer.init(params)), length=steps)[0][0]


if __name__ == "__main__":
    main()
