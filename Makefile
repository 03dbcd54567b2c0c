# Every target makes its own .venv first; nothing else has to be installed by hand.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Made anew when the dependencies or the Python change.
STAMP := $(VENV)/installed-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
# Next to it: what only benchmarks and comparisons need.
BENCH_STAMP := $(STAMP)-bench
LOADER_STAMP := $(STAMP)-bench-loader
REFERENCE_STAMP := $(STAMP)-reference
BROWSER_STAMP := $(STAMP)-browser
DOCS_STAMP := $(STAMP)-docs
NOTEBOOKS_STAMP := $(STAMP)-notebooks
PACKAGE_STAMP := $(STAMP)-package
# A run's features directory, or one .npy: make bench-kmeans FEATURES=runs/quickstart/features
FEATURES ?=
BENCH_FLAGS ?=
AHEAD_FLAGS ?=
CHAOS_FLAGS ?=
# A worker for each core, up to four. The tests of a file run in one worker and share what they
# make; tests/conftest.py says which files come first.
PYTEST := $(BIN)/python -m pytest -q --numprocesses=logical --maxprocesses=4 --dist=loadfile \
	--no-loadscope-reorder

.PHONY: quickstart tables test test-all reference tour browser check fix docs notebooks package bench-kmeans \
	bench-loader bench-train scale ahead chaos clean

quickstart: $(STAMP)  ## The whole method on embedded photographs; the report is runs/quickstart/report/index.html
	$(BIN)/python -m kt_jax.main --config=configs/quickstart.py --workdir=runs/quickstart

# Programs of this size take longer to compile than to run: LLVM optimises nothing.
tables: $(STAMP)  ## The paper's questions as tables, at a size that learns nothing: do all of them come?
	XLA_FLAGS="--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true $$XLA_FLAGS" \
		$(BIN)/python -m kt_jax.main --config=configs/tables.py:tiny --workdir=runs/tables-tiny
	$(BIN)/python tests/table_floors.py runs/tables-tiny

test: $(STAMP)  ## The fast tests
	$(PYTEST) -m "not slow"

test-all: $(STAMP)  ## All tests, minutes longer
	$(PYTEST) --durations=10

reference: $(REFERENCE_STAMP)  ## Compares the networks with PyTorch's, minutes; installs PyTorch
	$(PYTEST) $(wildcard tests/models/test_reference_*.py)

tour: $(REFERENCE_STAMP)  ## Types docs/tour.md: photographs, clusters, labels, exports; minutes; installs PyTorch
	$(BIN)/python tests/tour.py

browser: $(BROWSER_STAMP)  ## Opens the atlas in a headless Chromium, which must be installed (docs/atlas.md)
	$(PYTEST) $(wildcard tests/results/atlas/test_*browser*.py)

check: $(STAMP)  ## Style, types, who imports whom, shell scripts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyrefly check --python-interpreter-path $(BIN)/python
	$(BIN)/lint-imports --no-cache
	$(BIN)/shellcheck --external-sources launch/*.sh launch/slurm.sbatch

fix: $(STAMP)  ## What ruff can fix by itself
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(DOCS_STAMP)  ## The documentation as a site, build/site/index.html; a broken local link is an error
	NO_MKDOCS_2_WARNING=1 JAX_PLATFORMS=cpu $(BIN)/python -m mkdocs build --strict

notebooks: $(NOTEBOOKS_STAMP)  ## Runs the notebooks at tiny size, a few minutes
	JAX_PLATFORMS=cpu $(BIN)/python tests/run_notebooks.py

package: $(PACKAGE_STAMP)  ## Builds dist/, checks it, and starts what the wheel holds, outside this checkout
	rm -rf dist
	$(BIN)/python -m build --quiet --outdir=dist
	$(BIN)/python -m twine check --strict dist/*
	$(BIN)/python -m pip install --quiet --no-deps --target=dist/installed dist/*.whl
	cd dist && PYTHONPATH=installed $(abspath $(BIN))/python -m kt_jax --help
	cd dist && PYTHONPATH=installed $(abspath $(BIN))/python -m kt_jax run --config=quickstart.py:tiny \
		--workdir=run --dry_run

bench-kmeans: $(BENCH_STAMP)  ## k-means beside its peers, an hour or two; the page is benchmarks/kmeans.md
	$(BIN)/python benchmarks/kmeans.py $(if $(FEATURES),--features=$(FEATURES)) $(BENCH_FLAGS)

bench-loader: $(LOADER_STAMP)  ## Images in, beside torch and tf.data, half an hour; the page is benchmarks/loader.md
	$(BIN)/python benchmarks/loader.py $(BENCH_FLAGS)

bench-train: $(LOADER_STAMP)  ## Training steps beside torch, half an hour; the page is benchmarks/train.md
	$(BIN)/python benchmarks/train.py $(BENCH_FLAGS)

scale: $(STAMP)  ## What large machines would take, from programs compiled for 64 pretended devices: docs/scale.md
	$(BIN)/python benchmarks/scale.py

ahead: $(STAMP)  ## Compiles the programs for TPUs and GPUs without having any, hours: docs/accelerators.md
	$(BIN)/python benchmarks/ahead.py --install $(AHEAD_FLAGS)

chaos: $(STAMP)  ## Kills quickstart 20 times, and compares every byte with an undisturbed run, 15 minutes
	$(BIN)/python tests/chaos.py $(CHAOS_FLAGS)

clean:
	rm -rf $(VENV)

$(STAMP): pyproject.toml
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV) || \
		{ echo "$(PYTHON) makes no virtual environment; on Debian: apt-get install python3-venv"; exit 1; }
	@echo "installing into $(VENV): some minutes, and 2 GB"
	$(BIN)/python -m pip install --quiet -e '.[test]'
	touch $@

$(BENCH_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet -e '.[test,bench]'
	touch $@

$(REFERENCE_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet -e '.[test,onnx,reference]'
	touch $@

$(BROWSER_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet -e '.[test,browser]'
	touch $@

$(DOCS_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet -e '.[test,docs]'
	touch $@

$(NOTEBOOKS_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet -e '.[test,notebooks]'
	touch $@

$(PACKAGE_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet -e '.[test,package]'
	touch $@

# Gigabytes, hence apart from the others.
$(LOADER_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet -e '.[test,bench-loader]'
	touch $@
