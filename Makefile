# The commands of this project. Those that need the virtual environment create or update it first.

# With `make -C`, too: .env builds DAGSTER_HOME from it.
export PWD := $(CURDIR)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Some images set it. Each process would compile this package anew, which is a quarter of the CPU time of its start.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup run lesson dev check test test-all test-duckdb-1 test-cluster cluster chaos screenshots bench FORCE

# `make setup PYTHON=python3.12` names the Python of the environment.
setup: .venv/.ready

.venv/.ready: FORCE
	@PYTHON='$(PYTHON)' deploy/setup.sh

# In the folder of generated months, nothing that a person has exported holds: no settings, no limits, no alerts. DAGSTER_HOME
# is in .env there, too, but `dg` decides on telemetry before it reads that.
SETTINGS := $(filter DAGSTER_% DUCKDB_% DUCKLAKE_% TAXI_%,$(.VARIABLES))
DG := env $(addprefix -u ,$(SETTINGS)) DAGSTER_HOME="$$PWD/.dagster" ../../.venv/bin/dg

# Load three generated months, from file to tables and plots, without network.
REQUEST := "borough": "Manhattan", "start_date": "2023-01-10", "end_date": "2023-01-25"
LAUNCH := cd data/sample && $(strip $(DG)) launch
# The table at the end.
run: export LOADED_MONTHS := SELECT partition_date AS month, count(*) AS trips, \
	count(*) FILTER (strftime(pickup_datetime, '%Y-%m') <> partition_date) AS pickups_outside_the_month, \
	round(sum(total_amount), 2) AS dollars FROM trips GROUP BY ALL ORDER BY ALL
run: .venv/.ready
	@echo 'Loading three generated months: this takes half a minute.'
	@rm -rf data/sample
	@$(MAKE) --no-print-directory data/sample/.env
	$(LAUNCH) --job trip_update_job --partition-range 2023-01-01...2023-03-01
	$(LAUNCH) --job weekly_update_job --partition-range 2023-01-01...2023-03-26
	mkdir -p data/sample/requests && echo '{$(REQUEST)}' > data/sample/requests/january-manhattan.json
	$(LAUNCH) --job adhoc_request_job --config-json \
		'{"ops": {"adhoc_request": {"config": {"filename": "january-manhattan.json", $(REQUEST)}}}}'
	@.venv/bin/python -c 'import duckdb, os; duckdb.connect("data/sample/staging/data.duckdb").sql(os.environ["LOADED_MONTHS"]).show()'
	@ls data/sample/outputs/*
	@echo 'Next, load these months yourself, in the UI: make lesson'

# The UI with the same months, nothing of them loaded at first. What you do there is kept; `rm -r data/lesson` starts over.
lesson: data/lesson/.env
	@echo 'When "Serving dagster-webserver" appears, open the address that stands there, http://127.0.0.1:3000.'
	@echo 'Click Lineage, then "Materialize all...", choose months, and "Launch backfill". Every step is in docs/lesson-8.md.'
	@echo 'For its commands, open another shell: cd data/lesson && . ../../.venv/bin/activate'
	@echo 'Ctrl-C ends it, and what you have done is kept. To start over: rm -r data/lesson && make lesson'
	@cd data/lesson && $(DG) dev --workspace workspace.yaml

# The three months in a folder with a database, a Dagster instance and settings of its own. Commands that are typed there use
# them, too: Dagster lets `.env` override what the shell has set.
data/sample/.env data/lesson/.env: | .venv/.ready
	@.venv/bin/python -m dagster_essentials.sample $(@D)/source --start 2023-01 --end 2023-03 --rows 100000
	@mkdir -p $(@D)/.dagster && cp .dagster/dagster.yaml $(@D)/.dagster && cp workspace.yaml $(@D)
	@printf '%s\n' 'DAGSTER_HOME=$(CURDIR)/$(@D)/.dagster' 'DUCKDB_DATABASE=$(CURDIR)/$(@D)/staging/data.duckdb' \
		'TAXI_DATA_DIR=$(CURDIR)/$(@D)' 'TAXI_TRIPS_URL=$(CURDIR)/$(@D)/source/trip-data' \
		'TAXI_ZONES_URL=$(CURDIR)/$(@D)/source/taxi_zones.csv' \
		TAXI_START_DATE=2023-01-01 TAXI_END_DATE=2023-04-01 TAXI_FLEETS=none > $@

dev: export DAGSTER_HOME := $(CURDIR)/.dagster
dev: .venv/.ready
	.venv/bin/dg dev

# Three workers keep two cores busy while a test waits for another process.
PYTEST := .venv/bin/python -m pytest --numprocesses $(or $(WORKERS),3) --dist loadfile --no-loadscope-reorder

# Linters, types, and the layers in pyproject.toml. Three modules may use private names of Dagster, which any release may change.
check: .venv/.ready
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports --no-cache --no-logo
	! grep -rn --include='*.py' --exclude=events.py --exclude=launcher.py --exclude=celery_launcher.py 'dagster[a-z_]*[.]_' dagster_essentials

# Before each commit.
test: .venv/.ready
	$(PYTEST) -m 'not slow and not cluster'

# Also the tests with `dagster dev`, in a browser and with fault injection.
test-all: .venv/.ready
	$(PYTEST) -m 'not cluster'

# With the last DuckDB 1 instead of the pinned DuckDB 2: people go back and forth between the two.
test-duckdb-1: .venv/duckdb-1/.ready
	PYTHONPATH='$(CURDIR)/.venv/duckdb-1' $(PYTEST) -m 'duckdb and not cluster'

# With a DuckLake, PostgreSQL and an S3 server on this machine, as docs/scale-out.md says.
test-cluster: .venv/lake/.ready
	PYTHONPATH='$(CURDIR)/.venv/lake' $(PYTEST) -m cluster

# PostgreSQL, an S3 server, a broker and Dagster with three workers on this machine, with sample months, until Ctrl-C.
cluster: .venv/lake/.ready
	PYTHONPATH='$(CURDIR)/.venv/lake' .venv/bin/python -m dagster_essentials_tests.cluster

# Fault injection into real runs, with a check of the data after each fault. `make chaos SEED=7` repeats the faults of a seed.
chaos: .venv/duckdb-1/.ready
	.venv/bin/python -m dagster_essentials_tests.chaos $(if $(SEED),--seed $(SEED))

# The other versions of DuckDB, each in a folder beside the one of the environment.
.venv/duckdb-1/.ready: .venv/.ready Makefile
	rm -rf $(@D)
	deploy/install.sh --no-deps --target $(@D) duckdb==1.5.6
	touch $@

.venv/lake/.ready: .venv/.ready deploy/lake.txt
	rm -rf $(@D)
	deploy/install.sh --constraint deploy/constraints.txt --editable '.[dev,test-cluster]'
	deploy/install.sh --no-deps --target $(@D) --requirement deploy/lake.txt
	touch $@

# The pictures of docs/lesson-8.md: screenshots that the browser tests take, and plots of the sample months.
screenshots: run
	cp data/sample/outputs/manhattan_map.png data/sample/outputs/january-manhattan.png docs/images
	.venv/bin/python -c "import duckdb; from pathlib import Path; from dagster_essentials.reports.weekly import plot_all_weeks; \
		from dagster_essentials.warehouse.tables import Tables; \
		tables = Tables(duckdb.connect('data/sample/staging/data.duckdb', read_only=True)); \
		Path('docs/images/trips_by_week.png').write_bytes(plot_all_weeks(tables))"
	SCREENSHOTS='$(CURDIR)/docs/images' .venv/bin/python -m pytest dagster_essentials_tests/ui

# The part `cluster` uses the servers of `make cluster`.
bench: $(if $(filter cluster,$(ONLY)),.venv/lake/.ready,.venv/.ready)
	$(if $(filter cluster,$(ONLY)),PYTHONPATH='$(CURDIR):$(CURDIR)/.venv/lake') .venv/bin/python benchmarks/bench.py \
		$(if $(ROWS),--rows $(ROWS)) $(if $(SCALE),--scale $(SCALE)) $(addprefix --only ,$(ONLY))
