"""``metasg attack`` as a program: an attacker that learns its best response to one defence.

What it leaves is a run like any other: checkpoints of the learner's state, of which ``phi`` and
``normalizer_A`` are the attacker.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from metasg_jax import files
from metasg_jax.config import FLConfig, GameConfig, MetaConfig, RunConfig
from metasg_jax.data import Dataset
from metasg_jax.errors import ConfigError
from metasg_jax.evaluation.attack_suite import FIXED, comparable_attacks
from metasg_jax.evaluation.recorded import play_policy
from metasg_jax.evaluation.statistics import mean_se
from metasg_jax.evaluation.tables import markdown_table, rich_table, with_error
from metasg_jax.evaluation.worlds import FINAL, SELECTION, world
from metasg_jax.evaluation.worst import as_strong
from metasg_jax.game.make import make_game
from metasg_jax.game.rollout import Player
from metasg_jax.game.shapes import of_shared_shape
from metasg_jax.game.types import parse_type
from metasg_jax.learning.search import best_constant
from metasg_jax.learning.state import MetaSGState, attacker_player, defender_player, policies
from metasg_jax.policies import Gaussian
from metasg_jax.programs import run_directory
from metasg_jax.programs.load import load_run, load_state
from metasg_jax.programs.lock import alone
from metasg_jax.programs.pretrain import pretrain_alone
from metasg_jax.types import Key

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
        name: ``rule``, ``rule / post-training defence``, or the directory of a run.
        config: its game, and the learner's settings of the attacker.
        state: of the pre-training run, where the defence is a learned one; its policy stands still.
    """

    name: str
    config: RunConfig
    state: MetaSGState | None = None

    def lead(self, state: MetaSGState, game) -> MetaSGState:
        """The state with this defence's policy: the run's, or one that turns no knob.

        Knobs then stay where the rule's and the post-training defence's own fields have them.
        """
        if self.state is not None:
            return state.replace(theta=self.state.theta, normalizer=self.state.normalizer)
        policy = policies(game, self.config.meta)[0]
        assert isinstance(policy, Gaussian)
        return state.replace(theta=policy.constant(state.theta, own_knobs(game)))


def own_knobs(game) -> jax.Array:
    """The action f32[A] that leaves all knobs where the fields of their rules have them."""
    rule, post = game.rule, game.post_defense
    parts = [
        *getattr(rule, "pre", ()),
        getattr(rule, "rule", rule),
        *getattr(post, "parts", (post,)),
    ]
    knobs = [getattr(part, name) for part in parts for name in part.action_spec]
    return jnp.array(knobs or [0.0], jnp.float32)


def opponent_of(
    defence: str,
    attack: str,
    game: GameConfig,
    fl: FLConfig,
    meta: MetaConfig,
    dataset_of: Callable[[str], Dataset],
) -> Opponent:
    """A defence by its name.

    Args:
        defence: ``rule``, ``rule / post-training defence``, or the directory of a pre-training
            run: its policy, by its mode, in its own game.
        attack: an adaptive type.
        game: of a rule; a run has its own.
        fl: likewise.
        meta: of the attacker; against a run the policies' widths are the run's.
        dataset_of: name -> data set.

    Raises:
        CheckpointError: for a run without a checkpoint.
        ConfigError: where ``attack`` has nothing to learn, or a rule is to be randomized.
    """
    if Path(defence).is_dir():
        config, checkpoints = load_run(Path(defence))
        state = load_state(config, checkpoints, dataset_of(config.game.dataset))
        shape = {name: getattr(config.meta, name) for name in ("hidden", "init_std", "learn_std")}
        meta = check_adaptive(attack, config.fl, meta.replace(**shape))
        game = dataclasses.replace(config.game, types=(attack,), probabilities=())
        name = str(Path(defence)) + " (randomized)" * meta.randomized
        return Opponent(name, RunConfig(game, config.fl, meta), state)
    if meta.randomized:
        raise ConfigError(f"randomized: {defence} is a rule, and has no policy that could sample")
    rule, _, post = (part.strip() for part in defence.partition("/"))
    game = dataclasses.replace(
        game, types=(attack,), rule=rule, post_defense=post or "none", observation="paper"
    )
    name = f"{rule} / {post}" if post else rule
    return Opponent(name, RunConfig(game, fl, check_adaptive(attack, fl, meta)))


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
    num_tries: int = 0,
) -> dict:
    """Learns, judges on fresh worlds, and writes attack.md and attack.json; returns the latter.

    With ``num_tries`` it first tries as many constant actions, and its policy begins at the best.

    The attacker counts (``passed``) if it leaves the defence no better than the strongest of
    :func:`comparable_attacks` does: a weak attacker proves nothing. Without worlds nobody judges
    it, and ``passed`` is None.

    Raises:
        ConfigError: where ``directory`` can't be written to.
        CheckpointError: when resuming from other settings, and where another process writes there.
    """
    config = opponent.config
    about = {
        "against": opponent.name, "attack": config.game.types[0], "seed": config.seed,
        "tries": num_tries, "steps": config.steps,
    }  # fmt: skip
    config.check()
    make_game(config.game, config.fl, dataset)  # refuses bad settings before anything is written
    files.require_writable(directory)
    with alone(directory):
        return _attack_alone(
            opponent, dataset, directory, resume, num_worlds, console, num_tries, about
        )


def _attack_alone(
    opponent: Opponent,
    dataset: Dataset,
    directory: Path,
    resume: bool,
    num_worlds: int,
    console: Console,
    num_tries: int,
    about: dict,
) -> dict:
    """:func:`attack_program` with its directory to itself; ``about`` is what attack.json says."""
    config = opponent.config
    run_directory.begin(directory / "attack.json", about, resume, free=("steps",))

    def prepare(state: MetaSGState, game) -> MetaSGState:
        state = opponent.lead(state, game)
        return begin_at_best(state, game, config, num_tries, console) if num_tries else state

    state = pretrain_alone(config, dataset, directory, resume, console, prepare)
    result = about | {"worlds": num_worlds, "passed": None}
    if num_worlds:
        title = f"{about['attack']} against {opponent.name}"
        result |= report(state, config, dataset, num_worlds, title, directory, console)
    files.write_json(directory / "attack.json", result)
    return result


def report(
    state: MetaSGState,
    config: RunConfig,
    dataset: Dataset,
    num_worlds: int,
    title: str,
    directory: Path,
    console: Console,
) -> dict:
    """The attacker beside the zoo, as a table on the console and in attack.md, and the verdict."""
    attack = config.game.types[0]
    names = ("none", attack, *comparable_attacks(attack, config.fl.num_clients, FIXED))
    metrics = judge(state, config, dataset, range(num_worlds), names)
    rows = []
    for k, name in enumerate(names):
        cells = [with_error(*mean_se(metrics[q][:, k])) for q in metrics]
        rows.append([name, *cells])
    header = ["attack", *metrics]
    scores = metrics["score"].mean(axis=0)
    best = min(range(2, len(names)), key=lambda k: scores[k], default=None)
    score = float(scores[1])
    found = {"score": score, "strongest fixed attack": None, "its score": None, "passed": False}
    verdict = "no fixed attack to compare it with"
    if best is not None:
        other = float(scores[best])
        passed = as_strong(metrics["score"][:, 1], metrics["score"][:, best])
        found |= {"strongest fixed attack": names[best], "its score": other, "passed": passed}
        verdict = (
            f"gate {'passed' if passed else 'FAILED'}: {score:.3f} against {other:.3f} of "
            f"{names[best]}, the strongest fixed attack"
        )
    console.print(rich_table(title, header, rows))
    console.print(verdict)
    text = f"# {title}\n\nMean ± standard error over {num_worlds} worlds.\n\n"
    files.write_text(directory / "attack.md", f"{text}{markdown_table(header, rows)}\n{verdict}\n")
    return found


def begin_at_best(
    state: MetaSGState, game, config: RunConfig, num_tries: int, console: Console
) -> MetaSGState:
    """The state with the attacker's policy at the best of ``num_tries`` constant actions."""
    # far from the numbers of the learner's own keys: splitting folds in small ones
    key = jax.random.fold_in(jax.random.key(config.seed), 1_000_003)
    defender = defender_player(state, game, config.meta, not config.meta.randomized)
    action, earned = best_constant(key, game, jnp.int32(0), defender, num_tries)
    knobs = ", ".join(f"{value:g}" for value in np.asarray(action).tolist())
    console.print(
        f"best of {num_tries} constant actions: {knobs}, which earns {earned:.3f} a round"
    )
    policy = policies(game, config.meta)[1]
    assert isinstance(policy, Gaussian)
    phi = jax.vmap(lambda params: policy.constant(params, action, 0.95))(state.phi)
    return state.replace(phi=phi)


def judge(
    state: MetaSGState,
    config: RunConfig,
    dataset: Dataset,
    worlds: Sequence[int],
    names: tuple[str, ...],
    stream: int = FINAL,
) -> dict[str, np.ndarray]:
    """Attacks against the defence on fresh worlds; those that learn play the state's first phi.

    Everybody plays the mode of its policy, but for a defender that ``config.meta.randomized`` has
    sample its actions. What is chosen is chosen by validation images: those
    judge in selection worlds, test images in final ones.

    Args:
        state: of the defence, and of the attacker.
        config: their settings.
        dataset: its images.
        worlds: numbers in the stream.
        names: K types. A score depends a little on this company: random numbers are drawn for the
            longest second pass among them.
        stream: ``SELECTION`` or ``FINAL``.

    Returns:
        f64[S, K] by ``score``, ``accuracy``, ``asr``.
    """
    split = "validation" if stream == SELECTION else "test"
    rows = []
    for s in worlds:
        key, game, defender, attackers = evaluation_world(state, config, dataset, s, names, stream)
        rows.append(play_policy(key, game, defender, attackers, split).metrics)
    return {
        name: np.stack([np.asarray(getattr(row, name), np.float64) for row in rows])
        for name in ("score", "accuracy", "asr")
    }


def evaluation_world(
    state: MetaSGState, config: RunConfig, dataset: Dataset, s: int, names: tuple[str, ...], stream
) -> tuple[Key, Any, Player, Player]:
    """One world of :func:`judge`: (key, game, defender, attackers stacked over the types)."""
    judged = dataclasses.replace(config, game=dataclasses.replace(config.game, types=names))
    game = of_shared_shape(world(judged, dataset, s, stream))
    defender = defender_player(state, game, config.meta, not config.meta.randomized)
    attacker = attacker_player(state, game, config.meta, 0, True)
    phi = jax.tree.map(lambda a: jnp.broadcast_to(a, (len(names), *a.shape)), attacker.params)
    key = jax.random.fold_in(jax.random.key(s), stream)
    return key, game, defender, attacker.replace(params=phi)
