"""The tables in a DuckLake."""
