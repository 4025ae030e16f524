"""``metasg data``."""

import dataclasses
from typing import Annotated

import tyro
from rich.console import Console

from metasg_jax.cli.common import Source, load_images


@dataclasses.dataclass(frozen=True)
class Data:
    """Fetch, check and cache a data set, in METASG_CACHE_DIR or else ~/.cache/metasg_jax."""

    dataset: str = "mnist"
    """digits, mnist, fashion_mnist or cifar10."""
    source: Annotated[Source, tyro.conf.arg(name="")] = Source()


def run(argv: list[str], console: Console) -> int:
    """The command; returns the exit status."""
    args = tyro.cli(Data, args=argv, prog="metasg data")
    dataset = load_images(args.dataset, args.source, console)
    console.print(
        f"{args.dataset}: {len(dataset.train_y):,} train and {len(dataset.test_y):,} test images "
        f"of {'x'.join(map(str, dataset.train_x.shape[1:]))}, ready"
    )
    return 0
