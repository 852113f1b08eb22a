# The Python to make the environment with: 3.11 or later.
PYTHON ?= python3
BIN := .venv/bin

UNIT := .ci floe_plugins flower_strategy vllm_logits_processor tools
PYTEST := $(BIN)/python -m pytest --durations=25

# Set-up compiles nothing, since Python keeps what it compiles at the first import. Where it is told
# not to, every process of every server would compile vLLM and torch anew, for minutes.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo test test-matrix lint unit integration bench bench-quick gpu-check docs clean

help: ## Show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

setup: ## Prepare the environment in .venv (PYTHON=python3.12 chooses the interpreter)
	@$(PYTHON) .ci/setup_env.py

demo: setup ## Federated training, then two models that answer together
	@$(BIN)/python -m integration_tests.demo

test: setup ## Everything: lint, types, unit and integration tests
	@$(MAKE) --no-print-directory -j2 --output-sync=line lint unit
	@$(MAKE) --no-print-directory integration

test-matrix: setup ## The halves on other versions of Flower and vLLM, in environments of their own
	@$(BIN)/python .ci/test_matrix.py

lint: setup ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

unit: setup ## The tests beside the code
	$(PYTEST) --numprocesses 2 --dist loadfile $(UNIT)

# Servers and runs begin with minutes of imports, each on one core: two files at a time. Tests that
# measure time have the machine for themselves.
integration: setup ## Real Flower runs and real vLLM servers
	$(PYTEST) --numprocesses 2 --dist loadfile --no-loadscope-reorder -m "not timed" integration_tests
	$(PYTEST) -m timed integration_tests/benchmarks

bench: setup ## Every benchmark, into docs/results (about an hour on two cores)
	$(BIN)/python -m integration_tests.benchmarks

bench-quick: setup ## Every benchmark with small sizes, into docs/results/quick (about ten minutes)
	$(BIN)/python -m integration_tests.benchmarks --quick

# By the Python that has torch for the GPU: nothing is installed.
gpu-check: ## What only a GPU can show, into gpu-check.json (PYTHON=python3 is the GPU's)
	PYTHONPATH=. $(PYTHON) -m integration_tests.gpu_check --out gpu-check.json

docs: setup ## The documentation site, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

clean: ## Remove the environment and what tools leave behind
	rm -rf .venv .environments .setup.lock .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist site
