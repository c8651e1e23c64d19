# make cyclegan   train the CycleGAN on the built-in pair (five minutes on two cores)
# make test       run the tests
# make learn      run the experiments: train the recipes on real data, about an hour, and write a record to bench/results
# make search     call every public function 10,000 times at random and compare with float64, some minutes
# make fuzz       change good files at random, 10,000 times for each reader of files of unknown origin (ARGS="resume --cases 500")
# make bench      time the ops and the training step against plain torch, and write a record to bench/results
# make sanitize   build the C++ ops with address and undefined-behaviour sanitizers, apart, and run their tests on that build
# make kernels    compile the Triton kernels for sm_80, sm_90 and sm_100 in every tile and candidate of the tuner, ten minutes,
#                 without a GPU
# make tritons    run all the Triton kernels' tests, compiling included, with the oldest supported and the newest release of triton
# make lint       check style and types: ruff, mypy and clang-format, as in pyproject.toml and .clang-format
# make docs       build the pages of docs, and the API from the docstrings, into build/site; warnings are errors
# make gpu-check  prove and time the Triton and CUDA kernels on a CUDA device, with the torch that PYTHON has (STAGES chooses)
# Each sets up what it needs, most of them .venv; a second call starts at once. PYTHON chooses the interpreter (3.11 or
# later, which the pinned numpy needs), ARGS adds arguments.

PYTHON ?= python3
ARGS ?=
VENV := .venv
RUN := $(VENV)/bin/python

SOURCES := setup.py pyproject.toml $(shell find csrc -type f)

# The oldest supported and the newest release of triton, each beside the packages of .venv, before which Python finds it;
# triton 3.6's interpreter needs a numpy before 2.4.
TRITONS := build/triton-oldest build/triton-newest

.PHONY: cyclegan test lint learn search fuzz bench sanitize kernels tritons docs gpu-check setup clean
.DEFAULT_GOAL := test

cyclegan: setup
	$(RUN) -m fastgan.train cyclegan --name cyclegan-builtin --overwrite $(ARGS)

# A worker for each core, and a whole file to one worker: files share what their fixtures build.
test: setup
	$(RUN) -m pytest -n logical --dist loadfile $(ARGS)

CPP := $(shell find csrc tests/csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')

lint: $(VENV)/requirements.stamp
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(VENV)/bin/clang-format --dry-run --Werror $(CPP)

learn: setup
	$(RUN) -m bench.experiments $(ARGS)

search: setup
	OMP_NUM_THREADS=1 $(RUN) -m tests.search $(ARGS)

fuzz: setup
	$(RUN) -m tests.fuzz $(ARGS)

bench: setup
	$(RUN) -m pytest bench --benchmark $(ARGS)

SANITIZED := build/sanitized
SANITIZERS := -fsanitize=address,undefined -fno-sanitize-recover=all
# The sanitizers' runtimes come before the interpreter's; leaks are the interpreter's own.
UNDER_SANITIZERS = FASTGAN_EXTENSION_FOLDER=$(SANITIZED)/fastgan ASAN_OPTIONS=detect_leaks=0 \
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libubsan.so) $$($(CXX) -print-file-name=libstdc++.so)"

sanitize: setup
	FASTGAN_BUILD_EXTENSION=1 FASTGAN_CXX_FLAGS="-O1 -g1 -fno-omit-frame-pointer $(SANITIZERS)" LDFLAGS="$(SANITIZERS)" \
		$(RUN) setup.py --quiet build_ext --build-lib $(SANITIZED) --build-temp $(SANITIZED)/objects
	$(UNDER_SANITIZERS) $(RUN) -m pytest tests/csrc --ignore-glob "*/test_cuda_*" $(ARGS)
	$(UNDER_SANITIZERS) $(RUN) -m pytest tests/ops -k "cpp and not compile" $(ARGS)

kernels: setup
	FASTGAN_COMPILE=all $(RUN) -m pytest tests/kernels/test_compile.py $(ARGS)

tritons: setup $(TRITONS)
	for folder in $(TRITONS); do \
		PYTHONPATH=$$folder $(RUN) -c "import triton; print('triton', triton.__version__)" && \
		PYTHONPATH=$$folder $(RUN) -m pytest -n logical --dist loadfile tests/kernels $(ARGS) || exit 1; \
	done

build/triton-oldest: PACKAGES = triton==3.6.0 "numpy<2.4"
build/triton-newest: PACKAGES = triton
$(TRITONS): | setup
	@rm -rf $@.part
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps --target $@.part $(PACKAGES)
	@mv $@.part $@

# mkdocs reads the docstrings and imports nothing, so it has an environment of its own, beside .venv.
DOCS := build/docs

docs: $(DOCS)/requirements.stamp
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict $(ARGS)

$(DOCS)/requirements.stamp: requirements-docs.txt
	@test -x $(DOCS)/bin/python || $(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-docs.txt
	@touch $@

gpu-check:
	PYTHON=$(PYTHON) bench/gpu_check.sh $(STAGES)

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
