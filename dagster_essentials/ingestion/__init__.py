"""Downloading and validating files, and mapping their columns. Imports no dagster, and does not use the database."""
