"""The view `month_quality`: the counts and limits of the data quality rules for each loaded month, without Dagster.

The counts are in `month_versions`; the limits come from the code, and each load keeps those of its dataset in `quality_rules`.
"""

from dagster_essentials.ingestion.dataset import Dataset
from dagster_essentials.warehouse.catalog import Table, create_view
from dagster_essentials.warehouse.tables import Tables

QUALITY_RULES = Table(
    "quality_rules",
    "The data quality rules with which the loaded months are checked, and their limits",
    [
        ("dataset", "VARCHAR", "Name of the dataset, as fleet in month_versions"),
        ("rule", "VARCHAR", "Name of the rule; a column and _present for the values that are missing in it"),
        ("max_share", "DOUBLE", "Share of a month's rows, 0 to 1, above which the rule warns"),
        ("description", "VARCHAR", "What is counted, and why the limit is where it is"),
    ],
)
MONTH_QUALITY = "The data quality of each loaded month: a row for each month and rule"
COLUMNS = {
    "dataset": "Name of the dataset, as fleet in month_versions",
    "month": "Month of the file, YYYY-MM",
    "rule": "Name of the rule; a column and _present for the values that are missing in it",
    "rows": "Rows that violate it",
    "share": "Their share of the month's rows, 0 to 1",
    "limit": "Share above which the rule warns",
    "passed": "Whether the share is within the limit",
}
# With INNER, as DuckDB keeps it, so that it is recognized.
_QUERY = """
WITH latest AS (
    SELECT * FROM month_versions QUALIFY version = max(version) OVER (PARTITION BY fleet, month)
),
counted AS (
    SELECT fleet AS dataset, month, num_trips, unnest(map_keys(violations)) AS rule, unnest(map_values(violations)) AS rows
    FROM latest
    UNION ALL
    SELECT fleet AS dataset, month, num_trips, unnest(map_keys(missing)) || '_present', unnest(map_values(missing))
    FROM latest
)
SELECT dataset, month, rule, rows, rows / num_trips AS share, max_share AS "limit", rows <= max_share * num_trips AS passed
FROM counted INNER JOIN quality_rules USING (dataset, rule)
"""


def prepare_month_quality(tables: Tables, dataset: Dataset) -> None:
    """Create the view if there is none, and let it have the limits of `dataset`.

    To be called in the transaction that loads a month, when there is the table `month_versions`.

    Raises:
        DatabaseUnusableError: something else has one of the names.
    """
    wanted = [
        *((dataset.name, rule.name, rule.limit, rule.description) for rule in dataset.rules),
        *(
            (dataset.name, f"{column.name}_present", column.max_missing, f"Missing values of {column.name}")
            for column in dataset.columns
            if column.max_missing is not None
        ),
    ]
    QUALITY_RULES.create(tables)
    found = tables.execute(
        f"SELECT {QUALITY_RULES.column_names} FROM quality_rules WHERE dataset = $dataset", {"dataset": dataset.name}
    ).fetchall()
    if sorted(found) != sorted(wanted):
        tables.execute("DELETE FROM quality_rules WHERE dataset = $dataset", {"dataset": dataset.name})
        for row in wanted:
            tables.execute(f"INSERT INTO quality_rules ({QUALITY_RULES.column_names}) VALUES (?, ?, ?, ?)", row)
    create_view(tables, "month_quality", _QUERY, MONTH_QUALITY, COLUMNS)
