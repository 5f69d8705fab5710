# Every target sets up what it needs. `make demo` and `make test` are all that a newcomer has to know.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
# Flower must neither phone home nor install anything at run time.
export FLWR_TELEMETRY_ENABLED := 0
export FLWR_DISABLE_UPDATE_CHECK := 1
export FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION := 1
export RAY_USAGE_STATS_ENABLED := 0

# Tests of queries, of the proxy and of pages need servers and a browser, and are skipped without; only CI's throw-away
# machine is given them unasked.
SERVERS_IN_CI = if test "$(CI)" = true && ! { ls /usr/lib/postgresql/*/bin/initdb && command -v chromium; } >/dev/null 2>&1 \
	&& command -v apt-get >/dev/null; then echo "installing PostgreSQL, nginx and Chromium for the tests"; \
	(apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends \
	postgresql nginx-light chromium) >/dev/null \
	|| echo "they cannot be installed here: tests of queries, of the proxy and of pages are skipped"; fi

.PHONY: help demo bank federation bench test check docs format clean
.DEFAULT_GOAL := help

help: ## Show the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(VENV)/installed ## Simulate a market of eight companies and open the report
	$(BIN)/fedmarket simulate experiments/demo/config.toml --open

bank: $(VENV)/installed ## Run the bank-marketing experiment on the real UCI data
	$(BIN)/fedmarket simulate experiments/bank-marketing/config.toml

federation: $(VENV)/installed ## Run five banks and a server as processes of this machine
	$(BIN)/python experiments/federation/run.py

bench: $(VENV)/installed ## Measure private steps, epochs and starts beside plain torch and Opacus
	$(BIN)/python benchmarks/step.py
	$(BIN)/python benchmarks/epoch.py
	$(BIN)/python benchmarks/start.py

test: $(VENV)/installed-dev ## Run the whole test suite
	@$(SERVERS_IN_CI)
	$(BIN)/pytest -n 2 --dist loadfile

check: $(VENV)/installed-dev ## Lint, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/installed-dev ## Write the command reference and build the site into runs/docs; warnings are errors
	$(BIN)/python docs/reference/cli.py
	$(BIN)/sphinx-build -q -n -W --keep-going -c docs . runs/docs
	@echo runs/docs/index.html

format: $(VENV)/installed-dev ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove environment, caches and runs
	rm -rf $(VENV) runs .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# torch first and by its exact version. PyPI's for Linux brings gigabytes of GPU libraries; this has the one without chosen:
# PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make demo
$(VENV)/installed: pyproject.toml constraints.txt
	@echo "installing into $(VENV) (minutes, in silence; 2 GB, or 5 where PyPI's torch brings GPU libraries)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) torch==2.13.0
	@$(PIP) --editable '.[train,flower]'
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	@echo "installing the tools for tests"
	@$(PIP) --editable '.[dev]'
	@touch $@
