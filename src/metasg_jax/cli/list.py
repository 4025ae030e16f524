"""``metasg list``."""

import dataclasses
import inspect
import re

import tyro
from rich.console import Console

from metasg_jax.data import DATASETS, PARTITIONS, TRIGGERS
from metasg_jax.presets import PRESETS
from metasg_jax.registry import settable
from metasg_jax.struct import Struct


@dataclasses.dataclass(frozen=True)
class List:
    """Show every registered data set, attack, rule, post-training defence and so on."""


def run(argv: list[str], console: Console) -> int:
    """The command; returns the exit status."""
    tyro.cli(List, args=argv, prog="metasg list")
    from metasg_jax.aggregators import AGGREGATORS
    from metasg_jax.attacks import BACKDOOR, UNTARGETED
    from metasg_jax.compressors import COMPRESSORS
    from metasg_jax.evaluation.tables import rich_table
    from metasg_jax.game.observations import OBSERVATIONS
    from metasg_jax.learning.pretrain import ALGORITHMS
    from metasg_jax.models import MODELS
    from metasg_jax.policies import POLICIES
    from metasg_jax.post_defenses import POST_DEFENSES
    from metasg_jax.pre_aggregators import PRE_AGGREGATORS
    from metasg_jax.responders import RESPONDERS

    rooms = {
        "data sets": {name: known.text for name, known in DATASETS.items()},
        "partitions": PARTITIONS,
        "triggers": TRIGGERS,
        "models": MODELS,
        "untargeted attacks": UNTARGETED,
        "backdoor attacks": BACKDOOR,
        "responders": {name: inspect.getdoc(kind) or "" for name, kind in RESPONDERS.items()},
        "compressors": COMPRESSORS,
        "rules": AGGREGATORS,
        "pre-aggregators": PRE_AGGREGATORS,
        "post-training defences": POST_DEFENSES,
        "observations": OBSERVATIONS,
        "policies": POLICIES,
        "algorithms": ALGORITHMS,
        "presets": PRESETS,
    }
    for title, room in rooms.items():
        rows = [[name, _what(variant), _knobs(variant)] for name, variant in room.items()]
        header = ["name", "what it is", "fields"]
        if not any(fields for *_, fields in rows):
            header, rows = header[:2], [row[:2] for row in rows]
        console.print(rich_table(title, header, rows, numbers=False))
    return 0


def _what(variant) -> str:
    """Its first line; of a rule also whether rows count by their weights."""
    return first_line(variant) + (" [by weight]" if getattr(variant, "weighted", False) else "")


def _knobs(variant) -> str:
    """What a string may set, ``name:knob=value``, with the defaults."""
    if not (isinstance(variant, type) and issubclass(variant, Struct)):
        return ""
    shown = []
    for name, each in settable(variant).items():
        choices = each.metadata.get("choices")
        shown.append(f"{name}={' | '.join(choices) if choices else each.default}")
    return ", ".join(shown)


def first_line(variant) -> str:
    """What a variant or a command is, by its docstring."""
    text = variant if isinstance(variant, str) else inspect.getdoc(variant) or ""
    line = text.strip().partition("\n\n")[0].replace("\n", " ").replace("``", "")
    line = re.sub(r":class:`~?(?:\w+\.)*(\w+)`", r"\1", line)
    return re.sub(r"^(smoke|cpu|paper): ", "", line)
