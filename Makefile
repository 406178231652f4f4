# `make train` and `make test` work in an empty clone: they make .venv and install requirements.txt.
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python
WORKERS ?= 2

.PHONY: train studies test test-slow test-gpu test-cluster test-browser lint format bench docs clean

train: $(VENV)/installed
	$(RUN) -m experiments.train --config=configs/quickstart.py

STUDIES := noisy_labels imbalance few_shot
empty :=
comma := ,

studies: $(VENV)/installed
	for study in $(STUDIES); do \
	  $(RUN) -m experiments.sweep --config=configs/$$study.py || exit; \
	done
	$(RUN) -m experiments.report --workdir=$(subst $(empty) $(empty),$(comma),$(STUDIES:%=runs/%))

test: $(VENV)/installed
	$(RUN) -m pytest -n $(WORKERS) --dist worksteal -m "not slow and not gpu and not cluster and not browser"

test-slow: $(VENV)/installed
	HYPOTHESIS_PROFILE=nightly $(RUN) -m pytest -n $(WORKERS) --dist worksteal -m "not gpu and not cluster and not browser"

test-gpu: $(VENV)/installed
	$(RUN) -m pytest -m gpu

test-cluster: $(VENV)/installed
	$(RUN) -m pip install --quiet --disable-pip-version-check --editable ".[cluster]"
	$(RUN) -m pytest -m cluster

test-browser: $(VENV)/installed
	$(RUN) -m pytest -m browser

lint: $(VENV)/installed
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

format: $(VENV)/installed
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

bench: $(VENV)/installed
	$(RUN) -m experiments.bench train

docs: $(VENV)/installed
	$(RUN) -m experiments.catalogue
	$(RUN) -m experiments.guide
	$(RUN) -m experiments.performance

clean:
	rm -rf $(VENV)

$(VENV)/installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: Python 3.11 or later is needed; name one: make PYTHON=python3.12 train" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@
