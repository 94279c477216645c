# What a person types. The first target that needs it sets up .venv (one package list per machine kind:
# EXTRA=cpu or EXTRA=gpu); after that nothing is installed again until the list or pyproject.toml changes.

EXTRA ?= cpu
$(if $(filter $(EXTRA),cpu gpu),,$(error EXTRA = $(EXTRA) is not known: say EXTRA=cpu or EXTRA=gpu))
RUNS_PYTHON = 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))'
PYTHON ?= $(shell for python in python3.11 python3.12 python3; do \
	$$python -c $(RUNS_PYTHON) 2>/dev/null && echo $$python && break; done)

BIN := .venv/bin
PACKAGES := .venv/.packages-$(EXTRA)
READY := .venv/.ready-$(EXTRA)
SITE := .venv-docs/.ready
PAGES = README.md CHANGELOG.md CONTRIBUTING.md deploy/README.md examples/README.md $(wildcard docs/*.md docs/results/*.md)
DOCS_EXTRA = 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"])'

# One thread a process: tests start several processes side by side. Nothing is looked up on the network. What is imported is
# compiled once, whatever the shell says, and not by each process.
TEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 RAY_USAGE_STATS_ENABLED=0 VLLM_NO_USAGE_STATS=1 $(BIN)/python -m pytest
# Files side by side, in the order of the command: integration tests, which wait for processes, then unit tests.
SIDE_BY_SIDE := --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help setup run test-fast test test-all test-containers lint bench docs docs-config lock clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 12

setup: $(READY)  ## install everything into .venv (the others do this first)

run: $(READY)  ## the whole loop on the embedded default; ARGS="..." goes to the command
	$(BIN)/python -m unisd_rl.run $(ARGS)
	@echo "for unisd-rl and python -m unisd_rl... in this shell: source .venv/bin/activate"

test-fast: $(READY)  ## unit tests but for the exhaustive ones (a minute)
	$(TEST) -n 2 $(SIDE_BY_SIDE) tests/unit -m "not slow and not gpu and not exhaustive" $(ARGS)

test: $(READY)  ## integration and unit tests (about 17 minutes on two idle cores)
	$(TEST) -n 3 $(SIDE_BY_SIDE) tests/integration tests/unit -m "not slow and not gpu" $(ARGS)

test-all: $(READY)  ## everything that needs no GPU, the long ones too
	$(TEST) -n 3 $(SIDE_BY_SIDE) tests/integration tests/unit -m "not slow and not gpu" --hypothesis-profile=searching $(ARGS)
	$(TEST) tests -m "slow and not gpu" --hypothesis-profile=searching --durations=20 $(ARGS)

test-containers: $(READY)  ## docker-compose.yml in real containers (needs Podman: deploy/install_podman.sh)
	$(TEST) tests/containers $(ARGS)

lint: $(READY)  ## ruff, types, import directions, links and names of the documents
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m docs.check

# Not that of peers, which needs another package.
bench: $(READY)  ## the benchmarks, one after the other (ARGS=--quick: whether they run)
	@set -e; for file in $(filter-out $(addprefix benchmarks/,output.py observed_run.py peers.py),$(sort $(wildcard benchmarks/*.py))); do echo "== $$file"; $(BIN)/python -m benchmarks.$$(basename $$file .py) $(ARGS); done

docs: $(SITE)  ## the documents as a site in build/site (packages of their own in .venv-docs)
	rm -rf build/pages && mkdir -p build/pages
	cp --parents $(PAGES) docs/pictures/* build/pages
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict --quiet

docs-config: $(READY)  ## write docs/configuration.md anew from the schema
	$(BIN)/python -m docs.configuration

lock: $(READY)  ## resolve locks/*.txt anew
	locks/compile.sh

clean:  ## remove .venv and everything that tools left; runs/ stays
	rm -rf .venv .venv-docs build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -exec rm -rf {} +

$(PACKAGES): locks/$(EXTRA).txt locks/install.sh locks/uv_environment.py
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12 is needed: none of python3.11, python3.12, python3 is one; say PYTHON=/path/to/it" >&2; exit 2; }
	@$(PYTHON) -c $(RUNS_PYTHON) || { echo "PYTHON = $(PYTHON) is not Python 3.11 or 3.12; say PYTHON=/path/to/one" >&2; exit 2; }
	locks/install.sh $(PYTHON) $(EXTRA)

$(READY): $(PACKAGES) pyproject.toml
	@$(BIN)/uv pip install --quiet --offline --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

$(SITE): pyproject.toml
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/pip install --quiet --disable-pip-version-check $$($(PYTHON) -c $(DOCS_EXTRA))
	@touch $@
