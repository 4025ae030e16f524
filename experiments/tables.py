"""Tables that a script prints, as data beside the page that a person writes."""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Table = tuple[list[str], list[list[str]]]
"""Header and rows."""


def write_tables(path: Path, tables: dict[str, Table]) -> None:
    """All tables in long form: table, row, quantity, value."""
    named = {
        name: [dict(zip(header, row, strict=True)) for row in rows]
        for name, (header, rows) in tables.items()
    }
    write_rows(path, named)


def write_rows(
    path: Path, tables: dict[str, Sequence[dict]], shown: Callable[[Any], Any] = lambda v: v
) -> None:
    """The same of tables whose rows say what each value is; ``shown`` makes its cell."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["table", "row", "quantity", "value"])
        for name, rows in tables.items():
            for i, row in enumerate(rows):
                writer.writerows([name, i, quantity, shown(v)] for quantity, v in row.items())
