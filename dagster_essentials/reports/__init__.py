"""Reports made from the tables: weeks, the map of Manhattan, ad-hoc requests, plots. Imports no dagster."""
