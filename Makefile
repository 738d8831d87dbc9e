# Each goal works alone on a machine with Python 3.10-3.12, a C++ compiler and
# make: it creates .venv, installs the tested set of packages, and runs. What is
# done already is skipped; a changed file in requirements/ installs again.

PYTHON ?= python3
PYTEST_ARGS ?=

VENV := .venv
# the tested versions of all packages, and OpenMMLab's packages
CONSTRAINTS := requirements/constraints.txt
MM := requirements/mm.txt
BIN := $(VENV)/bin
DONE := $(VENV)/.done
# one process for each core, and one thread in each: faster than the reverse
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto
PIP := $(BIN)/python -m pip --disable-pip-version-check install \
	-c $(CONSTRAINTS)
# a folder with a ready build of mmcv saves compiling it
WHEELS := $(wildcard ../shared/wheels)

# Huge pages: on some machines training on the CPU is several times faster,
# as fresh memory comes in 2 MB at a time instead of 4 KB.
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

ASAN := build/asan
MINIMUM := .minimum
DEMO := configs/demo/mambascope_demo.py
SHIPPED := configs/demo/mambascope_demo.pth
DEMO_DATA := data/sample
DEMO_DIR := work_dirs/demo
LAST = $$(cat $(DEMO_DIR)/last_checkpoint)

STEP := @printf '\n==> %s\n'

.DELETE_ON_ERROR:
.NOTPARALLEL:
.DEFAULT_GOAL := help
.PHONY: help setup demo test suite test-all test-minimum test-asan lint format \
    docs release clean distclean

help:
	@echo 'make demo      train, evaluate and show a small MambaScope on sample data'
	@echo 'make test      lint and the fast tests'
	@echo 'make test-all  lint and all tests, the slow ones included'
	@echo 'make test-minimum the fast tests with the oldest packages that will do'
	@echo 'make test-asan the C++ operators under sanitizers'
	@echo 'make docs      the site, into build/docs; warnings are errors'
	@echo 'make release   wheel and sources, into dist, built and tried'
	@echo 'make lint      format check and lint'
	@echo 'make format    format and fix what can be fixed'
	@echo 'make setup     only create .venv'
	@echo 'make clean     remove what demo and tests made; .venv stays'
	@echo 'make distclean remove .venv as well'
	@echo
	@echo 'Variables: PYTHON=python3.11 (which Python to use, 3.10-3.12),'
	@echo '           PYTEST_ARGS="-k scan -x" (more arguments for pytest)'

# ---------------------------------------------------------------- set-up ----

setup: $(DONE)/mmscope

$(DONE)/venv: requirements/build.txt $(CONSTRAINTS)
	$(STEP) 'Set-up 1/6: $(VENV) and build tools (seconds)'
	@$(PYTHON) -c 'import sys; ok = (3, 10) <= sys.version_info < (3, 13); \
	    ok or sys.exit("mmscope is tested on Python 3.10-3.12, and this is " \
	    + sys.version.split()[0] + ": run make PYTHON=python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@mkdir -p $(DONE)
	$(PIP) -q -r requirements/build.txt
	@touch $@

$(DONE)/torch: requirements/torch.txt $(DONE)/venv
	$(STEP) 'Set-up 2/6: torch (1-10 minutes: up to 3 GB to download)'
	$(PIP) -r requirements/torch.txt
	@touch $@

$(DONE)/runtime: requirements/runtime.txt $(DONE)/torch
	$(STEP) 'Set-up 3/6: what mmcv, mmseg and mmdet need (1 minute)'
	$(PIP) -q -r requirements/runtime.txt
	@touch $@

# Without nvcc, mmcv is built for the CPU also where there is a GPU. No pip
# cache: it would hand out a build made for another torch.
$(DONE)/mm: $(MM) $(DONE)/runtime
ifneq ($(WHEELS),)
	$(STEP) 'Set-up 4/6: mmcv from $(WHEELS); mmseg and mmdet (1 minute)'
else
	$(STEP) 'Set-up 4/6: compiling mmcv (2-6 minutes on two cores); mmseg; mmdet'
	@command -v c++ >/dev/null || command -v g++ >/dev/null || { \
	    echo 'A C++ compiler is needed: install g++ or clang.'; exit 1; }
endif
	@command -v nvcc >/dev/null || export CUDA_VISIBLE_DEVICES=; \
	CFLAGS="$(if $(WHEELS),,$$($(BIN)/python requirements/precompile.py \
	    build/headers))" $(PIP) --no-deps --no-build-isolation --no-cache-dir \
	    $(addprefix --find-links ,$(WHEELS)) -r $(MM)
	@touch $@

$(DONE)/dev: requirements/dev.txt $(DONE)/mm
	$(STEP) 'Set-up 5/6: pytest and ruff (seconds)'
	$(PIP) -q -r requirements/dev.txt
	@touch $@

$(DONE)/mmscope: setup.py pyproject.toml mmscope/version.py $(DONE)/dev \
    mmscope/ops/extension.py $(wildcard mmscope/ops/csrc/*)
	$(STEP) 'Set-up 6/6: mmscope and its CPU operator; a check of imports (1 minute)'
	$(PIP) -q --no-deps --no-build-isolation -e .
	@$(BIN)/python requirements/check.py
	@touch $@

# --------------------------------------------------------- lint and tests ----

lint: $(DONE)/mmscope
	$(STEP) 'Format and lint (seconds)'
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m ruff check .

format: $(DONE)/mmscope
	$(BIN)/python -m ruff format .
	$(BIN)/python -m ruff check --fix .

test: lint suite

suite: $(DONE)/mmscope
	$(STEP) 'Fast tests (minutes)'
	$(PYTEST) $(PYTEST_ARGS)

test-all: lint
	$(STEP) 'All tests (many minutes)'
	$(PYTEST) -m '' $(PYTEST_ARGS)

# In a copy with an environment of its own, as the C++ operators are built in
# the tree. Files come from git, so that a removed one goes; builds stay.
test-minimum:
	$(STEP) 'The oldest packages, in $(MINIMUM)'
	@git init -q $(MINIMUM)
	@git -C $(MINIMUM) rm -rfq --ignore-unmatch .
	git ls-files -z | tar --null -T - -c | tar -x -C $(MINIMUM)
	@git -C $(MINIMUM) add .
	@$(MAKE) -s $(MINIMUM)/.venv/constraints.txt
	MMSCOPE_REAL_DATA=$${MMSCOPE_REAL_DATA:-$(abspath ../shared/data)} \
	    $(MAKE) -C $(MINIMUM) CONSTRAINTS=.venv/constraints.txt \
	    MM=requirements/classic.txt suite

# of two versions of a package pip is given the first
$(MINIMUM)/.venv/constraints.txt: requirements/minimum.txt \
    requirements/constraints.txt
	@mkdir -p $(@D)
	awk -F== '!seen[$$1]++' $^ > $@

# The extension under the address and undefined-behaviour sanitizers, in a copy
# of the tree. torch and Python keep memory on purpose: no leaks are looked for.
ASAN_TESTS := test_boundary.py test_scan/test_cpu.py test_conv/test_conv.py \
	test_norm/test_norm.py
test-asan: $(DONE)/mmscope
	$(STEP) 'The C++ operators under sanitizers (10 minutes)'
	@mkdir -p $(ASAN)
	git ls-files -z | tar --null -T - -c | tar -x -C $(ASAN)
	cd $(ASAN) && MMSCOPE_SANITIZE=1 $(CURDIR)/$(BIN)/python setup.py -q \
	    build_ext --inplace
	cd $(ASAN) && LD_PRELOAD="$$(gcc -print-file-name=libasan.so) \
	    $$(gcc -print-file-name=libubsan.so)" \
	    ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
	    PYTHONPATH=$(CURDIR)/$(ASAN) OMP_NUM_THREADS=2 \
	    $(CURDIR)/$(BIN)/python -m pytest -q -p no:cacheprovider \
	    -k 'not compile and not export and not process' \
	    $(addprefix tests/test_ops/,$(ASAN_TESTS)) $(PYTEST_ARGS)

# ------------------------------------------------------ documents, release ----

$(DONE)/docs: requirements/docs.txt $(DONE)/mmscope
	$(STEP) 'Sphinx (seconds)'
	$(PIP) -q -r requirements/docs.txt
	@touch $@

docs: $(DONE)/docs
	$(STEP) 'The site, into build/docs (1 minute)'
	$(BIN)/python -m sphinx -q -W --keep-going -E -b html docs build/docs

$(DONE)/release: requirements/release.txt $(DONE)/mmscope
	$(STEP) 'Tools that build and check packages (seconds)'
	$(PIP) -q -r requirements/release.txt
	@touch $@

# in a copy of what git knows, so that nothing else gets into the archives
release: lint docs $(DONE)/release
	$(STEP) 'Wheel and sources, into dist (1 minute)'
	@rm -rf dist build/release && mkdir -p build/release
	git ls-files -z | tar --null -T - -c | tar -x -C build/release
	$(BIN)/python -m build --no-isolation --outdir dist build/release
	$(BIN)/python -m twine check --strict dist/*
	MMSCOPE_WHEEL=$$(echo dist/*.whl) $(PYTEST) tests/test_wheel.py \
	    tests/test_cli.py

# ------------------------------------------------------------------ demo ----

$(DEMO_DATA)/.made: | $(DONE)/mmscope
	$(STEP) 'Demo 1/6: sample data into $(DEMO_DATA) (seconds)'
	$(BIN)/python tools/make_sample_data.py $(DEMO_DATA)
	@touch $@

$(DEMO_DIR)/.shown: $(DEMO_DATA)/.made $(SHIPPED)
	$(STEP) 'Demo 2/6: first pictures, by weights that are here, into $(DEMO_DIR)/first'
	$(BIN)/python tools/visualize_scope.py val $(DEMO) $(SHIPPED) \
	    --num-images 12 --out-dir $(DEMO_DIR)/first
	@touch $@

$(DEMO_DIR)/.trained: $(DEMO_DATA)/.made $(wildcard configs/demo/*.py)
	$(STEP) 'Demo 3/6: training $(DEMO) (up to 10 minutes on a CPU)'
	$(BIN)/python tools/train.py $(DEMO) --work-dir $(DEMO_DIR)
	@touch $@

demo: $(DONE)/mmscope $(DEMO_DIR)/.shown $(DEMO_DIR)/.trained
	$(STEP) 'Demo 4/6: evaluation; pictures into $(DEMO_DIR)/pictures (1 minute)'
	$(BIN)/python tools/test.py $(DEMO) "$(LAST)" \
	    --work-dir $(DEMO_DIR) --show-dir $(DEMO_DIR)/pictures
	$(STEP) 'Demo 5/6: what eta and tau give, into $(DEMO_DIR)/sweep (2 minutes)'
	$(BIN)/python tools/eta_sweep.py $(DEMO) "$(LAST)" \
	    --out-dir $(DEMO_DIR)/sweep --policies mean_positive
	$(STEP) 'Demo 6/6: the eta and tau that lose a point of mIoU (2 minutes)'
	$(BIN)/python tools/calibrate_eta.py $(DEMO) "$(LAST)" \
	    --out-dir $(DEMO_DIR)/calibration --max-drop 1
	@echo
	@echo 'Done: see $(DEMO_DIR)/first, pictures, sweep and calibration.'
	@echo 'Data and training are kept; make clean starts afresh.'

# ----------------------------------------------------------------- clean ----

clean:
	rm -rf $(DEMO_DIR) $(DEMO_DATA) build dist *.egg-info docs/generated
	rm -rf .pytest_cache .ruff_cache .hypothesis
	find . -path './.*' -prune -o -name __pycache__ -type d -print0 \
	    | xargs -0 rm -rf

distclean: clean
	rm -rf $(VENV) $(MINIMUM)
