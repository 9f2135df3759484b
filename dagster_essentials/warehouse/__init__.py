"""The DuckDB database: who may open it, its tables, how a month is loaded, data quality rules. Imports no dagster."""
