# The commands of this project. Each is a short recipe of ordinary commands; the ones that need the virtual environment
# make it, or bring it up to date, by themselves.

PYTHON ?= python3
# The folder of the project, also when make is started elsewhere (make -C): .env builds DAGSTER_HOME from it.
export PWD := $(CURDIR)
BIN := $(CURDIR)/.venv/bin
SAMPLE := $(CURDIR)/data/sample

.PHONY: setup run dev test check bench

setup: .venv/.ready

.venv/.ready: pyproject.toml constraints.txt setup.py
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

# Three sample months, end to end, in a database and a Dagster instance of their own: invented trips stay out of the real
# table. No network is used.
run: export DAGSTER_HOME := $(SAMPLE)/.dagster
run: export DUCKDB_DATABASE := $(SAMPLE)/staging/data.duckdb
run: export TAXI_DATA_DIR := $(SAMPLE)
run: export TAXI_TRIPS_URL := $(SAMPLE)/source/trip-data
run: export TAXI_ZONES_URL := $(SAMPLE)/source/taxi_zones.csv
run: export TAXI_START_DATE := 2023-01-01
run: export TAXI_END_DATE := 2023-04-01
run: .venv/.ready
	mkdir -p $(SAMPLE)/.dagster && cp .dagster/dagster.yaml $(SAMPLE)/.dagster/
	$(BIN)/python -m dagster_essentials.sample $(SAMPLE)/source --start 2023-01 --end 2023-03
	cd $(SAMPLE) && $(BIN)/dagster asset materialize -m dagster_essentials.definitions --select 'taxi_zones_file, taxi_zones'
	cd $(SAMPLE) && $(BIN)/dagster asset materialize -m dagster_essentials.definitions --select 'taxi_trips_file, taxi_trips' --partition-range 2023-01-01...2023-03-01

dev: .venv/.ready
	$(BIN)/dagster dev
