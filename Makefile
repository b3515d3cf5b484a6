PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# a process a core, each with one thread: torch's own threads would fight for the cores
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadgroup
# with COVERAGE=1, as in CI: coverage takes half as long again; make test starts it, make test-integration completes it
ALL_COVERED := --cov --cov-report=term --cov-fail-under=90
STARTED := $(if $(COVERAGE),--cov --cov-report=)
COMPLETED := $(if $(COVERAGE),--cov-append $(ALL_COVERED))

.PHONY: help install demo docs bandit lint lint-web security check test test-integration test-all test-gpu test-peers cost peers memory gpu clean
help:
	@echo "make install   create $(VENV) and install vitscope with its development tools"
	@echo "make demo      explain bundled scenes with the bundled models, and print where the page is"
	@echo "make docs      the site of the documentation, its notebooks run, into out/docs; a warning is an error"
	@echo "make lint-web  the format of the pages' scripts and styles (needs npx)"
	@echo "make check     the tests of what changed, or of FILES=\"src/vitscope/... ...\" (tools/check.py)"
	@echo "make test      lint, types, and the unit tests"
	@echo "make test-integration  Ray, killed processes, browsers, servers, pages of the documentation, demo, wheel, example"
	@echo "make test-all  both, with coverage, the slow tests and make security"
	@echo "make security  known faults of the dependencies (needs a network) and of the code (pip-audit, bandit)"
	@echo "make test-peers against pytorch-grad-cam, Captum and Quantus themselves, which it installs"
	@echo "make test-gpu  the same maps on CUDA as on the CPU (needs a GPU)"
	@echo "make cost      what each method costs, in forwards (benchmarks/cost.py)"
	@echo "make peers     the same beside other libraries, each installed in an environment of its own (benchmarks/peers.py)"
	@echo "make gpu       every benchmark on one GPU, into out/gpu (benchmarks/gpu.py)"
	@echo "make memory    what each method takes of memory at 518 px (benchmarks/memory.py; Linux)"

install: $(VENV)/.installed
$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

demo: install
	$(BIN)/vitscope demo --out out/demo

docs: install
	OMP_NUM_THREADS=1 $(BIN)/sphinx-build -W --keep-going -n -d out/docs-trees docs out/docs
	@echo "out/docs/index.html"

# its findings are mended, or explained beside the line (# nosec)
bandit: install
	$(BIN)/bandit --quiet --recursive --configfile pyproject.toml src

lint: bandit
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# the pages' scripts and styles; needs Node's npx
lint-web:
	npx --yes prettier@3 --check --print-width 120 "src/vitscope/**/front/*.{js,css}"

check: install
	$(BIN)/python tools/check.py $(FILES)

test: lint
	$(PYTEST) -m "not slow and not integration" $(STARTED)

test-integration: install
	$(PYTEST) -m "integration and not slow" $(COMPLETED)

# pip-audit asks a service that may be out of reach: that is said in the last line and is no pass, nor does it fail what was
# tested
security: bandit
	$(BIN)/python tools/audit.py

test-all: lint security
	$(PYTEST) $(ALL_COVERED)

test-peers: install
	$(BIN)/python -m pip install --quiet --editable ".[dev,peers]"
	$(BIN)/pytest tests/methods/test_cam_library.py tests/metrics tests/bridges

test-gpu: install
	$(BIN)/pytest -m gpu

cost: install
	$(BIN)/python benchmarks/cost.py

gpu: install
	$(BIN)/python benchmarks/gpu.py --out out/gpu

memory: install
	$(BIN)/python benchmarks/memory.py

peers: install
	$(BIN)/python benchmarks/peers.py

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage out
