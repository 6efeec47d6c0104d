# Each target prepares all it needs itself. `make help` lists the targets and variables.

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
DDN_CUDA ?= auto
# native: the GPUs present, or torch's own list without a GPU
TORCH_CUDA_ARCH_LIST ?= native
DEMO_ARGS ?=
PYTEST_ARGS ?=
SOAK_ARGS ?=
DOCS_ARGS ?=
SANITIZE_ARGS ?= --cases 2000
FUZZ_ARGS ?= -max_total_time=60
CLANG ?= clang++
OUT ?= bench/results

# The environment made here is independent of the caller's.
CLEAN := env -u PYTHONPATH -u PYTHONHOME -u PYTHONSTARTUP -u VIRTUAL_ENV -u PIP_USER -u PIP_TARGET \
	-u PIP_PREFIX -u PIP_ROOT -u PIP_REQUIREMENT -u PIP_CONSTRAINT PYTHONNOUSERSITE=1
PY := $(CLEAN) "$(VENV)/bin/python"
PIP := $(PY) -m pip --disable-pip-version-check
BUILD_ENV := DDN_CUDA="$(DDN_CUDA)" TORCH_CUDA_ARCH_LIST="$(TORCH_CUDA_ARCH_LIST)"

DEPS := $(VENV)/.dependencies
LINT_DEPS := $(VENV)/.lint-dependencies
DOCS_DEPS := $(VENV)/.docs-dependencies
BUILT := build/inplace
# Folders are listed too: they change when a file is added or removed.
INPUTS := setup.py build_config.py build_toolkit.py pyproject.toml \
	$(shell find csrc -type d -o -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')
# The extension lies in the source tree, where another build may have replaced it.
EXTENSION := $(wildcard ddn_cuda/_C*.so)

.PHONY: help demo test test-slow test-all test-ptx test-ptx-kernels test-ptx-sets soak sanitize fuzz lint docs build gpu-check clean FORCE
.DELETE_ON_ERROR:

help:
	@echo 'make demo       train the point-cloud classifiers of examples/digits.py; DEMO_ARGS=...'
	@echo 'make test       run the tests, in as many processes as there are cores; PYTEST_ARGS=...'
	@echo 'make test-slow  run the tests that make test leaves out: all values of the sweeps, mutation tests,'
	@echo '                the tutorial; PYTEST_ARGS=...'
	@echo 'make test-all   both; .ci/run runs all targets but gpu-check, soak and fuzz'
	@echo 'make test-ptx   run the PTX of all CUDA kernels on the CPU and compare its instruction counts;'
	@echo '                20 minutes on two cores, needs nvcc and no GPU; PYTEST_ARGS=...'
	@echo 'make soak       verify a million random sets, two minutes; SOAK_ARGS=..., writes soak.json to OUT'
	@echo 'make sanitize   the kernels of both devices, without torch, under address and undefined-behaviour'
	@echo '                sanitizers, four minutes with the compiler; SANITIZE_ARGS=...'
	@echo 'make fuzz       the same cases from libFuzzer, with CLANG=$(CLANG); FUZZ_ARGS=...'
	@echo 'make lint       ruff, mypy and clang-format'
	@echo 'make docs       execute the tutorial and build the site in build/docs/html; DOCS_ARGS=--write keeps'
	@echo '                its outputs in docs/tutorial'
	@echo 'make build      build the extension in place'
	@echo 'make gpu-check  on a machine with a GPU, with its torch and nvcc, in about 8 minutes: the tests that'
	@echo '                need CUDA, compute-sanitizer, speed targets, ncu; writes one JSON to OUT=$(OUT)'
	@echo 'make clean      remove environment and builds'
	@echo
	@echo 'PYTHON=$(PYTHON)  VENV=$(VENV)  TORCH=$(TORCH)'
	@echo 'DDN_CUDA=$(DDN_CUDA)  auto: CUDA when torch has it and a matching toolkit is found; 0: no; 1: yes or fail'
	@echo 'TORCH_CUDA_ARCH_LIST=$(TORCH_CUDA_ARCH_LIST)  such as "8.0;9.0+PTX"; native: the GPUs present'

demo: build
	@$(PY) -m examples.digits $(DEMO_ARGS)

# Processes of one thread each; an idle one takes tests from another.
PYTEST := $(PY) -m pytest -n auto --maxprocesses=8 --dist=worksteal

test: build
	@$(PYTEST) -m 'not slow' $(PYTEST_ARGS)
test-slow: build
	@$(PYTEST) -m slow $(PYTEST_ARGS)
test-all: build
	@$(PYTEST) $(PYTEST_ARGS)

# Two processes, which share what is built.
test-ptx: build
	@$(MAKE) --no-print-directory -j2 --output-sync=target test-ptx-kernels test-ptx-sets

PTX_TESTS := $(PY) -m pytest --kernels=ptx
test-ptx-kernels:
	@$(PTX_TESTS) tests/cuda/test_cuda_shim.py tests/cuda/test_cuda_shim_global.py \
		tests/cuda/test_cuda_shim_weights.py tests/cuda/test_cuda_shim_backward.py \
		tests/cuda/test_shim.py $(PYTEST_ARGS)
test-ptx-sets:
	@$(PTX_TESTS) tests/cuda/test_cuda_shim_sets.py tests/cuda/test_cuda_shim_sharded.py \
		tests/cuda/test_ptx_emulator.py tests/cuda/test_gpu_model_command.py $(PYTEST_ARGS)

soak: build
	@$(PY) -m tests.soak --json $(OUT)/soak.json $(SOAK_ARGS)

# These two need a C++ compiler alone.
sanitize:
	@$(MAKE) -C tests/native -j2 OUT="$(CURDIR)/build/native"
	@build/native/pooling_cases $(SANITIZE_ARGS)

fuzz:
	@$(MAKE) -C tests/native -j2 OUT="$(CURDIR)/build/native" CLANG="$(CLANG)" fuzzer
	@mkdir -p build/native/corpus
	@build/native/pooling_fuzz $(FUZZ_ARGS) -artifact_prefix=build/native/ build/native/corpus

lint: $(DEPS) $(LINT_DEPS)
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy
	@$(PY) -m mypy --strict ddn_cuda
	@find csrc tests -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' \
		| xargs "$(VENV)/bin/clang-format" --dry-run -Werror

docs: build $(DOCS_DEPS)
	@$(PY) -m sphinx -W --keep-going -n -q -E -b html docs build/docs/html
	@$(PY) docs/outputs.py $(DOCS_ARGS)

build: $(BUILT)

# Makes no environment and downloads nothing: it checks the machine's own torch.
gpu-check:
	"$(PYTHON)" -m bench.gpu_check --out "$(OUT)"

clean:
	rm -rf "$(VENV)" build dist ddn_cuda.egg-info ddn_cuda/_C*.so

$(VENV)/bin/python:
	@"$(PYTHON)" -c 'import sys; sys.version_info >= (3, 11) or sys.exit("ddn_cuda: the packages pinned in requirements/ need Python 3.11 or later; set PYTHON")'
	@echo 'creating $(VENV)'
	@$(CLEAN) "$(PYTHON)" -m venv "$(VENV)"

# A file that holds the settings a target was made with, touched only when they change.
define remember
@mkdir -p $(@D)
@echo '$(1)' | cmp -s - "$@" || echo '$(1)' > "$@"
endef

$(VENV)/.torch: $(VENV)/bin/python FORCE
	$(call remember,$(TORCH))

build/settings: FORCE
	$(call remember,$(VENV) $(TORCH) DDN_CUDA=$(DDN_CUDA) $(TORCH_CUDA_ARCH_LIST))

$(DEPS): $(VENV)/.torch requirements/build.txt requirements/test.txt requirements/examples.txt
	@echo 'installing $(TORCH) and the pinned packages of requirements/ in $(VENV)'
	@$(PIP) install "$(TORCH)" -r requirements/build.txt -r requirements/test.txt -r requirements/examples.txt
	@touch "$@"

$(LINT_DEPS): $(DEPS) requirements/lint.txt
	@$(PIP) install -r requirements/lint.txt
	@touch "$@"

$(DOCS_DEPS): $(DEPS) requirements/docs.txt
	@$(PIP) install -r requirements/docs.txt
	@touch "$@"

$(BUILT): $(DEPS) build/settings $(INPUTS) $(if $(EXTENSION),$(EXTENSION),FORCE)
	@$(BUILD_ENV) $(PY) setup.py -q build_ext --inplace
	@$(BUILD_ENV) $(PIP) install -q --no-build-isolation --no-deps -e .
	@touch "$@"
