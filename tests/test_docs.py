"""What the texts say is so: blocks run, links resolve, names are registered."""

import re
import subprocess
from pathlib import Path

import pytest

import metasg_jax
from metasg_jax.aggregators import AGGREGATORS
from metasg_jax.attacks import BACKDOOR, UNTARGETED
from metasg_jax.compressors import COMPRESSORS
from metasg_jax.data import DATASETS, PARTITIONS, TRIGGERS
from metasg_jax.game import OBSERVATIONS, parse_type
from metasg_jax.models import MODELS
from metasg_jax.post_defenses import POST_DEFENSES
from metasg_jax.pre_aggregators import PRE_AGGREGATORS
from metasg_jax.presets import DEFAULT_PRESET, PRESETS
from metasg_jax.responders import RESPONDERS
from tests.extras import skip_without_extra

ROOT = Path(__file__).parents[1]
TEXTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
README = (ROOT / "README.md").read_text()
RUNNING = (ROOT / "docs" / "running.md").read_text()
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
# what scripts put into their pages; no page itself
OPENING = re.compile(r"(docs/)?results/\w+/(opening|population|online)\.md")
SPAN = re.compile(r"`([^`\n]+)`")
REGISTRIES = {
    "untargeted attacks": UNTARGETED,
    "backdoor attacks": BACKDOOR,
    "responders": RESPONDERS,
    "compressors": COMPRESSORS,
    "rules": AGGREGATORS,
    "pre-aggregators": PRE_AGGREGATORS,
    "post-training defences": POST_DEFENSES,
    "partitions": PARTITIONS,
    "triggers": TRIGGERS,
    "models": MODELS,
    "observations": OBSERVATIONS,
}

every_text = pytest.mark.parametrize("path", TEXTS, ids=lambda p: str(p.relative_to(ROOT)))


def python_blocks():
    for path in TEXTS:
        blocks = [
            body for language, body in FENCE.findall(path.read_text()) if language == "python"
        ]
        for i, body in enumerate(blocks):
            yield pytest.param(body, id=f"{path.relative_to(ROOT)}-{i}")


def code_of(text):
    """Fenced blocks and code spans: where a command is a command."""
    return "\n".join(
        [*(body for _, body in FENCE.findall(text)), *SPAN.findall(FENCE.sub("", text))]
    )


def rows_of(text, header):
    """Cells of the table whose header line starts so."""
    lines = iter(text.split(header, 1)[1].splitlines()[2:])
    for line in lines:
        if not line.startswith("|"):
            return
        yield [cell.strip() for cell in line.strip("|").split("|")]


def repository_files():
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    return [ROOT / name for name in listed if (ROOT / name).is_file()]


@pytest.fixture
def registries():
    """What a block registers is gone afterwards."""
    before = [(registry, dict(registry)) for registry in REGISTRIES.values()]
    yield
    for registry, known in before:
        registry.clear()
        registry.update(known)


@pytest.mark.parametrize("block", list(python_blocks()))
def test_python_blocks_run(block, registries):
    skip_without_extra(block)
    exec(compile(block, "block", "exec"), {"__name__": "block"})


def test_readme_begins_with_the_two_commands():
    first = next(body for language, body in FENCE.findall(README))
    assert re.findall(r"^make (\w+)", first, re.M) == ["pretrain", "test"]
    assert README.index("make pretrain") < README.index("\n## ")


@every_text
def test_make_targets_exist(path):
    makefile = (ROOT / "Makefile").read_text()
    known = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.M))
    named = set(re.findall(r"\bmake ([a-z][a-z-]*)", code_of(path.read_text())))
    assert named <= known


@every_text
def test_relative_links_resolve(path):
    prose = SPAN.sub("", FENCE.sub("", path.read_text()))
    targets = [t.partition("#")[0] for t in re.findall(r"\]\(([^)\s]+)\)", prose) if "://" not in t]
    assert [t for t in targets if t and not (path.parent / t).exists()] == []


def test_every_page_has_its_place():
    """In the site's navigation, and in the list for readers of the repository."""
    navigation = (ROOT / "mkdocs.yml").read_text()
    index = (ROOT / "docs" / "index.md").read_text()
    pages = {str(p.relative_to(ROOT / "docs")) for p in TEXTS if (ROOT / "docs") in p.parents}
    pages = {page for page in pages if not OPENING.match(page)}
    assert {page for page in pages if f" {page}\n" not in navigation} == set()
    assert {page for page in pages - {"index.md"} if f"]({page})" not in index} == set()


def test_the_texts_are_no_lab_book():
    """A word has a letter or a digit: bars of tables are none."""
    pages = [p for p in TEXTS if not OPENING.search(str(p.relative_to(ROOT)))]
    words = sum(len(re.findall(r"\S*\w\S*", page.read_text())) for page in pages)
    assert words <= 25_000


def test_the_page_names_what_is_registered():
    """Not all that is registered: adding a variant is one file and one line, and no text."""
    listed = {kind: SPAN.findall(names) for kind, names in rows_of(RUNNING, "| kind | names |")}
    assert listed.keys() == REGISTRIES.keys()
    unknown = {kind: set(names) - set(REGISTRIES[kind]) for kind, names in listed.items()}
    assert not any(unknown.values()), unknown


def test_the_page_names_data_sets_and_presets():
    defaults = dict(rows_of(RUNNING, "| data set | default preset |"))
    assert defaults == {f"`{name}`": f"`{preset}`" for name, preset in DEFAULT_PRESET.items()}
    assert DEFAULT_PRESET.keys() == DATASETS.keys()
    assert {row[0] for row in rows_of(RUNNING, "| preset |")} == {f"`{p}`" for p in PRESETS}


@pytest.mark.parametrize(
    "text", [r[0].strip("`") for r in rows_of(RUNNING, "| string | meaning |")]
)
def test_types_of_the_page_can_be_read(text):
    spec = parse_type(text, 100)
    assert (spec.num_untargeted + spec.num_backdoor > 0) == ("@" in text)


def test_versions_agree():
    version = metasg_jax.__version__
    assert f'\nversion = "{version}"\n' in (ROOT / "pyproject.toml").read_text()
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {version}" in (ROOT / "CHANGELOG.md").read_text()


def test_no_path_of_a_machine():
    # put together here, so that this file passes its own test
    folders = "|".join(["home", "root", "work", "Users"])
    path_of_a_machine = re.compile(rf"(?<![\w.~>)\]}}-])/(?:{folders})/\w")
    found = []
    for path in repository_files():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        found += [
            f"{path.relative_to(ROOT)}: {m.group()}" for m in path_of_a_machine.finditer(text)
        ]
    assert found == []
