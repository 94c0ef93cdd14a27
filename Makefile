# Each target sets up its own virtual environment from the pins in constraints.txt.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
OUTPUT := ckpt/
# Two processes share the tests, which mostly wait for compilers that use one core.
PARALLEL := --numprocesses 2 --durations 15

.PHONY: demo test test-long test-backends coverage mutants lint bench

demo: .venv/installed
	$(BIN)/python recipes/digits.py --output $(OUTPUT) $(if $(shell grep -s '"recipe": "digits"' $(OUTPUT)run.json),--overwrite)
	$(BIN)/python -m export.onnx --model $(OUTPUT)
	$(BIN)/python -m export.saved_model --model $(OUTPUT)
	@$(BIN)/python -m export.summary --model $(OUTPUT)

test: .venv/installed lint
	$(BIN)/python -m pytest $(PARALLEL)

test-long: .venv/installed
	$(BIN)/python -m pytest $(PARALLEL) -m long

test-backends: .venv-backends/installed
	KERAS_BACKEND=jax .venv-backends/bin/python -m pytest $(PARALLEL)
	KERAS_BACKEND=torch .venv-backends/bin/python -m pytest $(PARALLEL)

# Of lines that the tests run, those in programs that they start included.
coverage: .venv/installed
	$(BIN)/python -m pytest $(PARALLEL) --cov --cov-report term --cov-fail-under 95

# On torch, which starts soonest; then, on TensorFlow, the methods that call it.
# One core: a mutant takes less time than its share of a busy machine costs others.
mutants: .venv-mutants/installed
	rm -rf mutants
	$(MUTATE) KERAS_BACKEND=torch .venv-mutants/bin/mutmut run --max-children 1

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: .venv/installed
	$(BIN)/python benchmarks/bench.py
	$(BIN)/python benchmarks/inference.py
	$(BIN)/python benchmarks/regression.py
	$(BIN)/python benchmarks/loss_study.py
	$(BIN)/python benchmarks/generators.py

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

# Without TensorFlow, which shows that kcaps does not need it there.
.venv-backends/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-backends
	.venv-backends/bin/python -m pip install --quiet --constraint constraints.txt jax keras mpmath numpy pytest pytest-xdist torch
	.venv-backends/bin/python -m pip install --quiet --no-deps --editable .
	touch $@
