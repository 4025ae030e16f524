"""The worst case: attackers who know the defence, see the round and look through its decision.

``python experiments/worst_case.py blend-0.5 gradient-0.5 .. --defender v1`` plays studies (all by
default) and writes ``docs/results/worst_case/STUDY.json``; who is there is not played again;
``--page`` makes the page of what is there. What is played is registered here, before its worlds are
opened: final worlds 300 and on, which no other page uses.
"""

import argparse
import dataclasses
from pathlib import Path

import jax
from trust import federation, keep_playing, play

from metasg_jax.config import RunConfig
from metasg_jax.data import load
from metasg_jax.evaluation.contestants import parse_contestant
from metasg_jax.game.types import make_prior, parse_type
from metasg_jax.programs.device import enable_compilation_cache
from metasg_jax.responders import Knowledge, make_responder

OUT = Path("docs/results/worst_case")
FIRST = 300
LEVELS = (0.1, 0.5, 0.9)

BLENDS = (
    "none", "blended_bfl@0.2", "blended_bfl:fraction=0.25@0.2", "blended_bfl@0.2@50",
    "blended_ipm@0.2",
)  # fmt: skip
"""The fourth is honest for 50 rounds first."""
LEARNED = ("brl:noise=1@0.2", "rl:noise=1@0.2")
ZOO = ("none", "ipm:scale=5@0.2", "lmp:z=2@0.2", "bfl@0.2", "bfl:boost=5@0.05", "pgd@0.2")
DEFENDERS = [
    "v3", "v1", "v3 / fine_tune", "v1 / fine_tune", "v3 / threshold=0.9 / fine_tune",
    "v1 / threshold=0.98 / fine_tune", "v3 / trim=0.3 / fine_tune",
]  # fmt: skip
"""``v1`` has not met attackers who respond; with a threshold they keep whom they are sure of. The
trim was chosen on selection worlds 0 to 2 at q = 0.5, of 0.25, 0.31 and none."""
RULES = (
    "root_only", "median / fine_tune", "clipped_median / fine_tune", "trimmed_mean / fine_tune",
    "multi_krum / fine_tune", "fltrust / fine_tune", "median / warm / fine_tune",
    "fltrust / warm / fine_tune",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Study:
    """What is played.

    Attributes:
        config: the federation, with the attackers' types.
        attacker: how they use what they know: a responder's name, or ``none``.
        surrogate: whether they look through another defender, because they lack its weights.
        drawn: whether they choose of actions drawn at random, not of mixtures.
        worlds: final worlds.
        rules: whether static rules stand beside it.
    """

    config: RunConfig
    attacker: str
    surrogate: bool = False
    drawn: bool = False
    worlds: int = 10
    rules: bool = False


STUDIES = {
    **{f"blend-{q}": Study(federation(q, BLENDS), "looking", rules=True) for q in LEVELS},
    **{f"zoo-{q}": Study(federation(q, ZOO), "none", rules=True) for q in LEVELS},
    **{f"kept-{q}": Study(federation(q, BLENDS), "looking / kept") for q in LEVELS},
    **{f"sleepers-{q}": Study(federation(q, BLENDS[:3]), "looking / sleepers") for q in LEVELS},
    **{
        f"learned-{q}": Study(federation(q, LEARNED), "looking", drawn=True, worlds=4)
        for q in LEVELS
    },
    **{f"gradient-{q}": Study(federation(q, BLENDS[:2]), "gradient", worlds=2) for q in LEVELS},
    **{
        f"without-{what}-{q}": Study(
            federation(q, BLENDS[:3]), attacker, what == "weights", worlds=4
        )
        for what, attacker in (
            ("weights", "looking"), ("rows", "looking / no_rows"), ("root", "looking / no_root"),
        )
        for q in (0.1, 0.5)
    },
}  # fmt: skip


def responder_of(study: Study, surrogate: str):
    """The attackers of a study.

    Args:
        study: it.
        surrogate: a defender that those take for the true one who do not know its weights.
    """
    size = action_size(study.config)
    looking = make_responder(study.attacker, size)
    if study.surrogate:
        player = parse_contestant(surrogate, study.config.fl.num_sampled).player
        looking = looking.replace(knows=Knowledge(weights=player))
    if study.drawn:
        drawn = jax.random.uniform(jax.random.key(0), (16, size), minval=-1.0, maxval=1.0)
        looking = looking.replace(actions=drawn)
    return looking


def action_size(config: RunConfig) -> int:
    """A of the attackers of these types."""
    specs = [parse_type(text, config.fl.num_clients) for text in config.game.types]
    blank = jax.numpy.zeros((4, 4, 1))
    return make_prior(specs, (blank, blank), 0).action_size


def main() -> None:
    """Plays what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("studies", nargs="*", default=list(STUDIES))
    parser.add_argument("--defender", nargs="*", default=DEFENDERS, help="names or directories")
    parser.add_argument("--surrogate", default="v1", help="for attackers without the weights")
    parser.add_argument("--no-rules", action="store_true", help="leave static rules out")
    parser.add_argument("--page", action="store_true")
    args = parser.parse_args()
    if args.page:
        from worst_case_page import write_page

        write_page(OUT, STUDIES)
        return
    enable_compilation_cache()
    OUT.mkdir(parents=True, exist_ok=True)
    for name in args.studies:
        study = STUDIES[name]
        keep_playing(OUT / f"{name}.json", lambda found, s=study: play_study(s, args, found))


def play_study(study: Study, args: argparse.Namespace, found: dict) -> dict:
    """JSON of a study; who stands in ``found`` is not played again."""
    rules = RULES if study.rules and not args.no_rules else ()
    return play(
        study.config, load(study.config.game.dataset), [*args.defender, "told", *rules],
        range(FIRST, FIRST + study.worlds), found, responder_of(study, args.surrogate),
    )  # fmt: skip


if __name__ == "__main__":
    main()
