"""Who may be judged, and how one is named: a defender, a filter that is told, a rule, a constant.

::

    v3                          a shipped defender, or the directory of one or of a run
    v3 / shuffled               its decisions, dealt to the round's clients at random
    v3 / threshold=0.9          it keeps whom it believes more than so
    v3 / trim=0.3               and drops so much of these at each side, at least
    untrained                   the same network with the weights it begins with
    told                        the perfect filter: it is told who is malicious
    root_only                   the model trained on the server's images alone
    constant:clip=0,trim=-0.5   trusts everybody; knobs of client_trust that stand still
    median                      any rule, [pre-aggregator+..]rule[:field=value,..]
    median / fine_tune          with a post-training defence
    median / warm               started from the root-only model
    median / lr=2               with this factor on the aggregated update

Options may be combined: ``clipping:max_norm=0.5+median / warm / lr=2 / fine_tune``.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from metasg_jax.aggregators import ClientTrust
from metasg_jax.aggregators.client_trust import knob_of_clip
from metasg_jax.defender.files import find, read_defender, shipped
from metasg_jax.errors import ConfigError
from metasg_jax.features.view import view_spec
from metasg_jax.game.make import check_rule, make_post_defense, make_rule
from metasg_jax.game.rollout import Player, init_normalizer
from metasg_jax.learning.state import KNOBS
from metasg_jax.policies import SetPolicy
from metasg_jax.post_defenses import POST_DEFENSES
from metasg_jax.registry import number, parse_variant

PERFECT_CLIP = 1.5
"""Rows of the perfect filter are clipped at this many times the median norm of those it keeps."""


@dataclasses.dataclass(frozen=True)
class Contestant:
    """Somebody to be judged.

    Attributes:
        name: of the row.
        kind: ``policy``, ``shuffled``, ``told``, ``constant``, ``root_only`` or ``rule``.
        player: of a policy; of a rule, who turns its knobs round by round.
        played: names the player; those of one name share a run.
        knobs: clip, trim and own in [-1, 1] that stand still; NaN where the policy turns them.
        rule: its string, or the rule itself.
        observation: what a rule's player sees; ``paper`` costs nothing where nobody looks.
        post: the post-training defence.
        warm: whether it starts from the root-only model.
        server_lr: factor on the aggregated update.
    """

    name: str
    kind: str
    player: Player | None = None
    played: str = ""
    knobs: tuple[float, float, float] = (float("nan"),) * 3
    rule: Any = ""
    observation: str = "paper"
    post: str = "none"
    warm: bool = False
    server_lr: float = 1.0


def parse_contestant(text: str, num_sampled: int) -> Contestant:
    """Reads a contestant as the module says.

    Raises:
        UnknownNameError: for a rule or a post-training defence that is not registered.
        ConfigError: for an option that is none, or numbers out of range.
        CheckpointError: for a directory without a defender.

    Example:
        >>> parse_contestant("median / warm / fine_tune", 10).post
        'fine_tune'
    """
    head, *options = (part.strip() for part in text.split(" / "))
    post, warm, server_lr, kind = "none", False, 1.0, "policy"
    stricter: dict[str, float] = {}
    for option in options:
        if option == "warm":
            warm = True
        elif option == "shuffled":
            kind = "shuffled"
        elif option.startswith(("threshold=", "trim=")):
            field, _, value = option.partition("=")
            stricter[field] = number(value, f"contestant {text!r}: {field}")
        elif option.startswith("lr="):
            server_lr = number(option[3:], f"contestant {text!r}: lr")
            if not 0 < server_lr < np.inf:
                raise ConfigError(f"contestant {text!r}: lr = {server_lr:g}: above 0 and finite")
        elif option.split("+")[0].partition(":")[0] in POST_DEFENSES:
            make_post_defense(option)  # raises
            post = option
        else:
            raise ConfigError(
                f"contestant {text!r}: option {option!r}: warm, shuffled, lr=NUMBER, "
                f"threshold=NUMBER, trim=NUMBER or a post-training defence of "
                f"{', '.join(POST_DEFENSES)}"
            )
    rest = dict(post=post, warm=warm, server_lr=server_lr)
    name = head.partition(":")[0]
    decides = head in shipped() or Path(head).is_dir()
    if stricter and not decides:
        asked = " and ".join(stricter)
        raise ConfigError(f"contestant {text!r}: {asked} is for those that decide about clients")
    if name == "told":
        return Contestant(text, "told", knobs=(knob_of_clip(PERFECT_CLIP), -1.0, -1.0), **rest)
    if name == "root_only":
        return Contestant(text, "root_only", post=post)
    if name == "constant":
        rule = parse_variant({"constant": ClientTrust}, head, "contestant")
        check_rule(rule, num_sampled)
        return Contestant(text, "constant", knobs=(rule.clip, rule.trim, rule.own), **rest)
    if head == "untrained":
        return Contestant(text, kind, untrained(num_sampled), **rest)
    if decides:
        player, _ = read_defender(find(head))
        assert isinstance(player.policy, SetPolicy)
        policy = dataclasses.replace(player.policy, num_clients=num_sampled).stricter(**stricter)
        played = f"{head} {stricter}"
        return Contestant(text, kind, player.replace(policy=policy), played, **rest)
    if kind == "shuffled":
        raise ConfigError(f"contestant {text!r}: shuffled is for those that decide about clients")
    make_rule(head, num_sampled, 0.2)  # raises
    return Contestant(text, "rule", rule=head, **rest)


def untrained(num_sampled: int, hidden: tuple[int, ...] = (64, 64)) -> Player:
    """A policy that has learned nothing: about half of the clients are kept, whoever they are."""
    policy, spec = SetPolicy(num_sampled, KNOBS, hidden), view_spec(num_sampled)
    return Player(policy.init(jax.random.key(0), spec), init_normalizer(spec), policy, True)
