# Every target sets itself up: `make demo` in a fresh clone is enough.

PYTHON ?= python3
ARGS ?=
PORT ?= 3000
WORKERS ?= 2

BIN := .venv/bin
INSTALLED := .venv/.installed
# The frameworks are heavy, so they have an environment of their own.
INTEGRATED := .venv-integrations/.installed

# One thread for numeric libraries: results repeat, and two processes do not fight.
export OMP_NUM_THREADS = 1
export OPENBLAS_NUM_THREADS = 1

.DEFAULT_GOAL := help
.PHONY: help demo dev test check lint fmt types layers deps bench test-deep test-integrations test-ui screenshots clean

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' Makefile | \
		while IFS='|' read -r target text; do printf 'make %-18s %s\n' "$$target" "$$text"; done

demo: $(INSTALLED) ## From data to a promoted model, through Dagster (ARGS=--json for a script)
	@$(BIN)/artifact-pipelines demo $(ARGS)

# Dagster wants an absolute home, and the settings know which one is meant.
dev: $(INSTALLED) ## Open the Dagster UI on what the demo left (PORT=3000)
	@home=$$($(BIN)/python -c 'from pathlib import Path; from artifact_pipelines.settings import Settings, prepare_dagster_home; s = Settings.from_environment(); prepare_dagster_home(s, Path.cwd()); print(s.home)') && \
	if [ ! -e "$$home/catalog.db" ]; then echo "$$home is empty so far; 'make demo' fills it." >&2; fi && \
	ARTIFACT_PIPELINES_HOME="$$home" DAGSTER_HOME="$$home/dagster" PATH="$(CURDIR)/$(BIN):$$PATH" \
		PYTHONWARNINGS='ignore:Function `dev_command` is superseded' && \
		export ARTIFACT_PIPELINES_HOME DAGSTER_HOME PATH PYTHONWARNINGS && \
		exec $(BIN)/dagster dev -w workspace.yaml -p $(PORT) $(ARGS)

test: $(INSTALLED) ## Run the tests, as a change must pass them (WORKERS=2 processes)
	$(BIN)/pytest -n $(WORKERS) --dist loadfile $(ARGS)

check: $(INSTALLED) ## Format, lint, layers and types, the cheap ones first
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy

lint: $(INSTALLED) ## Check the format and the lint rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

fmt: $(INSTALLED) ## Format, and mend what the linter can mend
	$(BIN)/ruff check --fix --exit-zero --quiet .
	$(BIN)/ruff format .

layers: $(INSTALLED) ## Check that imports point one way
	$(BIN)/lint-imports --no-logo

types: $(INSTALLED) ## Check the types
	$(BIN)/mypy

deps: $(INSTALLED) ## Check that what is imported is declared, and the other way round
	$(BIN)/deptry .

bench: $(INSTALLED) ## Print each headline figure as a ratio
	@for benchmark in benchmarks/*.py; do \
		echo "$$benchmark"; $(BIN)/python "$$benchmark" || exit 1; done

# pytest leaves with 5 when it found no test: that is no success, and is said.
define marked
@$(BIN)/pytest -m $(1) $(ARGS); status=$$?; \
	if [ $$status -eq 5 ]; then echo "Nothing was tested: no test is marked '$(1)'." >&2; fi; \
	exit $$status
endef

test-deep: $(INSTALLED) ## Soaks, kills and simulations that take minutes
	$(call marked,deep)

test-integrations: $(INTEGRATED) ## The tests that need a machine-learning framework
	.venv-integrations/bin/pytest -m integrations $(ARGS)

# A browser is the system's; where it cannot be installed, the tests say so and are skipped.
define browser
@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,dev,ui]' >&2
@command -v chromium >/dev/null || command -v chrome >/dev/null || [ -n "$$CHROMIUM" ] || { \
	[ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
	apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium fonts-liberation; \
	} >&2 || echo "There is no Chromium: install it, or name one in CHROMIUM." >&2
endef

test-ui: $(INSTALLED) ## The tests that drive a browser
	$(browser)
	$(call marked,ui)

screenshots: $(INSTALLED) ## Take the pictures in docs/pictures that the README shows
	$(browser)
	$(BIN)/python -m artifact_pipelines_tests.ui.pictures

clean: ## Remove what make and the tools made; homes with artifacts stay
	rm -rf .venv .venv-integrations build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "artifact-pipelines needs Python 3.11 or newer, and '$(PYTHON)' is not: try make PYTHON=/path/to/python3.11." >&2; \
		exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing into .venv: a minute or two, once." >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,dev]' >&2
	@touch $@

$(INTEGRATED): pyproject.toml constraints.txt
	@test -x .venv-integrations/bin/python || $(PYTHON) -m venv .venv-integrations
	@echo "Installing the frameworks into .venv-integrations: some minutes, once." >&2
	@.venv-integrations/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,dev,integrations]' >&2
	@touch $@
