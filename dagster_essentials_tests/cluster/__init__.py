"""The servers of a cluster on this machine: PostgreSQL, an S3 server and a broker, for `make cluster` and its tests."""
