"""A wrong name is answered with the right ones."""

import pytest

from metasg_jax.aggregators import AGGREGATORS
from metasg_jax.attacks import BACKDOOR, UNTARGETED
from metasg_jax.errors import UnknownNameError
from metasg_jax.models import MODELS, make_model
from metasg_jax.policies import POLICIES
from metasg_jax.post_defenses import POST_DEFENSES
from metasg_jax.registry import Registry, unknown_name

REGISTRIES = [AGGREGATORS, UNTARGETED, BACKDOOR, POST_DEFENSES, MODELS, POLICIES]


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.kind)
def test_a_misspelt_name_gets_the_near_one_and_the_list(registry):
    for name in registry:
        with pytest.raises(UnknownNameError) as error:
            registry[name + "s"]
        message = str(error.value)
        assert f"unknown {registry.kind} '{name}s'" in message
        assert f"did you mean '{name}'?" in message
        assert ", ".join(registry) in message


def test_a_name_far_from_all_gets_the_list_only():
    message = str(unknown_name("rule", "zzz", ["mean", "median"]))
    assert message == "unknown rule 'zzz': use one of mean, median"


@pytest.mark.parametrize("name", [None, 3, ""])
def test_whatever_the_name_is(name):
    with pytest.raises(UnknownNameError, match="use one of mean"):
        Registry("rule", {"mean": 1})[name]


@pytest.mark.parametrize("error", [KeyError, ValueError])
def test_it_is_caught_as_either_error(error):
    with pytest.raises(error):
        AGGREGATORS["krumm"]


def test_a_registry_is_a_dict():
    registry = Registry("rule", {"a": 1, "b": 2})
    assert dict(registry) == {"a": 1, "b": 2} and list(registry) == ["a", "b"]
    assert "c" not in registry and registry.get("c") is None


def test_builders_pass_the_error_on():
    with pytest.raises(UnknownNameError, match="did you mean 'mlp'"):
        make_model("mpl", (4, 4, 1), 3, (5,))
