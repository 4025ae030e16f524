"""Pages of results: tables that a script writes, and below them what a person made of them."""

from pathlib import Path

READING = "## Reading\n"


def opening(about: str, after: str) -> list[str]:
    """Title and first paragraphs of a page, and the command that made it.

    Args:
        about: docstring of the experiment: a title, usage, and what the page says first.
        after: what follows the command, in the same paragraph.
    """
    title, usage, *paragraphs = about.strip().split("\n\n")
    return [
        f"# {title.rstrip('.')}\n",
        *(" ".join(paragraph.split()) + "\n" for paragraph in paragraphs),
        f"Command: `{usage.split('#')[0].strip()}`{after}\n",
    ]


def write_page(path: Path, text: str) -> None:
    """Writes generated text; what stands under "Reading" is written by hand, and stays."""
    reading = path.read_text().partition(READING)[2] if path.exists() else "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}{READING}{reading}")
