# Each target first sets up .venv: Python 3.11 or later, torch, the compiled extension, and what the target needs.
#
#   make demo         watch the agent answer a question about a large picture
#   make test         run the tests (no network needed once .venv is set up)
#   make lint         check the style
#   make types        check the types
#   make eval         measure accuracy on the built-in suite
#   make check-wheel  install the wheel into an empty environment and ask a question there
#   make sanitize     run the operations' tests with gcc's checks of addresses and of undefined behaviour
#   make clean        remove what was built; make distclean removes .venv too
#
# Variables: PYTHON (which interpreter), TORCH (which torch), PIP_ARGS (for example an index of CPU builds of torch),
# PICTURE and QUESTION (of the demo), SUITE and EVAL_ARGS, WORKERS (processes that test) and PYTEST_ARGS.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:

PYTHON ?= python3.11
TORCH ?= torch==2.13.0
PIP_ARGS ?=
PICTURE ?= examples/demo.png
QUESTION ?= Compare the numbers under the dog and the anchor. What is the larger one?
SUITE ?= nano-test
EVAL_ARGS ?=
WORKERS ?= 3
PYTEST_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP = $(BIN)/python -m pip -qq install $(PIP_ARGS) --constraint constraints.txt
BUILD_TOOLS := "setuptools>=77" wheel "pybind11>=2.13" ninja
SOURCES := setup.py pyproject.toml constraints.txt $(shell find csrc)
FOLDERS := agent benchmarks models rl tools
export OUTER_PATH := $(PATH)

export PATH := $(CURDIR)/$(BIN):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test lint types eval check-wheel sanitize clean distclean

help:
	@sed -n '3,10s/^#  *//p' Makefile

# Written anew only when other things are asked for than .venv was set up with, here, with these compilers.
NVCC := $(wildcard $(CUDA_HOME)/bin/nvcc /usr/local/cuda/bin/nvcc)
COMPILERS := $(shell type -P c++ g++ clang++ nvcc | xargs) $(NVCC) $(wildcard /usr/include/python3*/Python.h)
BUILD_ASKED := $(FOVEATE_CUDA) $(FOVEATE_CXXFLAGS) $(if $(filter environment command,$(origin CXX)),$(CXX))
export ASKED := $(strip $(PYTHON) $(TORCH) $(PIP_ARGS) $(BUILD_ASKED) $(COMPILERS) $(CURDIR))
BROKEN := $(shell [ ! -e $(VENV)/.torch ] || $(BIN)/python -c '' 2>/dev/null || echo its interpreter is gone)
ifneq ($(ASKED),$(shell cat $(VENV)/.asked 2>/dev/null)$(BROKEN))
.PHONY: $(VENV)/.asked
endif
$(VENV)/.asked:
	@mkdir -p $(VENV) && echo "$$ASKED" >$@

# An environment of another interpreter or folder is emptied first: venv would leave its links as they are.
INTERPRETER := import sys; print(sys.base_prefix, sys.version)
# The interpreter itself and no link to it, from which some cannot make an environment.
BASE := import ensurepip, os, sys; sys.version_info < (3, 11) or print(os.path.realpath(sys._base_executable))
$(VENV)/.torch: $(VENV)/.asked constraints.txt
	@python=$$(PATH="$$OUTER_PATH"; for name in "$(PYTHON)" python3.12 python3.13 python3.14 python3; do \
	    found=$$("$$name" -c '$(BASE)' 2>/dev/null) && [ -n "$$found" ] && echo "$$found" && break; \
	done || true); \
	if [ -z "$$python" ]; then \
	    echo "foveate: no Python 3.11 or later with venv found; install one or say make PYTHON=/path/to/python" >&2; exit 1; \
	fi; \
	echo "set-up 1/2: $(VENV) with $(TORCH) ($$("$$python" --version))"; \
	if [ "$$("$$python" -c '$(INTERPRETER)')" != "$$($(BIN)/python -c '$(INTERPRETER)' 2>/dev/null)" ] || \
	    { [ -e $(VENV)/.place ] && [ "$$(cat $(VENV)/.place)" != "$(CURDIR)" ]; }; then \
	    "$$python" -m venv --clear $(VENV) && echo "$$ASKED" >$(VENV)/.asked; \
	else \
	    "$$python" -m venv $(VENV); \
	fi; \
	echo "$(CURDIR)" >$(VENV)/.place
	@$(PIP) "$(TORCH)" $(BUILD_TOOLS)
	@touch $@

# A build without isolation uses the torch that is there instead of fetching another one.
$(VENV)/.run: $(VENV)/.torch $(SOURCES)
	@echo "set-up 2/2: foveate and what it needs (compiles csrc/)"
	@$(PIP) --no-build-isolation "$(TORCH)" --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.torch $(SOURCES)
	@echo "set-up 2/2: foveate, what it needs and the test tools (compiles csrc/)"
	@$(PIP) --no-build-isolation "$(TORCH)" --editable '.[dev]'
	@touch $(VENV)/.run $@

# As they were written: neither make nor the shell reads anything in them.
export ASKED_PICTURE := $(value PICTURE)
export ASKED_QUESTION := $(value QUESTION)
demo: $(VENV)/.run
	@$(BIN)/foveate ask "$$ASKED_PICTURE" "$$ASKED_QUESTION" --save-trace runs/demo

test: $(VENV)/.dev
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

lint: $(VENV)/.dev
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check

# mypy cannot follow an editable install that maps folders: it reads the package through a tree of links.
types: $(VENV)/.dev
	@rm -rf .link-tree && mkdir -p .link-tree/foveate
	@ln -s "$(CURDIR)"/src/foveate/* .link-tree/foveate/
	@for folder in $(FOLDERS); do ln -s "$(CURDIR)/$$folder" .link-tree/foveate/; done
	@$(BIN)/mypy --package foveate

eval: $(VENV)/.run
	@$(BIN)/foveate eval $(SUITE) --json --out runs/eval $(EVAL_ARGS)

check-wheel: $(VENV)/.run
	@rm -rf build dist && mkdir -p build/check
	@echo "check-wheel 1/3: building"
	@$(BIN)/python -m pip -qq wheel --no-build-isolation --no-deps --wheel-dir dist .
	@echo "check-wheel 2/3: installing into an empty environment"
	@$(BIN)/python -m venv build/check/venv
	@build/check/venv/bin/python -m pip -qq install $(PIP_ARGS) --constraint constraints.txt "$(TORCH)" dist/foveate-*.whl
	@echo "check-wheel 3/3: asking from another folder"
	@cp "$$ASKED_PICTURE" build/check/picture.png
	@cd build/check && venv/bin/foveate doctor && venv/bin/foveate ask picture.png "$$ASKED_QUESTION"

SANITIZERS := libasan.so libubsan.so libstdc++.so
sanitize: $(VENV)/.dev
	@rm -rf build/sanitized && mkdir -p build/sanitized/foveate
	@echo "sanitize 1/2: compiling csrc/ (minutes)"
	@FOVEATE_SANITIZE=address,undefined $(BIN)/python setup.py -q build_ext \
	    --build-lib build/sanitized/ext --build-temp build/sanitized/temp
	@ln -s "$(CURDIR)"/src/foveate/* build/sanitized/foveate/
	@for folder in $(FOLDERS); do ln -s "$(CURDIR)/$$folder" build/sanitized/foveate/; done
	@rm -f build/sanitized/foveate/*.so
	@ln -s "$(CURDIR)"/build/sanitized/ext/foveate/*.so build/sanitized/foveate/
	@echo "sanitize 2/2: running the tests of operations"
	@LD_PRELOAD="$$(for name in $(SANITIZERS); do g++ -print-file-name=$$name; done | tr '\n' ' ')" \
	    ASAN_OPTIONS=detect_leaks=0 PYTHONPATH=build/sanitized \
	    $(BIN)/python -m pytest tests/ops --ignore tests/ops/test_cuda_build.py $(PYTEST_ARGS)

clean:
	@rm -rf build dist *.egg-info src/*.egg-info src/foveate/*.so .link-tree .mypy_cache .ruff_cache .pytest_cache
	@rm -f $(VENV)/.run $(VENV)/.dev
	@find $(FOLDERS) src tests -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	@rm -rf $(VENV)
