# Each target sets up its own virtual environment from the pins in constraints.txt.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
OUTPUT := ckpt/

.PHONY: demo test lint

demo: .venv/installed
	$(BIN)/python recipes/digits.py --output $(OUTPUT) $(if $(shell grep -s '"recipe": "digits"' $(OUTPUT)run.json),--overwrite)
	$(BIN)/python -m export.onnx --model $(OUTPUT)
	$(BIN)/python -m export.saved_model --model $(OUTPUT)
	@$(BIN)/python -m export.summary --model $(OUTPUT)

test: .venv/installed lint
	$(BIN)/python -m pytest

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@
