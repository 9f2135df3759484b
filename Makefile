# The commands of this project. Each is a short recipe of ordinary commands; those that need the virtual environment
# make it, or bring it up to date, by themselves.

PYTHON ?= python3
BIN := "$(CURDIR)/.venv/bin"
# The project's folder, also when make was started in another one: .env makes DAGSTER_HOME from it.
export PWD := $(CURDIR)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: setup run dev-sample dev test test-duckdb-2 chaos check screenshots bench

setup: .venv/.ready

.venv/.ready: pyproject.toml constraints.txt setup.py
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

# Three sample months from the file to the tables and pictures, without network. They have a data folder, a database and
# a Dagster instance of their own: invented trips stay out of the real table, and out of its history.
SAMPLE := $(CURDIR)/data/sample
REQUEST := "borough": "Manhattan", "start_date": "2023-01-10", "end_date": "2023-01-25"
QUIETLY := "loggers": {"console": {"config": {"log_level": "INFO"}}}
MATERIALIZE := $(BIN)/dagster asset materialize -m dagster_essentials --config-json '{$(QUIETLY)}'
run dev-sample: export DAGSTER_HOME := $(SAMPLE)/.dagster
run dev-sample: export DUCKDB_DATABASE := $(SAMPLE)/staging/data.duckdb
run dev-sample: export TAXI_DATA_DIR := $(SAMPLE)
run dev-sample: export TAXI_TRIPS_URL := $(SAMPLE)/source/trip-data
run dev-sample: export TAXI_ZONES_URL := $(SAMPLE)/source/taxi_zones.csv
run dev-sample: export TAXI_START_DATE := 2023-01-01
run dev-sample: export TAXI_END_DATE := 2023-04-01
run: .venv/.ready
	rm -rf '$(SAMPLE)'
	$(BIN)/python -m dagster_essentials.sample '$(SAMPLE)/source' --start 2023-01 --end 2023-03 --rows 100000
	mkdir -p '$(SAMPLE)/.dagster' && cp .dagster/dagster.yaml '$(SAMPLE)/.dagster'
	cd '$(SAMPLE)' && $(MATERIALIZE) --select taxi_zones_file,taxi_zones
	cd '$(SAMPLE)' && $(MATERIALIZE) --select taxi_trips_file,taxi_trips --partition-range 2023-01-01...2023-03-01
	cd '$(SAMPLE)' && $(MATERIALIZE) --select manhattan/manhattan_stats,manhattan_map
	cd '$(SAMPLE)' && $(MATERIALIZE) --select trips_by_week --partition-range 2023-01-01...2023-03-26
	mkdir -p '$(SAMPLE)/requests' && echo '{$(REQUEST)}' > '$(SAMPLE)/requests/january-manhattan.json'
	cd '$(SAMPLE)' && $(BIN)/dagster asset materialize -m dagster_essentials --select adhoc_request --config-json \
		'{$(QUIETLY), "ops": {"adhoc_request": {"config": {"filename": "january-manhattan.json", $(REQUEST)}}}}'
	$(BIN)/python -m dagster_essentials.show

# The UI on what `make run` loaded.
dev-sample: .venv/.ready
	cd '$(SAMPLE)' && $(BIN)/dagster dev -m dagster_essentials

dev: .venv/.ready
	$(BIN)/dagster dev

test: .venv/.ready
	$(BIN)/python -m pytest

# The tests of everything that DuckDB does, with the next major version in the place of the pinned one.
test-duckdb-2: .venv/duckdb-2
	PYTHONPATH='$(CURDIR)/.venv/duckdb-2' $(BIN)/python -m pytest -m duckdb

# Break it on purpose while real runs go on, and look whether the data is right: `make chaos SEED=7` for the blows of a seed.
chaos: .venv/.ready .venv/duckdb-2
	$(BIN)/python -m chaos $(if $(SEED),--seed $(SEED))

.venv/duckdb-2: .venv/.ready
	rm -rf $@
	$(BIN)/pip install --quiet --no-deps --target $@ 'duckdb==2.0.0'
	touch $@

check: .venv/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The pictures of docs/lesson-8.md, as the browser tests see the UI, and those of the sample months.
screenshots: .venv/.ready run
	cp '$(SAMPLE)/outputs/manhattan_map.png' '$(SAMPLE)/outputs/january-manhattan.png' docs/images
	$(BIN)/python -c "import duckdb; from pathlib import Path; from dagster_essentials.pictures import draw_weeks; \
		weeks = duckdb.connect('$(SAMPLE)/staging/data.duckdb').sql('SELECT period, num_trips FROM trips_by_week').fetchall(); \
		Path('docs/images/trips_by_week.png').write_bytes(draw_weeks(dict(weeks)))"
	SCREENSHOTS='$(CURDIR)/docs/images' $(BIN)/python -m pytest dagster_essentials_tests/ui

bench: .venv/.ready
	$(BIN)/python benchmarks/bench.py $(if $(ROWS),--rows $(ROWS))
