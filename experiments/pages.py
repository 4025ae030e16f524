"""Pages of results: tables that a script writes, and below them what a person made of them."""

from pathlib import Path

READING = "## Reading\n"


def write_page(path: Path, text: str) -> None:
    """Writes generated text; what stands under "Reading" is written by hand, and stays."""
    reading = path.read_text().partition(READING)[2] if path.exists() else "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}{READING}{reading}")
