# make demo   the whole loop on ten bundled scenarios; prints the path of one HTML report
# make fix    format, and mend what lint can
# make check  lint and types
# make test   both, and tests
# make test-package  wheel and source archive, built and tried elsewhere; test-package-short: the wheel alone
# make package  wheel and source archive in dist/
# make test-cpus  tests that compare numbers, under several kernels of this CPU; test-cpus-short takes a minute
# make bench    speed of kernels, denoiser, critic and lanes on this machine's GPU, or tiny sizes on a CPU
# make results  RESULTS.md, its plots and the figures of README.md and docs from bench/results
# make docs     docs/settings.md and docs/run-folder.schema.json from settings and stored types
# make faults  kills, signals, full disks, damage, hostile input and an hour of soak -> bench/results/faults.json
# make audit   bandit over the sources, hadolint over the Dockerfile, pip-audit over what is installed (it asks
#              api.osv.dev)
# make extras  whether each extra can be resolved together with the rest (it asks the package index)
# make constraints  what is installed in .venv, as .ci/constraints.txt
# make gpu-acceptance  TensorRT on this machine's card: build, parity, time, overlap; and INT8 attention, ours and
#              comfy-kitchen's, against the library's -> gpu_acceptance.json
# make weights-acceptance GENERATOR=DIR CRITIC=DIR  published weights: ten scenes -> weights_acceptance.json
# All create .venv and install on first use; they install again only when pyproject.toml changes. With
# CONSTRAINTS=FILE, such as .ci/constraints.txt, they install the versions that it names.

PYTHON ?= $(shell for p in python3.11 python3.12 python3 python; do \
	$$p -c 'import sys, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null \
	&& echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
PIP_FLAGS := --disable-pip-version-check --quiet $(if $(CONSTRAINTS),-c $(CONSTRAINTS))
RUNTIME := $(VENV)/.installed
TESTING := $(VENV)/.installed-test

.PHONY: demo fix check test test-slow test-package test-package-short test-cpus test-cpus-short faults audit bench
.PHONY: results docs package extras constraints gpu-acceptance weights-acceptance clean

demo: $(RUNTIME)
	$(BIN)/retake demo

fix: $(TESTING)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check: $(TESTING)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile -m "not slow and not gpu"

test-slow: $(TESTING)
	$(BIN)/python -m pytest -m "slow and not gpu"

test-package: $(TESTING)
	$(BIN)/python -m pytest tests/test_package.py

test-package-short: $(TESTING)
	$(BIN)/python -m pytest tests/test_package.py -k "commands or name or loop"

test-cpus: $(TESTING)
	$(BIN)/python tests/support/cpu_settings.py -n auto --maxprocesses 4 --dist loadfile

test-cpus-short: $(TESTING)
	$(BIN)/python tests/support/cpu_settings.py --short -n auto --maxprocesses 2 --dist loadfile

faults: $(TESTING)
	PYTHONPATH=.:tests/support $(BIN)/python -m faults

audit: $(RUNTIME)
	$(BIN)/python -m pip install $(PIP_FLAGS) -e ".[audit]"
	$(BIN)/bandit -q -c pyproject.toml -r engine kernels export bench
	$(BIN)/hadolint Dockerfile
	$(BIN)/python -m pip freeze --exclude-editable > $(VENV)/audit.txt
	$(BIN)/pip-audit --strict --no-deps --disable-pip -s osv -r $(VENV)/audit.txt

package: $(TESTING)
	$(BIN)/python -m pip wheel $(PIP_FLAGS) --no-deps --wheel-dir dist .
	$(BIN)/python -c "from setuptools import build_meta; build_meta.build_sdist('dist')" >/dev/null
	rm -rf build

extras: $(RUNTIME)
	for extra in test gpu export constrained watch bench audit; do echo $$extra; \
	$(BIN)/python -m pip install $(PIP_FLAGS) --dry-run --ignore-installed ".[$$extra]" || exit 1; done
	rm -rf build

constraints: $(TESTING)
	{ grep '^#' .ci/constraints.txt; $(BIN)/python -m pip freeze --exclude-editable | sed 's/+[a-z0-9.]*$$//'; } \
	> .ci/constraints.new
	mv .ci/constraints.new .ci/constraints.txt

bench: $(TESTING)
	@mkdir -p .benchmarks
	$(BIN)/python -m pytest bench/perf -rs --timeout=1800 --benchmark-json=.benchmarks/bench.json

results: $(RUNTIME)
	$(BIN)/python -m bench.results_page

docs: $(RUNTIME)
	$(BIN)/python -m engine.settings.docs
	$(BIN)/python -m engine.runs.schema

gpu-acceptance: $(RUNTIME)
	$(BIN)/python -m pip install $(PIP_FLAGS) -e ".[export,gpu]"
	$(BIN)/python -m bench.perf.gpu_acceptance --json gpu_acceptance.json

weights-acceptance: $(RUNTIME)
	$(BIN)/python -m bench.perf.weights_acceptance --generator "$(GENERATOR)" --critic "$(CRITIC)" \
	--json weights_acceptance.json

$(BIN)/python:
	@test -n "$(PYTHON)" || { \
	echo "Retake needs Python 3.11 or 3.12 with the venv module (Debian and Ubuntu: apt-get install" \
	"python3-venv); or name one: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(RUNTIME): pyproject.toml | $(BIN)/python
	@echo "installing into $(VENV) (torch is large: this takes a few minutes the first time)"
	$(BIN)/python -m pip install $(PIP_FLAGS) -e .
	@touch $@

$(TESTING): pyproject.toml | $(BIN)/python
	@echo "installing into $(VENV) with test tools (torch is large: this takes a few minutes the first time)"
	$(BIN)/python -m pip install $(PIP_FLAGS) -e ".[test]"
	@touch $(RUNTIME) $@

clean:
	rm -rf .mypy_cache .pytest_cache .ruff_cache .benchmarks .hypothesis
