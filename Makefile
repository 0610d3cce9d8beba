# make quickstart | quickstart-bottomup | board | test | check | install | clean; PYTHON=python3.12 and GPU=cu126 are options.
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
.PHONY: help install quickstart quickstart-bottomup board test check clean

help:
	@echo "make quickstart   train, evaluate and draw on synthetic people, in minutes on a CPU"
	@echo "make quickstart-bottomup"
	@echo "                  the same without boxes: several people in a picture, found at once"
	@echo "make board        curves and pictures of all runs below output, as a page; PORT=8040"
	@echo "make test         run every test"
	@echo "make check        lint, formatting, types"
	@echo "make install      only make .venv; GPU=cu126 takes Paddle's GPU build for CUDA 12.6"
	@echo "make clean        remove .venv, output and the synthetic data sets"

# The build of Paddle is part of the name, so that asking for another one installs it.
INSTALLED := .venv/installed-$(or $(GPU),cpu)

install: $(INSTALLED)

$(INSTALLED): $(wildcard requirements*.txt) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "ppose needs Python 3.10 or newer; found $$($(PYTHON) --version)." \
		"Name another: make install PYTHON=python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing into .venv; the packages are about 500 MB"
	@$(BIN)/python -m pip install --quiet --upgrade "pip>=24"
	@$(BIN)/python -m pip install --quiet -e ".[dev]"
	@$(BIN)/python -m pip install --quiet --no-deps -r requirements-nodeps.txt
ifneq ($(GPU),)
	@$(BIN)/python -m pip uninstall --quiet --yes paddlepaddle
	@$(BIN)/python -m pip install --quiet $(PADDLE_GPU)
	@echo $(GPU) > .venv/gpu
endif
	@touch $@

quickstart: install
	rm -rf $(RUN)
	$(BIN)/python tools/make_synthetic.py --output $(DATA) --difficulty easy --train 4000
	$(BIN)/python tools/train.py -c configs/quickstart.yml
	$(BIN)/python tools/eval.py -c configs/quickstart.yml \
		-o weights=$(RUN)/best.safetensors --json $(RUN)/scores.json
	$(BIN)/python tools/infer.py -c configs/quickstart.yml -o weights=$(RUN)/best.safetensors \
		--infer_img=dataset/test_image --bbox_file=dataset/test_image/boxes.json
	@echo
	@echo "data      $(DATA)"
	@echo "weights   $(RUN)/best.safetensors"
	@echo "scores    $(RUN)/scores.json"
	@echo "pictures  $(RUN)/infer"
	@echo "curves    make board"

quickstart-bottomup: install
	rm -rf $(GROUPS_RUN)
	$(BIN)/python tools/make_synthetic.py --output $(GROUPS) --difficulty group --train 2400
	$(BIN)/python tools/train.py -c configs/imhn_quickstart.yml
	$(BIN)/python tools/eval.py -c configs/imhn_quickstart.yml \
		-o weights=$(GROUPS_RUN)/best.safetensors --json $(GROUPS_RUN)/scores.json
	$(BIN)/python tools/infer.py -c configs/imhn_quickstart.yml \
		-o weights=$(GROUPS_RUN)/best.safetensors --infer_img=dataset/test_image
	@echo
	@echo "data      $(GROUPS)"
	@echo "weights   $(GROUPS_RUN)/best.safetensors"
	@echo "scores    $(GROUPS_RUN)/scores.json"
	@echo "pictures  $(GROUPS_RUN)/infer"
	@echo "curves    make board"

# Stays until Ctrl-C; it prints its address.
board: install
	@mkdir -p output
	$(BIN)/visualdl --logdir output --host $(BIND) --port $(PORT) --language en --disable-telemetry

test: install
	$(BIN)/python -m pytest -n $(JOBS)

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv output dataset/synthetic* build *.egg-info .pytest_cache .ruff_cache .mypy_cache
