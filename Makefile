# Every target sets up what it needs, from a bare clone with only Python 3.11 or later and make.

PYTHON ?= python3
ARGS ?=
RESOLUTION ?= lowest-direct
PLOTLY ?= 4.1.1

BIN := .venv/bin
ASSETS := src/neurocollapse/reports/page/assets
PIP := $(BIN)/python -m pip --disable-pip-version-check
# A stamp is written last, so an interrupted installation is taken up again.
TEST_STAMP := .venv/.installed-test
LINT_STAMP := .venv/.installed-lint
DOCS_STAMP := .venv/.installed-docs

.DEFAULT_GOAL := help
.PHONY: help reproduce test test-slow test-versions test-sdist plotly lint docs bench wheel clean

help: ## show this list
	@echo "make TARGET [ARGS='options for the command behind it'] [PYTHON=python3.12]"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' Makefile | expand -t 14

reproduce: $(TEST_STAMP) ## train the paper's networks and draw its figure into results/
	$(BIN)/neurocollapse reproduce $(ARGS)

test: $(TEST_STAMP) ## run the tests and the examples in docstrings, without the slow tests
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile $(ARGS)

test-slow: $(TEST_STAMP) ## run the slow tests only
	$(BIN)/python -m pytest -m slow $(ARGS)

# uv, from the PATH, picks the versions. Nothing is built from source but this package, so each Python gets its wheels.
test-versions: ## run the tests at RESOLUTION=lowest-direct (or highest) of the versions that pyproject.toml admits
	uv venv --quiet --clear --python $(PYTHON) .venv-versions
	VIRTUAL_ENV=.venv-versions uv pip install --quiet --resolution $(RESOLUTION) \
		--only-binary :all: --no-binary neurocollapse --editable '.[test]'
	.venv-versions/bin/python -m pytest -n auto --maxprocesses 8 --dist loadfile $(ARGS)

test-sdist: $(TEST_STAMP) ## build the source distribution, unpack it elsewhere and run the tests there
	$(PIP) install --quiet --constraint constraints.txt build
	rm -rf dist/sdist && $(BIN)/python -m build --quiet --sdist --outdir dist/sdist .
	tar --extract --gzip --strip-components 1 --file dist/sdist/*.tar.gz --directory dist/sdist
	cd dist/sdist && PYTHONPATH=src $(CURDIR)/$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile $(ARGS)

lint: $(LINT_STAMP) ## check style, formatting and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy src

docs: $(DOCS_STAMP) ## build the documentation site into site/; index.html opens from the disk, but for its search
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict $(ARGS)

bench: $(TEST_STAMP) ## run every script in benchmarks/, those of a GPU too
	@failed=0; for script in $(sort $(wildcard benchmarks/*.py)); do \
		echo "== $$script"; $(BIN)/python "$$script" $(ARGS) || failed=1; \
	done; exit $$failed

wheel: $(TEST_STAMP) ## build the wheel into dist/
	@rm -rf dist
	$(PIP) wheel --quiet --no-deps --wheel-dir dist .
	@ls dist/*.whl

# Neither building nor reading a report fetches anything. A new PLOTLY needs a new checksum, which git shows.
plotly: ## renew the copy of plotly.js that reports contain, at version PLOTLY from npm
	@rm -rf build/plotly && mkdir -p build/plotly
	cd build/plotly && npm pack --silent plotly.js-cartesian-dist-min@$(PLOTLY) && tar -xzf *.tgz
	cp build/plotly/package/plotly-cartesian.min.js $(ASSETS)/
	cp build/plotly/package/LICENSE $(ASSETS)/plotly-LICENSE
	cd $(ASSETS) && sha256sum plotly-cartesian.min.js > plotly.sha256

clean: ## remove .venv, dist, site and caches (never results/)
	rm -rf .venv .venv-versions dist site build .pytest_cache .hypothesis .mypy_cache .ruff_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(TEST_STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "neurocollapse needs Python 3.11 or later, and '$(PYTHON)' is not: name one, such as make PYTHON=python3.12" >&2; \
		exit 1; }
	$(PYTHON) -m venv .venv
	@echo "Installing into .venv: first PyTorch, much the largest, then the rest, which takes a minute without a word."
	$(PIP) install --constraint constraints.txt torch
	$(PIP) install --quiet --constraint constraints.txt --editable '.[test]'
	@touch $@

# After the tests' packages, not beside them: under make -j two installations would write into one environment.
$(LINT_STAMP): $(TEST_STAMP)
	$(PIP) install --quiet --constraint constraints.txt --editable '.[test,lint]'
	@touch $@

# After the others, for the same reason, where they are asked for too.
$(DOCS_STAMP): $(TEST_STAMP) $(if $(filter lint,$(MAKECMDGOALS)),$(LINT_STAMP))
	$(PIP) install --quiet --constraint constraints.txt --editable '.[test,docs]'
	@touch $@
