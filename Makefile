# `make demo` and `make test` start from a bare clone with Python 3.11+, pip and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Processes that share the tests, a file of tests each at a time.
WORKERS ?= 2
PYTEST := $(BIN)/python -m pytest
SHARED := -n $(WORKERS) --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all parity lint types clean

help:
	@echo "make demo      train AG-CNN on synthetic radiographs and print its AUC table"
	@echo "make test      run the tests"
	@echo "make test-all  run the tests, the slow ones too"
	@echo "make parity    compare with PyTorch, and print by how much they differ"
	@echo "make lint      check style and formatting"
	@echo "make types     check types"
	@echo "make clean     remove what the demo made, and compiled programs"

# The environment is made without its own pip, which some systems ship separately; the versions
# are those of requirements.lock.
$(VENV)/made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv --without-pip $(VENV)
	@touch $@

$(VENV)/installed: $(VENV)/made pyproject.toml requirements.lock
	$(PYTHON) -m pip --python $(BIN)/python install --quiet -c requirements.lock -e .
	@touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(PYTHON) -m pip --python $(BIN)/python install --quiet -c requirements.lock -e '.[test]'
	@touch $@

$(VENV)/installed-parity: $(VENV)/installed-test
	$(PYTHON) -m pip --python $(BIN)/python install --quiet -c requirements.lock -e '.[test,parity]'
	@touch $@

install: $(VENV)/installed

demo: $(VENV)/installed
	$(BIN)/python data_prep/phantoms.py --out_dir data/phantoms_raw --patients 2400 --size 128
	$(BIN)/python data_prep/chestxray14.py --raw_dir data/phantoms_raw --data_dir data/phantoms --image_size 128
	$(BIN)/python train.py --config configs/demo.py
	$(BIN)/python eval.py --config configs/demo.py

test: $(VENV)/installed-test
	$(PYTEST) $(SHARED) -m "not slow"

test-all: $(VENV)/installed-parity
	$(PYTEST) $(SHARED) tests
	$(PYTEST) tests/parity

parity: $(VENV)/installed-parity
	$(PYTEST) tests/parity -m "not slow"

lint: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed-test
	$(BIN)/mypy

clean:
	rm -rf data/phantoms data/phantoms_raw runs/demo
	rm -rf "$${XDG_CACHE_HOME:-$$HOME/.cache}/agcnn_jax/compiled"
