# Every target makes its own .venv first; nothing else has to be installed by hand.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Made anew when the dependencies or the Python change.
STAMP := $(VENV)/installed-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')

.PHONY: quickstart test test-all check fix clean

quickstart: $(STAMP)  ## The whole method on embedded photographs; the report is runs/quickstart/report/index.html
	$(BIN)/python -m kt_jax.main --config=configs/quickstart.py --workdir=runs/quickstart

test: $(STAMP)  ## The fast tests
	$(BIN)/python -m pytest -q -m "not slow"

test-all: $(STAMP)  ## All tests, minutes longer
	$(BIN)/python -m pytest -q

check: $(STAMP)  ## Style, types, who imports whom
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyrefly check --python-interpreter-path $(BIN)/python
	$(BIN)/lint-imports --no-cache

fix: $(STAMP)  ## What ruff can mend by itself
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV)

$(STAMP): pyproject.toml
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV) || \
		{ echo "$(PYTHON) makes no virtual environment; on Debian: apt-get install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet -e '.[test]'
	touch $@
