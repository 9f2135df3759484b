# The commands of this project. Those that need the virtual environment create or update it first.

PYTHON ?= python3
BIN := "$(CURDIR)/.venv/bin"
# Also with `make -C`, as .env builds DAGSTER_HOME from it.
export PWD := $(CURDIR)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: setup run dev-sample dev check test test-all test-duckdb-2 test-cluster cluster chaos screenshots bench

setup: .venv/.ready

# `dg` decides on telemetry before it reads .env, by the settings in DAGSTER_HOME: the activated environment has it, too.
.venv/.ready: pyproject.toml constraints.txt setup.py
	$(PYTHON) -m venv .venv
	sed 's/^    unset VIRTUAL_ENV$$/& DAGSTER_HOME/' .venv/bin/activate > .venv/activate
	echo 'export DAGSTER_HOME="$${VIRTUAL_ENV%/.venv}/.dagster"' >> .venv/activate
	mv .venv/activate .venv/bin/activate
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

# Load three generated months, and one of each other fleet, from file to tables and plots, without network. They have a data folder, a database and a
# Dagster instance of their own, so that generated trips reach neither the real table nor its history.
SAMPLE := $(CURDIR)/data/sample
REQUEST := "borough": "Manhattan", "start_date": "2023-01-10", "end_date": "2023-01-25"
# In that folder, because what .env sets in the project's would override the settings below.
LAUNCH := cd '$(SAMPLE)' && $(BIN)/dg launch -m dagster_essentials
# What `make run` prints at its end.
run: export LOADED_MONTHS := SELECT partition_date AS month, fleet, count(*) AS trips, \
	count(*) FILTER (strftime(pickup_datetime, '%Y-%m') <> partition_date) AS pickups_outside_the_month, \
	round(sum(total_amount), 2) AS dollars FROM all_trips GROUP BY ALL ORDER BY ALL
run dev-sample: export DAGSTER_HOME := $(SAMPLE)/.dagster
run dev-sample: export DUCKDB_DATABASE := $(SAMPLE)/staging/data.duckdb
run dev-sample: export TAXI_DATA_DIR := $(SAMPLE)
run dev-sample: export TAXI_TRIPS_URL := $(SAMPLE)/source/trip-data
run dev-sample: export TAXI_ZONES_URL := $(SAMPLE)/source/taxi_zones.csv
run dev-sample: export TAXI_START_DATE := 2023-01-01
run dev-sample: export TAXI_END_DATE := 2023-04-01
run dev-sample: export TAXI_FLEETS := green,fhv,fhvhv
run: .venv/.ready
	rm -rf '$(SAMPLE)'
	$(BIN)/python -m dagster_essentials.sample '$(SAMPLE)/source' --start 2023-01 --end 2023-03 --rows 100000
	$(BIN)/python -m dagster_essentials.sample '$(SAMPLE)/source' --start 2023-03 --end 2023-03 --rows 100000 --fleets green,fhv,fhvhv
	mkdir -p '$(SAMPLE)/.dagster' && cp .dagster/dagster.yaml '$(SAMPLE)/.dagster'
	$(LAUNCH) --job trip_update_job --partition-range 2023-01-01...2023-03-01
	$(LAUNCH) --job weekly_update_job --partition-range 2023-01-01...2023-03-26
	$(LAUNCH) --job fleet_update_job --partition-range 'green|2023-03-01...fhvhv|2023-03-01'
	mkdir -p '$(SAMPLE)/requests' && echo '{$(REQUEST)}' > '$(SAMPLE)/requests/january-manhattan.json'
	$(LAUNCH) --job adhoc_request_job --config-json \
		'{"ops": {"adhoc_request": {"config": {"filename": "january-manhattan.json", $(REQUEST)}}}}'
	$(BIN)/python -c 'import duckdb, os; duckdb.connect(os.environ["DUCKDB_DATABASE"]).sql(os.environ["LOADED_MONTHS"]).show()'
	ls '$(SAMPLE)'/outputs/*

# The UI on what `make run` loaded.
dev-sample: .venv/.ready
	cd '$(SAMPLE)' && $(BIN)/dg dev -m dagster_essentials

dev: export DAGSTER_HOME := $(CURDIR)/.dagster
dev: .venv/.ready
	$(BIN)/dg dev

# Three workers keep two cores busy while a test waits for another process.
PYTEST := $(BIN)/python -m pytest --numprocesses $(or $(WORKERS),3) --dist loadfile --no-loadscope-reorder

# Linters, types, and the layers in pyproject.toml. Three modules may use private names of Dagster, which any release may change.
check: .venv/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo
	! grep -rn --include='*.py' --exclude=events.py --exclude=launcher.py --exclude=celery_launcher.py 'dagster[a-z_]*[.]_' dagster_essentials

# Before each commit.
test: .venv/.ready
	$(PYTEST) -m 'not slow and not cluster'

# Also the tests with `dagster dev`, in a browser and with fault injection.
test-all: .venv/.ready
	$(PYTEST) -m 'not cluster'

# With the next major version of DuckDB instead of the pinned one.
test-duckdb-2: .venv/duckdb-2
	PYTHONPATH='$(CURDIR)/.venv/duckdb-2' $(PYTEST) -m 'duckdb and not cluster'

# With a DuckLake, PostgreSQL and an S3 server on this machine, as docs/scale-out.md says.
test-cluster: .venv/cluster
	PYTHONPATH='$(CURDIR)/.venv/cluster' $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder -m cluster

# Fault injection into real runs, with a check of the data after each fault. `make chaos SEED=7` repeats the faults of a seed.
chaos: .venv/.ready .venv/duckdb-2
	$(BIN)/python -m dagster_essentials_tests.chaos $(if $(SEED),--seed $(SEED))

.venv/duckdb-2: .venv/.ready
	rm -rf $@
	$(BIN)/pip install --quiet --no-deps --target $@ 'duckdb==2.0.0'
	touch $@

# PostgreSQL, an S3 server, a broker and Dagster with three workers on this machine, with sample months, until Ctrl-C.
cluster: .venv/cluster
	PYTHONPATH='$(CURDIR)/.venv/cluster' $(BIN)/python -m dagster_essentials_tests.cluster

# Beside the environment, as DuckDB's extensions need a DuckDB of their own version.
.venv/cluster: .venv/.ready constraints-cluster.txt
	rm -rf $@
	$(BIN)/pip install --quiet --no-deps --target $@ --requirement constraints-cluster.txt
	touch $@

# The pictures of docs/lesson-8.md: screenshots that the browser tests take, and plots of the sample months.
screenshots: .venv/.ready run
	cp '$(SAMPLE)/outputs/manhattan_map.png' '$(SAMPLE)/outputs/january-manhattan.png' docs/images
	$(BIN)/python -c "import duckdb; from pathlib import Path; from dagster_essentials.reports.plots import plot_weeks; \
		weeks = duckdb.connect('$(SAMPLE)/staging/data.duckdb').sql('SELECT period, num_trips FROM trips_by_week').fetchall(); \
		Path('docs/images/trips_by_week.png').write_bytes(plot_weeks(dict(weeks)))"
	SCREENSHOTS='$(CURDIR)/docs/images' $(BIN)/python -m pytest dagster_essentials_tests/ui

# The part `cluster` uses the servers of `make cluster`.
bench: $(if $(filter cluster,$(ONLY)),.venv/cluster,.venv/.ready)
	$(if $(filter cluster,$(ONLY)),PYTHONPATH='$(CURDIR):$(CURDIR)/.venv/cluster') $(BIN)/python benchmarks/bench.py $(if $(ROWS),--rows $(ROWS)) $(if $(SCALE),--scale $(SCALE)) \
		$(addprefix --only ,$(ONLY))
