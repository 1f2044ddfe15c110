# `make run` and `make test` need Python 3.11 or 3.12, pip and make; all else is installed here.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test check lock clean

# The main job on the embedded sample: build the data set, train a CLIP on it, score it.
run: $(VENV)/ready
	$(BIN)/python -m pipelines.build_dataset
	$(BIN)/python -m pipelines.train
	$(BIN)/python -m pipelines.evaluate

# Two files of tests at a time: most of them wait, and two fit into the memory of a laptop.
test: check
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

check: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The environment is made anew when the lock or the package changes.
$(VENV)/ready: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13) and "Python 3.11 or 3.12 is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

# Newest versions that fit pyproject.toml, written down for everybody. Torch is pinned to the
# release that torchvision's wheel is built for.
lock:
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet "torch==2.13.0" "torchvision==0.28.0" setuptools==81.0.0 ".[sample,dev]"
	head -2 requirements.lock > build/requirements.lock
	build/lock/bin/python -m pip freeze --exclude clip-from-scratch | sed 's/+cpu$$//' >> build/requirements.lock
	mv build/requirements.lock requirements.lock

clean:
	rm -rf $(VENV) runs
