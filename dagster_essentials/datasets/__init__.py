"""What the TLC publishes, as data: the columns, layouts and data quality rules of each dataset. Nothing is executed here."""
