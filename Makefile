# `make demo` and `make test` start from a bare clone with Python 3.11 or newer, pip and make.
# They use the newest Python that requirements.lock serves and that runs (some names that pyenv puts
# on the PATH do not), or the one of make PYTHON=... Python 3.11 comes last: it gets an older jax, with
# defects on CPUs (docs/parity.md).
VERSIONS := python3.14 python3.13 python3.12 python3.11 python3
NAMED := $(filter-out undefined,$(origin PYTHON))
usable = $(1) -c 'import pip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
fits = $(1) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
version = $(shell $(1) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
find = $(shell for python in $(VERSIONS); do $(call usable,$$python) && echo $$python && break; done)
# Looked for once, and only when a target needs it.
PYTHON ?= $(eval PYTHON := $(find))$(PYTHON)
VENV := .venv
BIN := $(VENV)/bin
# The extra of training always, and optional ones: make install EXTRA=cuda, or several:
# EXTRA=cuda,dicom. The environment remembers them, so that every later target and a rebuild
# install them too.
EXTRAS := cuda tpu gcs s3 dicom onnx openvino parity test docs notebook train
comma := ,
ASKED := $(subst $(comma), ,$(EXTRA))
ifneq ($(filter-out $(EXTRAS),$(ASKED)),)
$(error EXTRA=$(EXTRA): there is no extra $(firstword $(filter-out $(EXTRAS),$(ASKED))); the extras are $(EXTRAS))
endif
KEPT := $(patsubst $(VENV)/extra-%,%,$(wildcard $(VENV)/extra-*))
WITH = .[$(subst $() ,$(comma),$(strip $(sort train $(1) $(KEPT) $(ASKED))))]
# What is still to be installed, and the megabytes that it takes at least.
NEW = $(filter-out $(KEPT),$(ASKED)) $(if $(wildcard $(VENV)/installed),,$(KEPT) base)
SIZE_base := 1200
SIZE_cuda := 4000
SIZE_parity := 700
SIZE_tpu := 300
SIZE_docs := 150
SIZE_notebook := 200
SIZE_onnx := 100
SIZE_openvino := 180
# Processes that run tests; each takes one file of tests at a time.
WORKERS ?= 2
# Python compiles the modules that programs import, and keeps them, which some systems turn off; pip
# would compile all modules of all packages, for half a minute.
unexport PYTHONDONTWRITEBYTECODE
INSTALL = $(PYTHON) -m pip --python $(BIN)/python install --quiet --no-compile -c requirements.lock -e
PYTEST := $(BIN)/python -m pytest
SHARED := -n $(WORKERS) --dist loadfile
# ResNet-50's forward pass, all stages of training with the small networks, and the attention.
SAMPLE := float32-224-resnet50 or G_L_F-small or test_attention

.DEFAULT_GOAL := help
.PHONY: again help install demo bench docs test test-all all-tests all-parity parity parity-sample \
  mutants lint types clean

help:
	@echo "make demo      train AG-CNN on synthetic radiographs and print its AUC table: 4 minutes"
	@echo "make bench     measure this machine beside PyTorch, and write docs/performance.md: half an hour"
	@echo "make test      run the tests: 6 minutes"
	@echo "make test-all  run all tests, with slow ones, comparisons with PyTorch and faults: an hour"
	@echo "make parity    compare with PyTorch and print the differences: 6 minutes"
	@echo "make mutants   put deliberate faults into the core, which the tests must notice: 15 minutes"
	@echo "make docs      build the pages of docs/ as a site in build/site: a minute"
	@echo "make lint      check style and formatting"
	@echo "make types     check types"
	@echo "make install   make the environment in .venv; EXTRA=cuda for NVIDIA GPUs, EXTRA=tpu for TPUs,"
	@echo "               gcs and s3 for buckets, dicom for DICOM films, notebook for JupyterLab,"
	@echo "               onnx and openvino for models in ONNX files;"
	@echo "               several: EXTRA=cuda,dicom"
	@echo "make clean     remove the demo's files and compiled programs"
	@echo "The times are those of two cores."

# The environment is rebuilt if its Python is gone, or is of another version than PYTHON=... names.
ifneq ($(wildcard $(VENV)/made),)
ifneq ($(or $(call version,$(BIN)/python),none),$(call version,$(if $(NAMED),$(PYTHON),$(BIN)/python)))
$(VENV)/made: again
endif
endif
again:

# The environment has no pip of its own, which some systems ship separately. requirements.lock holds
# the versions.
$(VENV)/made:
	@$(call usable,$(or $(PYTHON),false)) || { for python in $(or $(PYTHON),$(VERSIONS)); do \
	  if $(call fits,$$python); then echo "$$python has no pip, which installs the packages:" \
	  "get it from your system (Debian and Ubuntu: apt-get install python3-pip python3-venv), or try:" \
	  "make PYTHON=/path/to/python3.14 $(MAKECMDGOALS)" >&2; exit 2; fi; done; \
	  echo "$(or $(PYTHON),no Python on the PATH)" \
	  "is not a Python 3.11 or newer with pip that runs; try:" \
	  "make PYTHON=/path/to/python3.14 $(MAKECMDGOALS)" >&2; exit 2; }
	@$(call room,$(NEW))
	$(PYTHON) -m venv --clear --without-pip $(VENV)
	@touch $@ $(KEPT:%=$(VENV)/extra-%)

# Says what is missing before anything is downloaded; without df, pip says it. What is free stands
# before the share in use, with blanks in the disk's name perhaps.
room = need=$$(( 0 $(foreach one,$(1),+ $(or $(SIZE_$(one)),50)) )); \
  free=$$(df -Pm . 2>/dev/null | { read -r head; read -r disk; set -- $${disk%%%*}; \
  while [ "$$3" ]; do shift; done; echo "$$1"; }); \
  [ "$${free:-$$need}" -ge "$$need" ] || { echo "installing into $(CURDIR)/$(VENV) takes more" \
  "than $$need MB, and $$free MB are free there; free some space and run make again" >&2; exit 2; }

ifneq ($(filter-out $(KEPT),$(ASKED)),)
$(VENV)/installed: again
endif
$(VENV)/installed: $(VENV)/made pyproject.toml requirements.lock
	@$(call room,$(NEW))
	@echo "installing the packages of requirements.lock into $(VENV) ..."
	$(INSTALL) '$(WITH)'
	@touch $@ $(ASKED:%=$(VENV)/extra-%)

$(VENV)/installed-test: $(VENV)/installed
	$(INSTALL) '$(call WITH,test)'
	@touch $@

$(VENV)/installed-parity: $(VENV)/installed-test
	@$(call room,$(if $(wildcard $@),,parity))
	@echo "installing PyTorch ..."
	$(INSTALL) '$(call WITH,test parity)'
	@touch $@

$(VENV)/installed-docs: $(VENV)/installed
	@$(call room,$(if $(wildcard $@),,docs))
	@echo "installing Sphinx ..."
	$(INSTALL) '$(call WITH,docs)'
	@touch $@

install: $(VENV)/installed

demo: $(VENV)/installed
	$(BIN)/python data_prep/phantoms.py --out_dir data/phantoms_raw --patients 2400 --size 128
	$(BIN)/python data_prep/chestxray14.py --raw_dir data/phantoms_raw --data_dir data/phantoms --image_size 128
	$(BIN)/python train.py --config configs/demo.py
	$(BIN)/python eval.py --config configs/demo.py

# On the GPU if there is one, otherwise on the CPU.
BESIDE := $(if $(shell command -v nvidia-smi),gpu,cpu)
MEASURE := $(BIN)/python benchmarks
RESULTS := benchmarks/results

bench: $(VENV)/installed-parity
	$(MEASURE)/$(BESIDE).py --backbone resnet50
	$(MEASURE)/$(BESIDE).py --backbone densenet121
	$(MEASURE)/$(BESIDE).py --backbone resnet_small --input_size 112 --batch_sizes 32
	$(MEASURE)/cropping.py --out $(RESULTS)/cropping_$(BESIDE).json
	$(MEASURE)/pipeline.py --out $(RESULTS)/pipeline_cpu.json
	$(MEASURE)/prepare.py --out $(RESULTS)/prepare_cpu.json
	$(MEASURE)/starting.py --out $(RESULTS)/starting_cpu.json
	$(MEASURE)/prediction_stream.py --speed --out $(RESULTS)/prediction_stream_cpu.json
	$(MEASURE)/performance.py

# Whatever Sphinx warns about, such as a link that leads nowhere, fails.
docs: $(VENV)/installed-docs
	JAX_PLATFORMS=cpu $(BIN)/python -m sphinx -W --keep-going docs build/site
	@echo "the site is build/site/index.html"

test: $(VENV)/installed-test
	$(PYTEST) $(SHARED) -m "not slow"

# Goes on after a part that fails, and names it at the end.
test-all: $(VENV)/installed-parity
	@began=$$(date +%s); failed=; \
	for part in all-tests all-parity mutants; do \
	  $(MAKE) "$$part" || failed="$$failed $$part"; done; \
	echo "make test-all took $$(( ($$(date +%s) - began) / 60 )) minutes;" \
	  "$${failed:+failed:}$${failed:-all passed}"; [ -z "$$failed" ]

all-tests: $(VENV)/installed-test
	$(PYTEST) $(SHARED) tests

all-parity: $(VENV)/installed-parity
	$(PYTEST) tests/parity

parity: $(VENV)/installed-parity
	$(PYTEST) tests/parity -m "not slow"

parity-sample: $(VENV)/installed-parity
	$(PYTEST) tests/parity -k "$(SAMPLE)"

mutants: $(VENV)/installed-test
	$(BIN)/python -m tests.mutation.mutants

lint: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed-test
	$(BIN)/mypy

clean:
	rm -rf data/phantoms data/phantoms_raw runs/demo build/site .pytest_cache/jax
	rm -rf "$${XDG_CACHE_HOME:-$$HOME/.cache}/agcnn_jax/compiled"
