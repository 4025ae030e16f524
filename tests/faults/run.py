"""The fault suite: ``python -m tests.faults.run --seed 0 --write docs/reliability.md``.

Prints a table of outcomes by group, and what went wrong; exits with 1 where anything did.
"""

import argparse
import logging
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

from tests.faults.damage import Injection
from tests.faults.injections import injections
from tests.faults.worlds import Room

OUTCOMES = ("handled", "silent", "traceback", "lost")
BEGIN, END = "<!-- table of faults -->", "<!-- end of the table -->"


def play(chosen: Iterable[Injection]) -> tuple[dict[str, Counter], list[str]]:
    """(outcomes counted by group, what went wrong)."""
    counts: dict[str, Counter] = {}
    wrong = []
    for injection in chosen:
        outcome, _, why = injection.act().partition(":")
        counts.setdefault(injection.group, Counter())[outcome] += 1
        if outcome != "handled":
            wrong.append(f"{injection.group}, {injection.name}: {outcome}:{why}")
    return counts, wrong


def table(counts: dict[str, Counter]) -> str:
    """Outcomes by group, in Markdown; without columns of what never happened."""
    total = sum(counts.values(), Counter())
    seen = [each for each in OUTCOMES if each == "handled" or total[each]]
    lines = [["what is injected", "times", *seen], ["---"] + ["---:"] * (len(seen) + 1)]
    for group, found in [*counts.items(), ("all", total)]:
        lines.append([group, *map(str, (found.total(), *(found[each] for each in seen)))])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of the positions of flipped bits")
    parser.add_argument("--write", type=Path, help="a page whose table is replaced")
    parser.add_argument("--group", default="", help="only groups whose name holds this")
    args = parser.parse_args()
    logging.disable(logging.CRITICAL)  # Orbax and asyncio tell at length what is damaged
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        everything = injections(Room(Path(folder)), args.seed)
        counts, wrong = play(each for each in everything if args.group in each.group)
    print(table(counts))
    print("\n".join(wrong))
    print(f"seed {args.seed}, {time.perf_counter() - begin:.0f} s")
    if args.write:
        head, _, rest = args.write.read_text(encoding="utf-8").partition(BEGIN)
        tail = rest.partition(END)[2]
        text = f"{head}{BEGIN}\n\n{table(counts)}\n{END}{tail}"
        args.write.write_text(text, encoding="utf-8")
    return bool(wrong)


if __name__ == "__main__":
    raise SystemExit(main())
