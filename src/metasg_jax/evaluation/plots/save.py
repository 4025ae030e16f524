"""Where all pictures go through."""

from pathlib import Path

from matplotlib.figure import Figure

from metasg_jax.files import whole


def save(figure: Figure, path: Path) -> None:
    """Writes the picture, at a resolution that a page shows well."""
    with whole(path) as part:
        figure.savefig(part, dpi=140)
