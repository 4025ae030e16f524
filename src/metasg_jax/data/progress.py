"""Progress on the terminal: a spinner for what can't be counted, a bar for what can."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

TEXT = "{task.description}"


@contextmanager
def spinner(text: str, visible: bool = True) -> Iterator[None]:
    """Shows ``text`` and the time elapsed on stderr while the block runs."""
    columns = (SpinnerColumn(), TextColumn(TEXT), TimeElapsedColumn())
    with _progress(columns, text, visible) as progress:
        progress.add_task(text, total=None)
        yield


@contextmanager
def bar(text: str, total: int, visible: bool = True) -> Iterator[Callable[[int], None]]:
    """Shows a bar on stderr; yields a function that advances it by a number of steps."""
    columns = (TextColumn(TEXT), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with _progress(columns, text, visible) as progress:
        task = progress.add_task(text, total=total)
        yield lambda steps: progress.advance(task, steps)


def _progress(columns, text: str, visible: bool) -> Progress:
    console = Console(stderr=True)
    if visible and not console.is_terminal:  # In a log or a notebook: one line, no animation.
        print(text, file=sys.stderr)
    # Transient: what stays on the screen is the sentence that says what happened.
    disable = not visible or not console.is_terminal
    return Progress(*columns, console=console, transient=True, disable=disable)
