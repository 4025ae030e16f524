"""Strict competitiveness, violated by a dial: the weight of the backdoor in the defender's reward.

    python experiments/competition.py                 # trains, plays, writes the page; resumable
    python experiments/competition.py --stage report  # tables and figures of what has been played

The theory asks that a defender's gain be an attacker's loss. The dial w is the weight of the
backdoor's success in the reward -F - w success: at 0 (the paper's reward as printed) a defender is
indifferent to what a backdoor's attacker wants, at 1 it is the card's. The game card at q = 0.9,
100,800 FL rounds a defender, three training seeds; all are judged by the same score, accuracy -
attack success.

How far the two rewards are from the theory's line r_D = c r_A + d is fitted to rounds of the
centred action against each type, in which a malicious client was sampled. Where attackers respond,
the same dial is turned in closed form on the page about complexity.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from study.program import main
from study.report import Outcomes, interval, pm
from study.settings import CARD, DIAL, SEEDS, WEIGHTS, Study, on_card
from study.stages import nobody

from metasg_jax.data import load
from metasg_jax.evaluation.tables import markdown_table
from metasg_jax.evaluation.worlds import FINAL, world
from metasg_jax.game.rollout import Player, init_normalizer, rollout_groups
from metasg_jax.game.shapes import of_shared_shape
from metasg_jax.learning.assumptions import fit_competition
from metasg_jax.policies import Fixed

STUDIES = {
    "competition": Study(
        "Four weights",
        ("bse", *DIAL),
        on_card(level=0.9),
        training_seeds=SEEDS[:3],
        selection_worlds=0,
        grid=(6, 4, 4),
        static=(("mean", "none"), ("fltrust", "none")),
    )
}
CARD_AT_09 = on_card(level=0.9).config
BY_WEIGHT = {1.0: "bse", **{weight: f"weight-{weight:g}" for weight in WEIGHTS}}


def along_the_dial(outcomes: dict[str, Outcomes], folder: Path) -> str:
    """What each weight earns, by kind of attacker, and how far its game is from zero-sum."""
    each = outcomes["competition"]
    kinds = {
        "untargeted": [k for k, n in enumerate(each.names) if "bfl" not in n and n != "none"],
        "backdoor": [k for k, n in enumerate(each.names) if "bfl" in n],
    }
    rows = []
    for weight in sorted(BY_WEIGHT):
        values = each.by_name[f"learned, {BY_WEIGHT[weight]}"]
        gain = (values - each.by_name["learned, bse"])[..., 0].mean(axis=2)
        rows.append([
            f"{weight:g}", f"{values[..., 0].mean():.3f}",
            "" if weight == 1 else pm(interval(gain)),
            *(f"{values[..., chosen, 0].mean():.3f}" for chosen in kinds.values()),
            f"{values[..., kinds['backdoor'], 1].mean():.3f}",
            f"{values[..., kinds['backdoor'], 2].mean():.3f}",
        ])  # fmt: skip
    header = ["w", "score", "minus w = 1", "untargeted", "backdoors", "their accuracy",
              "their success"]  # fmt: skip
    return f"## Along the dial\n\n{markdown_table(header, rows)}\n{distance(each.names)}"


def distance(names: list[str]) -> str:
    """How far each game is from r_D = c r_A + d, by type."""
    game = of_shared_shape(world(CARD_AT_09, load(CARD.game.dataset), 0, FINAL))
    rewards = jax.jit(rewards_of)
    rows = []
    for i, name in enumerate(names):
        if name == "none":
            continue
        row = [name]
        for weight in sorted(BY_WEIGHT):
            r_d, r_a, malicious = map(np.asarray, rewards(game, jnp.int32(i), weight))
            fit = fit_competition(r_d[malicious], r_a[malicious])
            row.append(f"{fit.c:+.2f}, {fit.unexplained:.0%}")
        rows.append(row)
    header = ["type", *(f"w = {weight:g}" for weight in sorted(BY_WEIGHT))]
    return (
        "## How far from strict competitiveness\n\nSlope c of the line, and the share of the "
        f"defender's reward that it leaves unexplained.\n\n{markdown_table(header, rows)}"
    )


def rewards_of(game, i, weight):
    """(r_D, r_A, whether a malicious client was sampled) of eight episodes, the knobs centred."""
    game = game.replace(backdoor_weight=weight)
    centre = Player(
        jnp.zeros((game.action_size,)), init_normalizer(game.observation_spec),
        Fixed(game.action_size),
    )  # fmt: skip
    attacker = nobody(game).of(i)
    played = rollout_groups(jax.random.key(0), game, game.prior[i], centre, attacker, 8, 1)
    return played.defender.reward, played.attacker.reward, played.info["malicious"] > 0


if __name__ == "__main__":
    main("competition", STUDIES, __doc__, along_the_dial)
