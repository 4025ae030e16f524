"""``metasg attack`` as a program: an attacker that learns its best response to one defence.

What it leaves is a run like any other: checkpoints of the learner's state, of which ``phi`` and
``normalizer_A`` are the attacker.
"""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from metasg_jax.attacks import BACKDOOR
from metasg_jax.config import FLConfig, GameConfig, MetaConfig, RunConfig
from metasg_jax.data import Dataset
from metasg_jax.errors import ConfigError
from metasg_jax.evaluation.schedules import play_policy
from metasg_jax.evaluation.statistics import mean_se
from metasg_jax.evaluation.tables import markdown_table, rich_table
from metasg_jax.evaluation.worlds import FINAL, of_one_shape, world
from metasg_jax.game.types import parse_type
from metasg_jax.learning.state import MetaSGState, attacker_player, defender_player
from metasg_jax.program import load_run, load_state, pretrain_program
from metasg_jax.zoo import ATTACKS

LEARNER = MetaConfig(
    algorithm="best_response",
    group_size=4,
    rollouts_at_once=-1,
    attacker_steps=1,
    epochs=4,
    ratio_clip=0.2,
    estimator="future_gain",
    discount=0.95,
    normalize_advantages=True,
    optimizer="adam",
    attacker_lr=0.03,
    hidden=(32,),
)
"""One batch of four episodes under common random numbers, four clipped steps of Adam on it."""


@dataclasses.dataclass(frozen=True)
class Opponent:
    """A defence that an attacker learns to respond to.

    Attributes:
        config: its game, and the learner's settings of the attacker.
        state: of the pre-training run, where the defence is a learned one; its policy stands still.
    """

    config: RunConfig
    state: MetaSGState | None = None


def fixed_opponent(
    rule: str, post_defense: str, attack: str, game: GameConfig, fl: FLConfig, meta: MetaConfig
) -> Opponent:
    """A rule with a post-training defence, which nobody steers.

    Raises:
        ConfigError: where ``attack`` has nothing to learn.
    """
    game = dataclasses.replace(
        game, types=(attack,), rule=rule, post_defense=post_defense, observation="paper"
    )
    return Opponent(RunConfig(game, fl, check_adaptive(attack, fl, meta)))


def learned_opponent(run: Path, attack: str, meta: MetaConfig, dataset_of) -> Opponent:
    """The policy of a pre-training run, by its mode.

    Args:
        run: directory of the run; its game is played.
        attack: an adaptive type.
        meta: of the attacker; the policies' widths are the run's.
        dataset_of: name -> data set.

    Raises:
        CheckpointError: where there is no checkpoint.
        ConfigError: where ``attack`` has nothing to learn.
    """
    config, checkpoints = load_run(run)
    state = load_state(config, checkpoints, dataset_of(config.game.dataset))
    shape = {name: getattr(config.meta, name) for name in ("hidden", "init_std", "learn_std")}
    meta = check_adaptive(attack, config.fl, meta.replace(**shape))
    game = dataclasses.replace(config.game, types=(attack,), probabilities=())
    return Opponent(RunConfig(game, config.fl, meta), state)


def check_adaptive(attack: str, fl: FLConfig, meta: MetaConfig) -> MetaConfig:
    """Returns ``meta`` if ``attack`` has knobs to turn.

    Raises:
        ConfigError: where it has none.
    """
    if not parse_type(attack, fl.num_clients).adaptive:
        raise ConfigError(f"attack = {attack!r}: has no knobs to learn; use rl@0.2 or brl@0.05")
    return meta


def attack_program(
    opponent: Opponent,
    dataset: Dataset,
    directory: Path,
    resume: bool,
    num_worlds: int,
    console: Console,
) -> dict:
    """Learns, judges on fresh worlds, and writes attack.md and attack.json; returns the latter.

    The attacker counts (``passed``) if it leaves the defence no better than the strongest fixed
    attack of the zoo at the same share does: a weak attacker proves nothing.

    Raises:
        CheckpointError: when resuming from other settings.
    """
    state = pretrain_program(
        opponent.config, dataset, directory, resume, console, leader=opponent.state
    )
    config = opponent.config
    attack = config.game.types[0]
    everybody = ("none", attack, *rivals(attack, config.fl.num_clients))
    names, metrics = judge(state, config, dataset, num_worlds, everybody)
    rows = []
    for k, name in enumerate(names):
        cells = [_with_error(*mean_se(metrics[q][:, k])) for q in metrics]
        rows.append([name, *cells])
    header = ["attack", *metrics]
    scores = metrics["score"].mean(axis=0)
    others = [k for k, name in enumerate(names) if name not in ("none", attack)]
    best = min(others, key=lambda k: scores[k]) if others else None
    score = float(scores[names.index(attack)])
    result = {
        "against": f"{config.game.rule} / {config.game.post_defense}",
        "attack": attack,
        "score": score,
        "strongest fixed attack": None if best is None else names[best],
        "its score": None if best is None else float(scores[best]),
        "passed": best is not None and score <= float(scores[best]),
        "worlds": num_worlds,
    }
    verdict = (
        "no fixed attack to compare it with"
        if best is None
        else f"gate {'passed' if result['passed'] else 'FAILED'}: {score:.3f} against "
        f"{scores[best]:.3f} of {names[best]}, the strongest fixed attack"
    )
    title = f"{attack} against {result['against']}"
    console.print(rich_table(title, header, rows))
    console.print(verdict)
    text = f"# {title}\n\nMean ± standard error over {num_worlds} worlds.\n\n"
    (directory / "attack.md").write_text(f"{text}{markdown_table(header, rows)}\n{verdict}\n")
    (directory / "attack.json").write_text(json.dumps(result, indent=1) + "\n")
    return result


def _with_error(mean, error) -> str:
    return "" if np.isnan(mean) else f"{mean:.3f} ± {error:.3f}"


def rivals(attack: str, num_clients: int) -> tuple[str, ...]:
    """The zoo's fixed attacks of the same kind at the same share; none for a mixed type.

    Example:
        >>> rivals("brl@0.05", 100)[:2]
        ('bfl@0.05', 'bfl:replace_model=1@0.05')
    """
    if "+" in attack:
        return ()
    share = attack.rpartition("@")[2]
    backdoor = parse_type(attack, num_clients).num_backdoor > 0
    found = []
    for text in ATTACKS:
        name = text.partition("@")[0]
        if "+" in text or name == "none" or (name.partition(":")[0] in BACKDOOR) != backdoor:
            continue
        found.append(f"{name}@{share}")
    return tuple(dict.fromkeys(found))


def judge(
    state: MetaSGState,
    config: RunConfig,
    dataset: Dataset,
    num_worlds: int,
    names: tuple[str, ...],
) -> tuple[list[str], dict[str, np.ndarray]]:
    """Attacks against the defence on fresh worlds; those that learn play the state's first phi.

    Returns:
        (names of the attacks, f64[S, K] by ``score``, ``accuracy``, ``asr``).
    """
    judged = dataclasses.replace(config, game=dataclasses.replace(config.game, types=names))
    games = of_one_shape([world(judged, dataset, s, FINAL) for s in range(num_worlds)])
    rows = []
    for s, game in enumerate(games):
        defender = defender_player(state, game, config.meta, True)
        attacker = attacker_player(state, game, config.meta, 0)
        phi = jax.tree.map(lambda a: jnp.broadcast_to(a, (len(names), *a.shape)), attacker.params)
        attackers = attacker.replace(params=phi)
        rows.append(play_policy(jax.random.key(s), game, defender, attackers).metrics)
    found = {
        name: np.stack([np.asarray(getattr(row, name), np.float64) for row in rows])
        for name in ("score", "accuracy", "asr")
    }
    return list(names), found
