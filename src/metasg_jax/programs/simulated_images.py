"""The images of a run's own world: made once, kept beside the run, for a person to look at."""

import time
from pathlib import Path

import numpy as np
from rich.console import Console

from metasg_jax.config import RunConfig
from metasg_jax.data import Dataset
from metasg_jax.data.dataset import pool_images
from metasg_jax.data.simulated import Simulated
from metasg_jax.data.simulated.neighbours import Neighbours, neighbours
from metasg_jax.errors import CheckpointError
from metasg_jax.evaluation.plots import image_grid
from metasg_jax.files import whole, write_text
from metasg_jax.game.make import simulated_clients


def own_images(
    config: RunConfig, dataset: Dataset, directory: Path, console: Console, begun: bool = False
) -> Simulated | None:
    """What clients hold in the run's game; None where they are real.

    Made from the root images of ``config.game`` alone, and kept as simulated.npz; beside it
    simulated.png, a grid of them, and simulated.md, how near they are to the root images. Where
    the file is damaged they are made again; but generated ones, which another machine may round
    otherwise, not in a run that has ``begun``.

    Raises:
        UnknownNameError, ConfigError: see :func:`~metasg_jax.data.simulated.simulate`.
        CheckpointError: for generated images that can't be read in a run that has begun.
    """
    if config.clients == "real":
        return None
    made_with = repr((config.clients, config.num_simulated, config.game))
    path = directory / "simulated.npz"
    if path.exists():
        try:
            # opened here: NumPy leaves the file open when it is not an archive
            with path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
                if str(kept["made_with"]) == made_with:
                    return Simulated(kept["images"], kept["labels"])
        except Exception as error:  # a damaged archive raises a dozen kinds
            told = f"{path} can't be read ({type(error).__name__})"
            if begun and config.clients == "generated":
                raise CheckpointError(f"{told}: put it back from a copy") from error
            console.print(f"{told}: making the images again")
    begin = time.perf_counter()
    console.print(f"making {config.num_simulated} {config.clients} images of the root images")
    game = config.game
    made, root = simulated_clients(game, dataset, config.clients, config.num_simulated)
    found = neighbours(made.images, pool_images(dataset.train_x[root], game.pool))
    directory.mkdir(parents=True, exist_ok=True)
    image_grid(made.images, made.labels, directory / "simulated.png")
    write_text(directory / "simulated.md", _page(config.clients, found))
    with whole(path) as part:
        np.savez_compressed(part, images=made.images, labels=made.labels, made_with=made_with)
    console.print(f"made in {time.perf_counter() - begin:.0f} s; look at {directory}/simulated.png")
    return made


def _page(kind: str, found: Neighbours) -> str:
    low, middle, high = np.quantile(found.nearest, (0.05, 0.5, 0.95))
    return (
        f"# {kind} images\n\n"
        f"{len(found.nearest)} images made of {len(found.apart)}. To the nearest root image, root "
        f"mean square over pixels: median {middle:.3f}, 5 % below {low:.3f}, 5 % above {high:.3f}. "
        f"Root images are {np.median(found.apart):.3f} from the nearest other one in the median, "
        f"{found.apart.min():.3f} at least. Copies, nearer than half of that: {found.copies:.1%}.\n"
    )
