# make cyclegan   train the CycleGAN on the built-in pair (five minutes on two cores)
# make test       run the tests
# make learn      train the recipes on real data, an hour or two, and write what they learnt to bench/results
# make bench      time the ops and the training step against plain torch, and write a record to bench/results
# make gpu-check  prove and time the Triton kernels on a CUDA device, with the torch that PYTHON has
# The first four set up .venv; a second call starts at once. PYTHON chooses the interpreter (3.10 or later), ARGS adds arguments.

PYTHON ?= python3
ARGS ?=
VENV := .venv
RUN := $(VENV)/bin/python

SOURCES := setup.py pyproject.toml $(wildcard csrc/*.cpp csrc/*.h csrc/cpu/* csrc/cuda/*)

.PHONY: cyclegan test learn bench gpu-check setup clean
.DEFAULT_GOAL := test

cyclegan: setup
	$(RUN) -m fastgan.train cyclegan --name cyclegan-builtin --overwrite $(ARGS)

test: setup
	$(RUN) -m pytest $(ARGS)

learn: setup
	$(RUN) -m bench.learn $(ARGS)

bench: setup
	$(RUN) -m pytest bench --benchmark $(ARGS)

gpu-check:
	PYTHON=$(PYTHON) bench/gpu_check.sh

setup: $(VENV)/extension.stamp

$(VENV)/requirements.stamp: requirements-dev.txt
	@test -x $(RUN) || $(PYTHON) -m venv $(VENV) || { echo "error: $(PYTHON) cannot make a virtual environment; install its venv module, or choose another interpreter with make PYTHON=..."; exit 1; }
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

$(VENV)/extension.stamp: $(VENV)/requirements.stamp $(SOURCES)
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info fastgan/_C*.so fastgan/_build_info.json
