"""Prints what is loaded: ``python -m dagster_essentials.show``."""

import duckdb

from dagster_essentials.settings import SETTINGS


def main() -> None:
    """Print a row for each month in `trips`: trips, how many of them began outside the month, and US dollars in all.

    After them, the files that were made of them.
    """
    with duckdb.connect(str(SETTINGS.database), read_only=True) as connection:
        months = connection.execute(
            """
            SELECT
                partition_date, count(*), count_if(strftime(pickup_datetime, '%Y-%m') <> partition_date), sum(total_amount)
            FROM trips GROUP BY partition_date ORDER BY partition_date
            """
        ).fetchall()
        (zones,) = connection.execute("SELECT count(*) FROM zones").fetchall()[0]
    print(f"\n{SETTINGS.database}\n\nmonth         trips  outside the month           dollars")
    for month, trips, outside, dollars in months:
        print(f"{month}  {trips:>10,}  {outside:>17,}  {dollars:>16,.2f}")
    print(f"\n{sum(trips for _, trips, *_ in months):,} trips, {zones} zones")
    for path in sorted((SETTINGS.data_dir / "outputs").glob("[!.]*")):
        print(path)


if __name__ == "__main__":
    main()
