"""Environments in which users run it: no home, other locales, read-only places, others' caches.

Each is really set, around a child process.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src"
SIMULATE = [
    "simulate", "--game.hidden", "6", "--fl.num-clients=10", "--fl.num-sampled=5",
    "--fl.batch-size=4", "--game.num-root=20", "--game.num-test=50", "--game.num-validation=20",
    "--rounds=2", "--attack=ipm@0.2",
]  # fmt: skip
NOBODY = 12_345
"""The number of a user whom the machine does not know."""

as_root = pytest.mark.skipif(os.getuid() != 0, reason="becomes another user")


def run(argv, cwd, user=None, code=None, **environment):
    given = {name: value for name, value in environment.items() if value is not None}
    clean = {
        "PATH": os.environ["PATH"], "PYTHONPATH": str(SRC), "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "COLUMNS": "200", "MPLBACKEND": "agg",
        "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip
    command = ["-c", code] if code else ["-m", "metasg_jax.cli", *argv]
    return subprocess.run(
        [sys.executable, *command], cwd=cwd, env=clean | given, user=user, group=user,
        capture_output=True, timeout=300, check=False,
    )  # fmt: skip


def told(done) -> str:
    return (done.stdout + done.stderr).decode("utf-8", "replace")


def readable(user) -> bool:
    """Whether that user may import the package at all, from where it is installed here."""
    code = "import metasg_jax.cli"
    try:
        return run([], "/", user=user, code=code, HOME="/nonexistent").returncode == 0
    except PermissionError:  # of the interpreter itself
        return False


@pytest.fixture
def open_folder(tmp_path_factory):
    """A directory that other users can get to."""
    folder = Path("/tmp") / f"metasg-test-{os.getpid()}"
    folder.mkdir(mode=0o755)
    yield folder
    shutil.rmtree(folder)


@as_root
def test_a_user_without_a_home_and_a_directory_that_is_read_only(open_folder):
    if not readable(NOBODY):
        pytest.skip("the package is where no other user can read it")
    temporary = open_folder / "tmp"
    temporary.mkdir()
    os.chown(temporary, NOBODY, NOBODY)
    done = run(SIMULATE, open_folder, user=NOBODY, TMPDIR=str(temporary))
    assert done.returncode == 0, told(done)
    assert (temporary / f"metasg_jax-{NOBODY}" / "xla").is_dir()
    # where nothing may be written, that is said before anything is played
    for command in (
        [*SIMULATE, "--out=out"],
        ["pretrain", "--preset=smoke", "--out=out"],
        ["matrix", "--attacks=none", "--defenses=mean", "--out=out"],
    ):
        done = run(command, open_folder, user=NOBODY, TMPDIR=str(temporary))
        assert done.returncode == 2 and "out = out: Permission denied" in told(done), told(done)
        assert "Traceback" not in told(done) and "round" not in done.stdout.decode()


@pytest.mark.parametrize(
    "encoding",
    ["ascii", *(pytest.param(each, marks=pytest.mark.slow) for each in ("latin-1", "cp1252"))],
)
def test_a_terminal_without_the_characters_costs_no_result(tmp_path, encoding):
    """Tables hold dashes and plus-minus signs; files are UTF-8 whatever the terminal's encoding."""
    code = (
        "import sys\n"
        "from metasg_jax import cli, files\n"
        "from pathlib import Path\n"
        "status = cli.main(['list'])\n"
        "print('\\u2013 \\u00b1 \\u2265')\n"
        "files.write_text(Path('a.md'), '\\u2013 \\u00b1')\n"
        "sys.exit(status)"
    )
    done = run([], tmp_path, code=code, PYTHONIOENCODING=encoding, PYTHONUTF8="0", LC_ALL="C",
               HOME=str(tmp_path))  # fmt: skip
    assert done.returncode == 0, told(done)
    assert (tmp_path / "a.md").read_bytes().decode("utf-8") == "– ±"


@pytest.mark.slow
def test_the_users_own_compilation_cache_is_respected(tmp_path):
    code = (
        "import jax\n"
        "from metasg_jax.programs.device import enable_compilation_cache\n"
        "enable_compilation_cache()\n"
        "print(jax.config.jax_compilation_cache_dir,"
        " jax.config.jax_persistent_cache_min_compile_time_secs)"
    )

    def shown(**environment):
        return run([], tmp_path, code=code, HOME=str(tmp_path), **environment).stdout.decode()

    xla = tmp_path / "cache" / "xla"
    given = dict(METASG_CACHE_DIR=str(tmp_path / "cache"))
    assert shown(JAX_COMPILATION_CACHE_DIR="/tmp/own", **given) == "/tmp/own 1.0\n"
    assert shown(**given) == f"{xla} 0.5\n"
    longer = dict(JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="7")
    assert shown(**longer, **given) == f"{xla} 7.0\n"
    taken = tmp_path / "file"
    taken.write_text("")
    assert shown(METASG_CACHE_DIR=str(taken)) == "None 1.0\n"


@as_root
def test_another_users_cache_is_not_run(open_folder):
    if not readable(NOBODY):
        pytest.skip("the package is where no other user can read it")
    os.chown(open_folder, NOBODY + 1, NOBODY + 1)
    (open_folder / "xla").mkdir()
    os.chown(open_folder / "xla", NOBODY + 1, NOBODY + 1)
    (open_folder / "xla").chmod(0o777)
    code = (
        "import jax\n"
        "from metasg_jax.programs.device import enable_compilation_cache\n"
        "enable_compilation_cache()\n"
        "print(jax.config.jax_compilation_cache_dir)"
    )
    done = run([], "/", user=NOBODY, code=code, METASG_CACHE_DIR=str(open_folder))
    assert done.stdout == b"None\n", told(done)
