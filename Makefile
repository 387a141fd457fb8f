# Set-up and daily work. `make` lists the targets; `make demo` and `make test` do the set-up themselves.
#
# PYTHON=/path/to/python3.11   the interpreter for .venv (default: the newest of 3.10 to 3.12 that runs)
# TORCH_INDEX=URL              one more package index, for example PyTorch's own with the small CPU builds
# OUT=DIR  ARGS="..."          folder of the demo; further arguments of rsedge demo or of pytest

SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
OUT ?= runs/demo
ARGS ?=
TORCH_INDEX ?=
PYTHON ?=
export PYTHON

# Its metadata caps numpy, torch and protobuf far below what it runs with, hence --no-deps (see pyproject.toml).
RKNN_TOOLKIT := rknn-toolkit2==2.5.0

.DEFAULT_GOAL := help
.PHONY: help install board demo test lint format bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## make .venv and install everything (again only when pyproject.toml changes)

$(STAMP): pyproject.toml
	@python=$$(scripts/check_system.sh) || exit 2; \
	if ! $(BIN)/python -c 'import pip' >/dev/null 2>&1; then \
		echo "making $(VENV) with $$python"; "$$python" -m venv --clear $(VENV) || exit 2; \
	fi
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install $(TORCH_INDEX:%=--extra-index-url %) -e '.[host,geo,gui,dev]'
	$(BIN)/python -m pip install --no-deps $(RKNN_TOOLKIT)
	@touch $@

board: ## install on an RK3588 board (Debian or Ubuntu, arm64), without what only training needs
	scripts/install_board.sh $(ARGS)

demo: $(STAMP) ## train, export, convert and score on drawn scenes, without any data
	$(BIN)/rsedge demo --out $(OUT) $(ARGS)

test: $(STAMP) ## run the tests
	$(BIN)/python -m pytest $(ARGS)

lint: $(STAMP) ## ruff check, ruff format --check, mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP) ## let ruff sort imports, mend what it can and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP) ## measure every speed in the README again (on a machine that does nothing else)
	PYTHON=$(BIN)/python scripts/measure_idle.sh $(ARGS)
	$(BIN)/python -m train.loading_benchmark

clean: ## remove caches and built packages; .venv and runs/ stay
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +
