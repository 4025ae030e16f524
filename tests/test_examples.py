"""Examples in docstrings run, and what the package promises has one."""

import doctest
import importlib
import inspect
from pathlib import Path

import pytest

import metasg_jax
from tests.extras import skip_without_extra

FINDER = doctest.DocTestFinder(exclude_empty=True)
# registries; and classes that other promised names make, whose examples show them
WITHOUT = {"AGGREGATORS", "BACKDOOR", "UNTARGETED", "Defender", "FLGame", "evaluate"}


PACKAGE = Path(metasg_jax.__file__).parent
# modules whose source has an example
MODULES = [
    ".".join(("metasg_jax", *path.relative_to(PACKAGE).with_suffix("").parts))
    for path in sorted(PACKAGE.rglob("*.py"))
    if ">>>" in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    skip_without_extra(name)
    module = importlib.import_module(name)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    tried = 0
    for test in FINDER.find(module):
        runner.run(test)
        tried += bool(test.examples)
    assert tried, "no example was found where the source has one"
    assert runner.summarize(verbose=False).failed == 0


@pytest.mark.parametrize("name", sorted(set(metasg_jax.__all__) - WITHOUT))
def test_what_is_promised_has_an_example(name):
    assert ">>>" in (inspect.getdoc(getattr(metasg_jax, name)) or "")
