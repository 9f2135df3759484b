"""A run over partitions, and the events that Dagster records of it. Knows no dataset, and reads no settings."""
