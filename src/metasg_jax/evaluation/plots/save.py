"""Where all pictures go through."""

from pathlib import Path

from matplotlib.figure import Figure


def save(figure: Figure, path: Path) -> None:
    """Writes the picture, at a resolution that a page shows well."""
    figure.savefig(path, dpi=140)
