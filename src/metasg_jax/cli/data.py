"""``metasg data``."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from metasg_jax.cli.common import Source, load_images
from metasg_jax.data.packed import pack


@dataclasses.dataclass(frozen=True)
class Data:
    """Fetch, check and cache a data set, in METASG_CACHE_DIR or else ~/.cache/metasg_jax."""

    dataset: str = "mnist"
    """digits, mnist, fashion_mnist or cifar10."""
    pack: Path | None = None
    """Also write a part of it into this folder, for a machine without network: copy the folder
    there and name it by --data-dir."""
    images: int = 15_000
    """How many images --pack writes, of both splits together (CIFAR-10: 15,000 are 46 MB)."""
    source: Annotated[Source, tyro.conf.arg(name="")] = Source()


def run(argv: list[str], console: Console) -> int:
    """The command; returns the exit status."""
    args = tyro.cli(Data, args=argv, prog="metasg data")
    dataset = load_images(args.dataset, args.source, console)
    console.print(
        f"{args.dataset}: {len(dataset.train_y):,} train and {len(dataset.test_y):,} test images "
        f"of {'x'.join(map(str, dataset.train_x.shape[1:]))}, ready"
    )
    if args.pack is not None:
        path = pack(dataset, args.pack, args.images)
        console.print(f"packed {args.images:,} of them: {path}, {path.stat().st_size / 1e6:.0f} MB")
    return 0
