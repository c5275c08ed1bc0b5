# make demo | test | check | bench | fix | docs | clean.  Each installs what it needs (a virtual environment here, and
# Debian packages for the lab, as root) and leaves nothing running.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: demo test check bench fix docs clean help
.DEFAULT_GOAL := help

help:
	@sed -n 's/^# //p' Makefile | head -2

$(READY): pyproject.toml constraints.txt scripts/venv
	@scripts/venv $(PYTHON) $(VENV)
	@touch $(READY)

demo: $(READY)           ## three real nodes, a dozen users, one tour
	@$(BIN)/python -m lab.demo

test: $(READY)           ## every test, the real parts included
	@[ "$$WSCTL_SKIP_LAB" = 1 ] || $(BIN)/python -m lab install
	@$(BIN)/python -m pytest -q -n 3 tests/unit tests/commands
	@$(BIN)/python -m pytest -q -n 3 --dist loadfile tests/contract tests/faults tests/integration

check: $(READY)          ## formatting, lint, types, arrows, fast tests: under a minute
	@$(BIN)/ruff format --check -q . && $(BIN)/ruff check -q .
	@$(BIN)/lint-imports --no-logo > .lint-imports.log 2>&1 || (cat .lint-imports.log; exit 1)
	@rm -f .lint-imports.log
	@$(BIN)/mypy --no-error-summary & types=$$!; \
	$(BIN)/python -m pytest -q -n 3 tests/unit tests/commands; tests=$$?; wait $$types && exit $$tests

bench: $(READY)          ## the table of the README, with its gates
	@$(BIN)/python -m bench

fix: $(READY)            ## what can be mended by itself, and the generated documents
	@$(BIN)/ruff check -q --fix . ; $(BIN)/ruff format -q .
	@$(MAKE) -s docs

docs: $(READY)
	@$(BIN)/python scripts/docs.py

clean:
	@rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
