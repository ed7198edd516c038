# `make help` lists the targets. Everything runs in .venv, which `make setup` makes from the lock.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
NEIGHBORS := nvalchemi-toolkit-ops==0.5.0 warp-lang==1.19.0 # the extra of that name, which few need
BIN := $(VENV)/bin
ACCEPTED := Python 3.11, 3.12, 3.13 or 3.14
IS_ACCEPTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))
# The first interpreter that starts and is accepted; `make setup PYTHON=...` names another
PYTHON ?= $(shell for p in python3.12 python3.11 python3.13 python3.14 python3 python; do \
	$$p -c '$(IS_ACCEPTED)' 2>/dev/null && echo $$p && break; done)

define CHECK_PYTHON
@test -n "$(PYTHON)" || { echo "error: $(ACCEPTED) is needed and none was found; install one or name it: make setup PYTHON=/path/to/python" >&2; exit 1; }
@$(PYTHON) -c '$(IS_ACCEPTED)' 2>/dev/null || { echo "error: $(ACCEPTED) is needed, but $(PYTHON) $$(version=$$($(PYTHON) -V 2>&1) && echo "is $$version" || echo "does not start"); name another: make setup PYTHON=/path/to/python" >&2; exit 1; }
endef

.PHONY: help python setup sweep report test test-slow test-long test-wheel test-neighbors test-browser test-slurm slurm-up slurm-down lint format bench ui clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

python: ## which Python the environment is made with
	$(CHECK_PYTHON)
	@echo "$(PYTHON) is $$($(PYTHON) -V)"

setup: $(VENV)/.done ## the environment: locked versions, in .venv

$(VENV)/.done: requirements.lock pyproject.toml
	$(CHECK_PYTHON)
	@echo "set-up: $(VENV) with $$($(PYTHON) -V); 3 steps, minutes on a good connection"
	@$(PYTHON) -m venv $(VENV)
	@echo "1 of 3: $$(grep '^torch==' requirements.lock)$(if $(TORCH_INDEX),,; on Linux it may bring CUDA's libraries: gigabytes; without a GPU TORCH_INDEX=<index of CPU builds that pytorch.org names> spares them)"
	@$(BIN)/pip install --disable-pip-version-check $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$$(grep '^torch==' requirements.lock)"
	@echo "2 of 3: $$(grep -c == requirements.lock) locked packages; with torch for the CPU all of it takes 2 GB"
	@$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	@echo "3 of 3: atomsweep, as this folder has it"
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -e .
	@$(BIN)/python -c 'import torch; print("done: torch", torch.__version__, "with CUDA " + torch.version.cuda if torch.version.cuda else "for the CPU")'
	@echo "$(VENV) takes $$(du -sh $(VENV) | cut -f1)"
	@touch $@

sweep: setup ## the main job: basis x activation on the embedded data set, and its report
	$(BIN)/python run.py model=median
	$(BIN)/python run.py -m basis=sph,sine act=swish,relu
	$(BIN)/python -m analysis report latest
	@$(BIN)/python -m atomsweep sync

report: setup ## the report of a sweep: make report S=name
	$(BIN)/python -m analysis report $(or $(S),latest)

test: setup ## the tests; then the ten slowest
	@# Bytecode is kept: without it each worker and each process that a test starts compiles everything anew
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n auto -m "not slow and not long and not gpu and not slurm" --durations=10 --durations-min=1

test-slow: setup ## journeys of users, faults, every model on a GPU that is none: what CI runs besides
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n auto -m "slow and not long and not gpu and not slurm" --durations=10 --durations-min=1

test-long: setup ## what takes minutes each: compilers, many random kills, every paper's cell
	$(BIN)/python -m pytest -m "long and not gpu and not slurm"

test-wheel: setup ## the wheel in an environment and a folder of its own
	$(BIN)/python -m pytest -m long tests/test_wheel.py

test-neighbors: setup ## neighbours as they are searched on a GPU, here on the CPU; installs 0.4 GB
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps $(NEIGHBORS)
	$(BIN)/python -m pytest tests/graph/test_search.py -m "not gpu"

test-browser: setup ## the report's pages in Chromium, where it is installed; AXE_CORE=<axe.min.js> checks its rules too
	$(BIN)/python -m pytest -m long -rs tests/report/pages/test_browser.py

test-slurm: setup ## sweeps on a real, throw-away SLURM (Debian packages: tools/slurm-local.sh install)
	$(BIN)/python -m pytest -m slurm tests/slurm $(ARGS)

slurm-up: ## a SLURM on this machine, to try; its last line says how to use it
	@tools/slurm-local.sh up

slurm-down: ## take it down
	@tools/slurm-local.sh down

lint: setup ## ruff, mypy, import layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup ## let ruff format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: setup ## training steps and equivariant algebra against plain forms; reading of every format
	$(BIN)/python benchmarks/training_step.py
	$(BIN)/python benchmarks/data_loading.py
	$(BIN)/python benchmarks/so3.py

ui: setup ## MLflow's own pages on the runs
	$(BIN)/python -m atomsweep ui

clean: ## remove the environment; runs and data sets stay
	rm -rf $(VENV)
