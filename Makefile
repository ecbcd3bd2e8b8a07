# Two commands do all, on a machine that has Python >= 3.11 and make:
#
#     make demo    the main job on a synthetic world: data, pre-training, fine-tuning, retrieval table, export, search
#     make test    lint, types and tests
#
# Both make .venv and install what they need, once; they install again only when pyproject.toml changes.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
JOBS ?= 2

.DELETE_ON_ERROR:
.PHONY: help demo test lint format clean

help:
	@sed -n 's/^# \{0,1\}//p' Makefile | head -6
	@echo "    make lint    ruff and mypy        make format   rewrite the code in the house style"
	@echo "    make clean   remove .venv, builds and caches; never data/ or runs/"

# ---------------------------------------------------------------- installation

# uv installs in seconds what pip takes minutes for; pip does it where uv is not to be had. Both compile the bytecode:
# without it every command would spend seconds on compiling what it imports.
define install
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv || echo "uv is not to be had; pip it is"
	@$(BIN)/uv pip install --compile-bytecode --python $(BIN)/python -e '$(1)' || $(BIN)/python -m pip install -e '$(1)'
	@touch $@
endef

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "vlp needs Python >= 3.11, and $(PYTHON) is " + sys.version.split()[0] + "; try make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: pyproject.toml | $(BIN)/pip
	$(call install,.)

$(VENV)/.test: pyproject.toml | $(BIN)/pip
	$(call install,.[test])

# ---------------------------------------------------------------- tests

test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(JOBS) -m "" -q

lint: $(VENV)/.test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(VENV)/.test
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -not -path './runs/*' -not -path './data/*' -prune -exec rm -rf {} +

# ---------------------------------------------------------------- the main job, small
#
# Each step leaves a file, and is skipped while that file is there; an interrupted training goes on from its newest
# checkpoint. `rm -r runs/demo` starts over.

DEMO := runs/demo
WORLD := $(DEMO)/world
VLP := $(BIN)/vlp

# Both systems train at once, on one thread each: at this size two threads for one training are no faster than one. The
# two-stream system is ready first, and is evaluated, exported and searched while the other still trains.
demo: $(WORLD)/done
	@OMP_NUM_THREADS=1 $(MAKE) --no-print-directory -j2 $(DEMO)/two_stream.txt $(DEMO)/hits.png $(DEMO)/one_stream.txt
	@cat $(DEMO)/two_stream.txt $(DEMO)/one_stream.txt
	@echo "Look at $(DEMO)/hits.png: five sentences and the pictures found for them, out of 500 never seen in training."

$(WORLD)/done: | $(VENV)/.core
	$(VLP) data synthesize $(WORLD) --train 16000 --size 48
	@touch $@

# Two streams (ALBEF): contrast first, a fused head re-ranks.
$(DEMO)/two_stream.trained: $(WORLD)/done
	$(VLP) pretrain configs/demo.py:two_stream_pretrain --resume
	$(VLP) finetune configs/demo.py:two_stream_finetune --resume init=$(DEMO)/two_stream
	@touch $@

# One stream (ViLT): no embeddings, a fused head alone.
$(DEMO)/one_stream.trained: $(WORLD)/done
	@echo "the one-stream system trains beside the two-stream one; it reports to $(DEMO)/one_stream.log"
	$(VLP) pretrain configs/demo.py:one_stream_pretrain --resume > $(DEMO)/one_stream.log 2>&1
	$(VLP) finetune configs/demo.py:one_stream_finetune --resume init=$(DEMO)/one_stream >> $(DEMO)/one_stream.log 2>&1
	@touch $@

$(DEMO)/two_stream.txt: $(DEMO)/two_stream.trained
	$(VLP) evaluate $(DEMO)/two_stream_finetuned --data $(WORLD)/test > $@

# Scoring all 1,250,000 pairs takes a one-stream model minutes; the two-stream model's embeddings make the shortlist.
# Nothing else runs by then, so both cores score.
$(DEMO)/one_stream.txt: $(DEMO)/one_stream.trained $(DEMO)/two_stream.trained
	env -u OMP_NUM_THREADS $(VLP) evaluate $(DEMO)/one_stream_finetuned --data $(WORLD)/test --k 32 \
		--first-stage $(DEMO)/two_stream_finetuned > $@

$(DEMO)/hits.png: $(DEMO)/two_stream.txt
	$(VLP) export $(DEMO)/two_stream_finetuned $(DEMO)/exported
	$(VLP) search $(DEMO)/exported --images $(WORLD)/test --sheet $@ \
		"two shapes, a small yellow star left of a large plain yellow star on a checkered background" \
		"three things, two rings and a large dotted blue square in the middle right on a grey background" \
		"two objects, a large striped green circle right of a large dotted green cross on a grey background" \
		"three green things, a small dotted blue triangle and a plain purple cross on a black background" \
		"four things with an orange cross and a large blue triangle left of a large blue circle on a grainy background"
