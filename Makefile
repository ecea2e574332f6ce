# What a person types is what CI runs. Every target sets up what it needs, once.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input --no-deps --no-compile
UV := VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps

# Compiled on first use: compiling all of it at once takes minutes, and most is never imported.
export PYTHONDONTWRITEBYTECODE :=

# The newest Python that the locked packages support is preferred to the machine's default.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; done)

.DEFAULT_GOAL := help
.PHONY: help demo drill test up down clean bench prove lint lock

help: ## Show this list
	@grep -hE '^[a-z]+:.*## ' Makefile | awk -F ':.*## ' '{printf "make %-8s %s\n", $$1, $$2}'

demo: $(STAMP) ## Show the whole loop on real flights, from nothing, in about thirteen minutes
	@$(BIN)/perennial demo

drill: $(STAMP) ## Break it in five ways and see each one noticed and over; under 15 minutes
	@$(BIN)/perennial drill

up: $(STAMP) ## Run the whole stack with its UIs until Ctrl-C
	@$(BIN)/perennial up

down: $(STAMP) ## Stop the stack that another terminal started
	@$(BIN)/perennial down

test: lint ## Check the code and run the tests
	$(BIN)/python -m pytest -m "not e2e and not browser and not chaos"
	$(BIN)/python -m pytest -m e2e
	$(BIN)/python -m pytest -m browser

lint: $(STAMP) ## Check style, types and layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP) ## Measure speed against named rivals
	@ls tests/bench/*.py >/dev/null 2>&1 || { echo "no benchmark yet in tests/bench"; exit 0; }; \
	for file in tests/bench/*.py; do [ -f "$$file" ] || continue; echo "== $$file"; $(BIN)/python $$file || exit 1; done

prove: $(STAMP) ## Prove one area on this machine: make prove AREA=...
	@if [ -n "$(AREA)" ] && [ -f "tests/prove/$(AREA).py" ]; then exec $(BIN)/python tests/prove/$(AREA).py; fi; \
	echo "area '$(AREA)': no tests/prove/$(AREA).py; there are:" \
		$$(ls tests/prove/*.py 2>/dev/null | sed 's|.*/\(.*\)\.py|\1|' | grep . || echo none yet) >&2; exit 1

lock: $(STAMP) ## Resolve the dependencies anew and write all lock files
	$(BIN)/uv pip compile pyproject.toml --extra dev $(LOCKING) -o requirements.lock
	printf 'packaging\nsetuptools>=77\nuv>=0.9\nwheel\n' | $(BIN)/uv pip compile - $(LOCKING) -o requirements-build.lock
	infra/image/lock.sh

LOCKING := --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-annotate \
	--no-emit-index-url --no-emit-find-links --no-header

clean: ## Stop the stack, and delete its data (var/) and all caches
	@[ ! -x $(BIN)/perennial ] || $(BIN)/perennial down
	rm -rf var build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

# Set-up. Nothing is resolved here: the lock is complete, and old pips cannot match extras with hashes.
# uv is ten times faster; pip is there for where only pip was told of the package index to use.
$(STAMP): pyproject.toml requirements.lock requirements-build.lock
	@[ -n "$(PYTHON)" ] || { echo "Python 3.11, 3.12 or 3.13 is needed and none was found; install one, or name it: make PYTHON=/path/to/python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
		|| { echo "$(PYTHON) is $$($(PYTHON) --version 2>&1); Python 3.11, 3.12 or 3.13 is needed" >&2; exit 1; }
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV) \
		|| { echo "$(PYTHON) cannot make a virtual environment; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@echo "installing what requirements.lock names into $(VENV); takes a minute or two, once"
	@$(PIP) --require-hashes -r requirements-build.lock
	@$(UV) --require-hashes --no-build-isolation -r requirements.lock 2>$(VENV)/uv.log \
		|| $(PIP) --require-hashes --no-build-isolation -r requirements.lock
	@$(PIP) --no-build-isolation -e .
	@touch $(STAMP)
