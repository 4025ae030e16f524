"""Tables that a script prints, as data beside the page that a person writes."""

import csv
from pathlib import Path

Table = tuple[list[str], list[list[str]]]
"""Header and rows."""


def write_tables(path: Path, tables: dict[str, Table]) -> None:
    """All tables in long form: table, row, quantity, value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["table", "row", "quantity", "value"])
        for name, (header, rows) in tables.items():
            for i, row in enumerate(rows):
                named = zip(header, row, strict=True)
                writer.writerows([name, i, quantity, value] for quantity, value in named)
