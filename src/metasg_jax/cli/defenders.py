"""``metasg defenders``."""

import dataclasses

import tyro
from rich.console import Console

from metasg_jax.defender.files import find, read_card, shipped
from metasg_jax.evaluation.tables import rich_table


@dataclasses.dataclass(frozen=True)
class Defenders:
    """List the shipped defenders: what each was trained on, judged on and not meant for."""


def run(argv: list[str], console: Console) -> int:
    """The command; returns the exit status."""
    tyro.cli(Defenders, args=argv, prog="metasg defenders")
    for name in shipped():
        card = read_card(find(name))
        rows = [["trained on", "\n".join(card["trained_on"]["worlds"])]]
        rows += [[key.replace("_", " "), str(card[key])] for key in _SHOWN if key in card]
        console.print(rich_table(name, ["", card.get("summary", "")], rows, numbers=False))
    return 0


_SHOWN = ("judged_on", "not_for", "features")
