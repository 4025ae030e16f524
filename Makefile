# Every target is one tool call; `make` alone prints what there is.
PYTHON  ?= python3
VENV    ?= .venv
DATASET ?= digits
PRESET  ?=
SOURCE  ?= auto
ARGS    ?=
PEERS_PYTHON ?=
SEED    ?= 2

BIN    := $(VENV)/bin
METASG := $(BIN)/metasg
PEERS_VENV := .venv-bench
TEST_PEERS_VENV := .venv-peers
DOCS_VENV := .venv-docs
WHEEL_VENV := .venv-wheel
LOWEST_VENV := .venv-lowest
FAST := -m "not slow and not data"
# A worker a core, each with neighbouring tests: they share fixtures and compiled programs.
PARALLEL := -n auto --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help install data pretrain evaluate test test-all test-random test-lowest test-strict test-faults test-peers test-peers-torch coverage lint type format wheel docs bench accelerator notebooks clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

# --no-compile: Python writes the byte code of what it imports, which is a small part of all. Where
# the shell forbids that, each of the tests' many child processes compiles 2,000 modules again: 5 s.
export PYTHONDONTWRITEBYTECODE :=

$(BIN)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --editable .
	@touch $@

$(BIN)/.installed-dev: $(BIN)/.installed
	$(BIN)/python -m pip install --quiet --no-compile --editable '.[dev]'
	@touch $@

install: $(BIN)/.installed  ## make .venv and install the package into it

data: install  ## fetch and cache DATASET (SOURCE=auto|tfds|mirror)
	$(METASG) data --dataset $(DATASET) --source $(SOURCE) $(ARGS)

pretrain: install  ## pre-train a defender: DATASET=digits|mnist|fashion_mnist|cifar10 PRESET=smoke|cpu|paper ARGS='--resume ...'
	$(METASG) pretrain --dataset $(DATASET) --source $(SOURCE) $(if $(PRESET),--preset $(PRESET)) $(ARGS)

evaluate: install  ## table of the newest run of DATASET against fixed defences
	$(METASG) evaluate --dataset $(DATASET) $(ARGS)

test: $(BIN)/.installed-dev  ## the fast tests
	$(BIN)/python -m pytest $(PARALLEL) $(FAST) $(ARGS)

test-all: $(BIN)/.installed-dev  ## every test (minutes; needs `make data DATASET=mnist`)
	$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

test-random: $(BIN)/.installed-dev  ## the fast tests in an order of SEED: none may lean on another
	$(BIN)/python -m pytest $(PARALLEL) $(FAST) -p randomly --randomly-seed=$(SEED) $(ARGS)

# What pyproject.toml promises of each package is its lowest version: the fast tests under all of them.
$(LOWEST_VENV)/.installed: $(BIN)/.installed-dev
	$(PYTHON) -m venv $(LOWEST_VENV)
	$(BIN)/uv pip install --quiet --python $(LOWEST_VENV)/bin/python --resolution lowest-direct .
	$(BIN)/uv pip install --quiet --python $(LOWEST_VENV)/bin/python pytest pytest-xdist hypothesis
	@touch $@

test-lowest: $(LOWEST_VENV)/.installed  ## the fast tests with the lowest versions that are allowed
	$(LOWEST_VENV)/bin/python -m pytest $(PARALLEL) $(FAST) --ignore tests/test_notebooks.py $(ARGS)

coverage: $(BIN)/.installed-dev  ## lines that the fast tests run, children included (slower than `make test`)
	rm -f .coverage .coverage.*
	$(BIN)/python -m coverage run -m pytest $(PARALLEL) $(FAST) $(ARGS)
	$(BIN)/python -m coverage combine --quiet && $(BIN)/python -m coverage report --skip-covered --sort=cover

# Peers that compute with NumPy, in an environment of their own: ByzFL asks for torch, but its rules
# need none on arrays (see tests/peers/calls.py). torch would bring 6 GB of CUDA libraries.
$(TEST_PEERS_VENV)/.installed: benchmarks/requirements-peers.txt
	$(PYTHON) -m venv $(TEST_PEERS_VENV)
	$(TEST_PEERS_VENV)/bin/python -m pip install --quiet --no-compile -c benchmarks/requirements-peers.txt numpy scipy flwr
	$(TEST_PEERS_VENV)/bin/python -m pip install --quiet --no-compile --no-deps -c benchmarks/requirements-peers.txt byzfl
	@touch $@

test-strict: $(BIN)/.installed-dev  ## rules, attacks and a meta-step under x64, debug_nans, strict ranks, no jit
	$(BIN)/python -m tests.strict $(ARGS)

test-faults: $(BIN)/.installed-dev  ## damaged files, kills, full disks, hostile rows: what happens, as a table
	$(BIN)/python -m tests.faults.run --seed $(SEED) $(ARGS)

test-peers: $(BIN)/.installed-dev $(if $(PEERS_PYTHON),,$(TEST_PEERS_VENV)/.installed)  ## rules and attacks against ByzFL and Flower, on inputs of SEED
	$(or $(PEERS_PYTHON),$(TEST_PEERS_VENV)/bin/python) -m tests.peers.record --seed $(SEED) --out build/peers.json
	PEERS_RECORD=build/peers.json $(BIN)/python -m pytest $(PARALLEL) tests/peers $(ARGS)

test-peers-torch: $(PEERS_VENV)/.installed  ## the same with TorchJD, and ByzFL on tensors (installs 6 GB)
	$(MAKE) test-peers PEERS_PYTHON=$(PEERS_VENV)/bin/python

lint: $(BIN)/.installed-dev  ## ruff
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

type: $(BIN)/.installed-dev  ## pyrefly
	$(BIN)/pyrefly check

format: $(BIN)/.installed-dev  ## let ruff rewrite
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

# Tried from an empty environment and another directory: what a package manager would give to a user.
wheel: $(BIN)/.installed-dev  ## build wheel and sdist into dist/, install the wheel, try it there
	rm -rf dist $(WHEEL_VENV)
	$(BIN)/python -m build --outdir dist
	$(PYTHON) -m venv $(WHEEL_VENV)
	$(WHEEL_VENV)/bin/python -m pip install --quiet --no-compile dist/*.whl pytest
	cd dist && ../$(WHEEL_VENV)/bin/metasg doctor && ../$(WHEEL_VENV)/bin/metasg defenders
	$(WHEEL_VENV)/bin/python -m pytest tests/test_installed.py tests/test_registry.py tests/test_specs.py
	$(WHEEL_VENV)/bin/python -m pytest tests/test_docs.py -k "blocks_run and README.md-0"

$(DOCS_VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(DOCS_VENV)
	$(DOCS_VENV)/bin/python -m pip install --quiet --no-compile $$($(PYTHON) -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['docs'])")
	@touch $@

docs: $(DOCS_VENV)/.installed  ## build the site into build/site; a link that leads nowhere is an error
	NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/mkdocs build --strict --quiet $(ARGS)

# The peers live in an environment of their own; PEERS_PYTHON= names another that is there already.
$(PEERS_VENV)/.installed: benchmarks/requirements-peers.txt
	$(PYTHON) -m venv $(PEERS_VENV)
	$(PEERS_VENV)/bin/python -m pip install --quiet -r benchmarks/requirements-peers.txt
	$(PEERS_VENV)/bin/python -m pip install --quiet --no-deps byzpy==0.1.4
	@touch $@

bench: install $(if $(PEERS_PYTHON),,$(PEERS_VENV)/.installed)  ## speed of ours, the peers and the floor: ARGS='--suite rules --write docs/performance.csv'
	$(BIN)/python -m benchmarks.run --peers-python $(or $(PEERS_PYTHON),$(PEERS_VENV)/bin/python) $(ARGS)

accelerator: install  ## what this machine's GPU does, under 9 minutes; ARGS='--write docs/accelerator.csv'
	$(BIN)/python -m benchmarks.accelerator $(ARGS)

notebooks: $(BIN)/.installed-dev  ## write the .ipynb beside each jupytext .py
	$(BIN)/jupytext --update --to ipynb notebooks/*.py

clean:  ## remove the virtual environment and caches (never data or runs)
	rm -rf $(VENV) $(PEERS_VENV) $(TEST_PEERS_VENV) $(DOCS_VENV) $(WHEEL_VENV) $(LOWEST_VENV) .pytest_cache .ruff_cache .hypothesis .coverage*
