"""What is installed is whole: the door, the weights, the marker of types, one version."""

from importlib.metadata import version
from importlib.resources import files

import metasg_jax
from metasg_jax.defender import shipped


def test_the_promised_names_are_there():
    assert all(hasattr(metasg_jax, name) for name in metasg_jax.__all__)


def test_the_version_is_the_packages():
    assert version("metasg-jax") == metasg_jax.__version__


def test_every_shipped_defender_loads():
    assert shipped()
    for name in shipped():
        assert metasg_jax.load_defender(name).card["weights"]


def test_types_are_declared():
    assert files("metasg_jax").joinpath("py.typed").is_file()
