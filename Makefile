# `make run` and `make test` need Python 3.11 to 3.14 and make; all else is installed here.
# The first of these that works is taken; `make PYTHON=...` names another.
PYTHON ?= python3.14 python3.13 python3.12 python3.11 python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test check lock clean

# The main job on the embedded sample: build the data set, train a CLIP on it, score it.
run: $(VENV)/ready
	$(BIN)/python -m pipelines.build_dataset
	$(BIN)/python -m pipelines.train
	$(BIN)/python -m pipelines.evaluate

# Two files of tests at a time (tests/conftest.py says which go together): most of them wait, and
# two fit into the memory of a laptop.
test: check
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

check: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# gensim cannot be built for Python 3.14. Of it the sample needs a dump, which is in any wheel.
PIP_GENSIM_DATA = $(BIN)/python -m pip install --quiet --no-deps --upgrade --only-binary :all: \
	--python-version 3.13 --target $(VENV)/lib/python3.14/site-packages gensim==4.4.0

# The environment is brought up to date when the lock or the package changes.
$(VENV)/ready: requirements.lock pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --requirement requirements.lock
	$(BIN)/python -c 'import sys; sys.exit(sys.version_info >= (3, 14))' || $(PIP_GENSIM_DATA)
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

# A name may be a version manager's stub, or a Python without venv: each is tried. uv has its own.
SUITABLE = import ensurepip, sys, venv; assert (3, 11) <= sys.version_info[:2] < (3, 15)
$(BIN)/python:
	@for python in $(PYTHON); do \
		if "$$python" -c '$(SUITABLE)' 2> /dev/null; then exec "$$python" -m venv $(VENV); fi; \
	done; \
	if $(if $(filter file,$(origin PYTHON)),uv --version > /dev/null 2>&1,false); then \
		exec uv venv --quiet --allow-existing --seed --python '>=3.11,<3.15' $(VENV); \
	fi; \
	echo "none of $(PYTHON) is a Python 3.11 to 3.14 with venv: install one (apt install python3-venv), or uv, or name one: make PYTHON=/path/to/python" >&2; \
	exit 1

# Newest versions that fit pyproject.toml, written down for everybody and all versions of Python.
# What torch brings for CUDA is left to torch, whose builds differ in it.
lock: $(BIN)/python
	$(BIN)/python -m pip install --quiet --upgrade --target build/uv uv
	build/uv/bin/uv pip compile --quiet --universal --upgrade --no-annotate --no-header \
		--python $(BIN)/python --extra sample --extra remote --extra dev \
		--output-file build/uv.lock pyproject.toml
	head -2 requirements.lock > build/requirements.lock
	sed -E "/^(cuda|nvidia|triton)-?/d; s/ and implementation_name.*//; \
		s/(;| and) python_full_version < '3.15'$$//; s/ +$$//" build/uv.lock >> build/requirements.lock
	mv build/requirements.lock requirements.lock

clean:
	rm -rf $(VENV) runs
