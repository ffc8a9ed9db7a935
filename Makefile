# Everything stays inside the checkout: the environment, and the caches of pip, matplotlib and torch.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
MINIMUM := $(VENV)/minimum
export XDG_CACHE_HOME := $(CURDIR)/$(VENV)/cache
export MPLCONFIGDIR := $(XDG_CACHE_HOME)/matplotlib
export MLFLOW_ALLOW_PICKLE_DESERIALIZATION := false
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION := false
export MLFLOW_DISABLE_TELEMETRY ?= true
# Options of a command, e.g. make train ARGS="--backbone vit_b_16"
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup lock demo prepare train compare register predict ui test test-all test-minimum reliability lint docs format bench clean

help: ## list the targets
	@grep -E '^[a-z -]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-42s %s\n", $$1, $$2}'

setup: $(READY) ## make .venv with the locked versions, if it is missing or out of date

$(READY): requirements.txt pyproject.toml
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v <= (3, 13) else f"Python 3.11 to 3.13 is needed, this is {v}: make setup PYTHON=python3.11")'
	rm -f $(READY)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-cache-dir -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $(READY)

lock: ## renew requirements.txt from pyproject.toml
	rm -rf $(VENV)/lock && $(PYTHON) -m venv $(VENV)/lock
	$(VENV)/lock/bin/pip install --quiet --disable-pip-version-check --no-cache-dir '.[bundled,xlsx,heic,sweep,onnx,serve,dev]'
	{ echo "# The exact versions tested; 'make lock' renews this from pyproject.toml."; \
	  $(VENV)/lock/bin/pip freeze --exclude fmtl \
	  | sed -E '/^(nvidia-|cuda-|triton)/ s/$$/; platform_system == "Linux"/'; } > requirements.txt
	rm -rf $(VENV)/lock

demo: setup ## the whole pipeline on a drawn sample: prepare, train two models, compare, register, predict
	$(BIN)/fmtl main $(ARGS)

prepare train compare register predict: setup ## one step; options in ARGS="..."
	$(BIN)/fmtl $@ $(ARGS)

ui: setup ## browse the runs on http://127.0.0.1:5000
	$(BIN)/mlflow ui --host 127.0.0.1 --port 5000 --workers 1

test: setup ## the fast tests on all cores, 5 to 10 minutes on two
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile $(ARGS)

test-all: setup ## every test, and what they cover; those on real photos need FMTL_REAL_DATA
	$(BIN)/python -m pytest -m "slow or not slow" --cov=fmtl --cov-report=term:skip-covered $(ARGS)

test-minimum: $(MINIMUM)/.ready ## the fast tests with the lowest versions that are allowed, in an environment of their own
	OMP_NUM_THREADS=1 $(MINIMUM)/bin/python -m pytest -n auto --maxprocesses 8 --dist loadfile $(ARGS)

reliability: setup ## servers that fail, kills, signals and saves that are cut off, and the slow tests of deliveries; some hours
	$(BIN)/python -m pytest -m reliability $(ARGS)
	mkdir -p docs/benchmarks
	$(BIN)/python tests/tracking/reliability.py --json docs/benchmarks/reliability.json
	$(BIN)/python tests/dataset/decoding.py --json docs/benchmarks/decoding.json
	FMTL_MUTATIONS=500 $(BIN)/python -m pytest tests/catalogue/test_mutations.py tests/dataset/test_image_mutations.py
	$(BIN)/python tests/commands/damages.py --json docs/benchmarks/damages.json
	$(BIN)/python tests/commands/strangers.py --json docs/benchmarks/strangers.json
	$(BIN)/python tests/training/saves.py --json docs/benchmarks/saves.json
	$(BIN)/python tests/commands/kills.py --json docs/benchmarks/kills.json
	$(BIN)/python tests/commands/signals.py --json docs/benchmarks/signals.json

# With the oldest Python allowed: old versions have no wheels for newer ones.
$(MINIMUM)/.ready: requirements-minimum.txt pyproject.toml
	rm -rf $(MINIMUM)
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if v == (3, 11) else f"Python 3.11 is needed, this is {v}: make test-minimum PYTHON=python3.11")'
	$(PYTHON) -m venv $(MINIMUM)
	$(MINIMUM)/bin/python -m pip install --quiet --disable-pip-version-check --no-cache-dir -c requirements-minimum.txt -e '.[bundled,xlsx,heic,sweep,onnx,serve,dev]'
	touch $@

lint: setup ## check style, types, and which wing imports which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: setup ## write the tables of settings in docs/ and MLproject
	$(BIN)/python docs/generate.py

format: setup ## fix style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup ## run every benchmark; needs a quiet machine
	mkdir -p docs/benchmarks
	set -e; for script in prepare prepare_again predict training pictures checkpoints; do \
	  $(BIN)/python benchmarks/$$script.py --json docs/benchmarks/$$script.json; done
	set -e; for study in ablation equal-time tuned; do \
	  $(BIN)/python benchmarks/recipe.py $$study --json docs/benchmarks/$${study/-/_}.json; done

clean: ## remove what the commands and tests made, except .venv, data and runs
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache leaderboard predictions.csv
	find fmtl tests -name __pycache__ -type d -exec rm -rf {} +
