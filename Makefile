# make run       serve on http://localhost:8051 from a SQLite file in this directory; PORT=8061
# make check     ruff, mypy and the unit tests: seconds
# make test      these, the databases under uWSGI, and the core faults: minutes
# make test-all  everything that is not in make test: caches, image, chart, browser, all faults, ...
# make docs      the documentation site, in docs/_build/html
# make image     the container image, with docker, podman or buildah
# make chaos     the fault tests for MINUTES=30; CLIENTS=1 has one client ask in most of them (else 16)
# make bench     requests per second, side by side; bench-full takes more clients, and half an hour
# make clean     remove what these made; databases are kept

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := $(shell find uniqueid pacifica -type f -not -name '*.pyc') setup.py pyproject.toml README.md
CLIENT_SOURCES := $(shell find client/uniqueid_client -type f -not -name '*.pyc') $(wildcard client/*.*)
PIP := $(BIN)/pip -q --disable-pip-version-check
# One pip at a time; the build directories of setuptools do not stay.
define install_wheel
@rm -rf $(VENV)/dist/$(2)-* $(1)/build
@$(PIP) wheel --no-deps --no-build-isolation -w $(VENV)/dist $(1)
@rm -rf $(1)/build $(1)/*.egg-info
@$(PIP) install --force-reinstall --no-deps $(VENV)/dist/$(2)-*.whl
@touch $@
endef
UWSGI_ARGS ?=
IMAGE_ARGS ?=
BENCH_ARGS ?=
# More than there are CPUs: the tests wait for servers most of the time.
TEST_PROCESSES ?= 4

.PHONY: run test test-all check lint packages packages-all docs chaos image bench bench-full clean
.DELETE_ON_ERROR:

# The tables are created once: later an empty database is more likely a lost one.
run: $(VENV)/run
	$(BIN)/pacifica-uniqueid-cmd dbsync $(if $(wildcard $(VENV)/created),--no-create)
	@touch $(VENV)/created
	$(if $(PORT),UNIQUEID_LISTEN=:$(PORT) )exec $(BIN)/uwsgi --ini uwsgi.ini $(UWSGI_ARGS)

# tests/suites.py has the tests of each suite, tests/side_by_side.py their groups.
check: lint
	$(BIN)/pytest -q -n $(TEST_PROCESSES) --suite=unit

# Debian's packages come while the environment is made.
test:
	@PYTHON=$(PYTHON) .ci/setup run
	@$(MAKE) --no-print-directory -j2 packages lint
	$(BIN)/pytest -n $(TEST_PROCESSES) --suite=core

test-all:
	@PYTHON=$(PYTHON) .ci/setup run
	@$(MAKE) --no-print-directory -j2 packages-all $(VENV)/test-all
	$(BIN)/pytest -n $(TEST_PROCESSES) --suite=rest

lint: $(VENV)/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

packages:
	@PYTHON=$(PYTHON) .ci/setup test

packages-all:
	@PYTHON=$(PYTHON) .ci/setup all

docs: $(VENV)/docs
	$(BIN)/sphinx-build -qW --keep-going -b html docs docs/_build/html

image:
	.ci/image $(IMAGE_ARGS)

# The fault tests again and again, for so long; the first failure ends them.
chaos: MINUTES ?= 30
chaos: CLIENTS ?= 16
chaos: $(VENV)/test
	.ci/setup all
	CHAOS_MINUTES=$(MINUTES) CHAOS_CLIENTS=$(CLIENTS) $(BIN)/pytest tests/chaos

bench: $(VENV)/test-all
	.ci/setup all
	$(BIN)/python benchmarks/bench.py $(BENCH_ARGS)

bench-full: $(VENV)/test-all
	.ci/setup all
	$(BIN)/python benchmarks/bench.py --clients 1,8,32,64,256 --rounds 5 --seconds 3 $(BENCH_ARGS)
	$(BIN)/python benchmarks/growth.py
	$(BIN)/python benchmarks/client.py

clean:
	rm -rf $(VENV) build dist docs/_build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	@PYTHON=$(PYTHON) .ci/setup run
	$(PYTHON) -m venv $(VENV)
	$(PIP) install 'setuptools>=77' wheel

# The wheels are what is run and tested, not this directory.
$(VENV)/wheel: $(VENV)/bin/python $(SOURCES) | $(VENV)/uwsgi
	$(call install_wheel,.,pacifica_uniqueid)

$(VENV)/client: $(CLIENT_SOURCES) | $(VENV)/wheel
	$(call install_wheel,./client,pacifica_uniqueid_client)

# uWSGI embeds the Python it was compiled for; a wheel of it in pip's cache may be another's.
$(VENV)/uwsgi: $(VENV)/bin/python
	@$(PIP) install --no-cache-dir uwsgi
	@touch $@

$(VENV)/run: $(VENV)/uwsgi $(VENV)/wheel
	@$(PIP) install "$$(echo $(VENV)/dist/pacifica_uniqueid-*.whl)[postgresql]"
	@touch $@

$(VENV)/test: $(VENV)/run $(VENV)/client
	@$(PIP) install "$$(echo $(VENV)/dist/pacifica_uniqueid-*.whl)[test]" \
	    $(VENV)/dist/pacifica_uniqueid_client-*.whl
	@touch $@

$(VENV)/docs: $(VENV)/client
	@$(PIP) install "$$(echo $(VENV)/dist/pacifica_uniqueid-*.whl)[docs]" \
	    $(VENV)/dist/pacifica_uniqueid_client-*.whl
	@touch $@

$(VENV)/test-all: $(VENV)/test
	@$(PIP) install "$$(echo $(VENV)/dist/pacifica_uniqueid-*.whl)[test-all]"
	@touch $@
