# make quickstart | quickstart-bottomup | board | test | check | wheel | docs | install | lock | clean; PYTHON=python3.12, GPU=cu126 and LOCKED=1 are options.
PYTHON ?= python3
GPU ?= $(shell cat .venv/gpu 2>/dev/null)
PADDLE_GPU = paddlepaddle-gpu==3.3.1 -i https://www.paddlepaddle.org.cn/packages/stable/$(GPU)/
JOBS ?= 2
BIND ?= 127.0.0.1
PORT ?= 8040
BIN := .venv/bin
DATA := dataset/synthetic_easy
RUN := output/quickstart
GROUPS := dataset/synthetic_group
GROUPS_RUN := output/imhn_quickstart

.DEFAULT_GOAL := help
.PHONY: help install quickstart quickstart-bottomup board test check wheel docs lock clean

help:
	@echo "make quickstart   train, evaluate and draw on synthetic people, in minutes on a CPU"
	@echo "make quickstart-bottomup"
	@echo "                  the same without boxes: several people in an image, found at once"
	@echo "make board        curves and images of all runs below output, as a page; PORT=8040"
	@echo "make test         run every test, with coverage"
	@echo "make check        lint, formatting, types, import contracts, spelling"
	@echo "make wheel        build dist/ppose-*.whl"
	@echo "make docs         the Python API as pages, into output/docs"
	@echo "make install      only make .venv; GPU=cu126 takes Paddle's GPU build for CUDA 12.6"
	@echo "                  LOCKED=1 takes the versions and hashes of requirements-lock.txt"
	@echo "make lock         write the lock files anew, after a change of requirements"
	@echo "make clean        remove .venv, output, dist and the synthetic data sets"

# The build of Paddle is part of the name, so that asking for another one installs it.
INSTALLED := .venv/installed-$(or $(GPU),cpu)$(if $(LOCKED),-locked)

install: $(INSTALLED)

$(INSTALLED): $(wildcard requirements*.txt) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "ppose needs Python 3.10 or newer; found $$($(PYTHON) --version)." \
		"Name another: make install PYTHON=python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing into .venv; the packages are about 500 MB"
ifneq ($(LOCKED),)
	@$(BIN)/python -m pip install --quiet --no-deps --require-hashes --only-binary :all: \
		-r requirements-lock.txt
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
else
	@$(BIN)/python -m pip install --quiet --upgrade "pip>=24"
	@$(BIN)/python -m pip install --quiet -e ".[train,serve,video,docs,dev]"
	@$(BIN)/python -m pip install --quiet --no-deps -r requirements-nodeps.txt
endif
ifneq ($(GPU),)
	@$(BIN)/python -m pip uninstall --quiet --yes paddlepaddle
	@$(BIN)/python -m pip install --quiet $(PADDLE_GPU)
	@echo $(GPU) > .venv/gpu
endif
	@rm -f .venv/installed-*
	@touch $@

# A run that was stopped goes on; one that is complete is kept.
resumed = $(if $(wildcard $(1)/checkpoints/*),--resume)

quickstart: install
	$(BIN)/ppose synthetic --output $(DATA) --difficulty easy --train 4000
	$(BIN)/ppose train -c quickstart $(call resumed,$(RUN))
	$(BIN)/ppose eval -c quickstart -o weights=$(RUN)/best.safetensors --json $(RUN)/scores.json
	$(BIN)/ppose infer -c quickstart -o weights=$(RUN)/best.safetensors \
		--infer_img=dataset/test_image --bbox_file=dataset/test_image/boxes.json
	@echo
	@echo "data      $(DATA)"
	@echo "weights   $(RUN)/best.safetensors"
	@echo "scores    $(RUN)/scores.json"
	@echo "images    $(RUN)/infer"
	@echo "curves    make board"

quickstart-bottomup: install
	$(BIN)/ppose synthetic --output $(GROUPS) --difficulty group --train 2400
	$(BIN)/ppose train -c imhn_quickstart $(call resumed,$(GROUPS_RUN))
	$(BIN)/ppose eval -c imhn_quickstart \
		-o weights=$(GROUPS_RUN)/best.safetensors --json $(GROUPS_RUN)/scores.json
	$(BIN)/ppose infer -c imhn_quickstart \
		-o weights=$(GROUPS_RUN)/best.safetensors --infer_img=dataset/test_image
	@echo
	@echo "data      $(GROUPS)"
	@echo "weights   $(GROUPS_RUN)/best.safetensors"
	@echo "scores    $(GROUPS_RUN)/scores.json"
	@echo "images    $(GROUPS_RUN)/infer"
	@echo "curves    make board"

# Runs until Ctrl-C; it prints its address.
board: install
	@mkdir -p output
	$(BIN)/visualdl --logdir output --host $(BIND) --port $(PORT) --language en --disable-telemetry

test: install
	$(BIN)/python -m pytest -n $(JOBS) --cov --cov-report=term:skip-covered

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/typos

wheel: install
	$(BIN)/python -m build --wheel

# Without what needs PyTorch or a backend that may be missing. Paddle runs ldd when it is imported.
ROOMS := $(subst /,.,$(filter-out ppose/commands ppose/skeletons,\
	$(patsubst %/__init__.py,%,$(wildcard ppose/*/__init__.py))))

docs: install
	PDOC_ALLOW_EXEC=1 $(BIN)/pdoc -o output/docs ppose.api ppose.experiment ppose.evaluation \
		ppose.losses $(ROOMS) '!ppose.convert.reference' \
		'!ppose.deploy.backends.(onnxruntime|openvino|paddle.*)'

# For Python 3.11 on Linux, x86-64; requirements-serve-lock.txt is what an image of the service needs.
COMPILE = $(BIN)/uv pip compile --quiet --no-annotate --no-header --generate-hashes \
	--python-version 3.11 --python-platform x86_64-unknown-linux-gnu --only-binary :all:
LOCKS := requirements-lock.txt requirements-serve-lock.txt
BUILD_REQUIRES := import tomllib; \
	print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")

lock: install
	rm -f $(LOCKS)
	$(BIN)/python -c '$(BUILD_REQUIRES)' | $(COMPILE) -o requirements-lock.txt - \
		$(filter-out requirements-convert.txt,$(filter-out $(LOCKS),$(wildcard requirements*.txt)))
	$(COMPILE) -o requirements-serve-lock.txt -c requirements-lock.txt \
		requirements-deploy.txt requirements-serve.txt

clean:
	rm -rf .venv output dist dataset/synthetic* build *.egg-info .pytest_cache .ruff_cache \
		.mypy_cache .import_linter_cache .coverage
