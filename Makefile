# Two verbs do everything on a fresh machine: `make demo` and `make test`. The others assume nothing either.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CACHE ?= .cache
export TOKENIZERS_PARALLELISM := false
# Modules are compiled when they are first imported, a sixth of them, rather than all at set-up; so they must be kept.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup demo loop-demo serve test check chaos loop-chaos bench clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable ".[demo,dev]"
	touch $@

$(CACHE)/SmolLM2-135M-Instruct/config.json: | setup
	$(BIN)/python examples/fetch_model.py --out $(CACHE)/SmolLM2-135M-Instruct

$(CACHE)/demo/pool.jsonl: examples/build_pool.py | setup
	$(BIN)/python examples/build_pool.py --out $(CACHE)/demo

demo: setup $(CACHE)/SmolLM2-135M-Instruct/config.json $(CACHE)/demo/pool.jsonl
	$(BIN)/clusterucb select cluster_configs/runs/demo.yaml --out runs/demo

loop-demo: setup $(CACHE)/SmolLM2-135M-Instruct/config.json $(CACHE)/demo/pool.jsonl
	$(BIN)/clusterucb run cluster_configs/runs/loop_demo.yaml --out runs/loop_demo

serve: setup
	$(BIN)/clusterucb serve --demo

test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

chaos: setup
	$(BIN)/python tests/chaos.py
	$(BIN)/python tests/service_chaos.py

loop-chaos: setup
	$(BIN)/python tests/loop_chaos.py

bench: setup $(CACHE)/SmolLM2-135M-Instruct/config.json
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/gradients.py --model $(CACHE)/SmolLM2-135M-Instruct
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/clustering.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/search_scale.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/dispatch.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/elastic.py

clean:
	rm -rf runs $(CACHE)/demo
