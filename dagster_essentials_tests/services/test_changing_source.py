"""A source that publishes, corrects, shrinks and enlarges months for five simulated months, and schedules that follow it."""

import random
from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
import pytest

from dagster_essentials.schedules import trip_corrections_schedule, trip_update_schedule
from dagster_essentials_tests.support.faults.samples import query_file, rewrite, sample
from dagster_essentials_tests.support.project import Project, materialize
from dagster_essentials_tests.support.run_results import TRIPS, publish
from dagster_essentials_tests.support.source_server import SourceServer
from dagster_essentials_tests.support.ticks import tick

pytestmark = pytest.mark.slow

NEW_YORK = ZoneInfo("America/New_York")


def days(first: datetime, last: datetime) -> Iterator[datetime]:
    while first <= last:
        yield first
        first += timedelta(days=1)


DIGEST = "count(*), sum(hash({}))::VARCHAR"
OF_FILE = DIGEST.format(
    "VendorID::INTEGER, PULocationID::INTEGER, DOLocationID::INTEGER, tpep_pickup_datetime, tpep_dropoff_datetime, "
    "trip_distance, total_amount"
)
OF_TABLE = DIGEST.format(
    "vendor_id, pickup_zone_id, dropoff_zone_id, pickup_datetime, dropoff_datetime, trip_distance, total_amount"
)


@cache
def digest_of(content: bytes) -> tuple[Any, ...]:
    return query_file(content, f"SELECT {OF_FILE} FROM month")[0]


def test_the_table_follows_a_source_that_changes_for_five_months(
    project: Project, history: dg.DagsterInstance, source_server: SourceServer
) -> None:
    source: dict[str, bytes] = {}
    choices = random.Random(14)
    corrected = 0

    def change_source(today: datetime) -> None:
        nonlocal corrected
        # A month is published 50 days after its end.
        published = (today - timedelta(days=50)).replace(day=1) - timedelta(days=1)
        source.setdefault(f"{published:%Y-%m}", sample(f"{published:%Y-%m}", 120))
        if today.weekday() == 3 and choices.random() < 0.3:
            month = choices.choice(sorted(source))
            corrected += 1
            how = choices.choice([f"FROM month LIMIT {100 + corrected}", "FROM month UNION ALL FROM month LIMIT 7"])
            source[month] = rewrite(source[month], how)
        for month, content in source.items():
            publish(source_server, month, content)

    def run_what_is_due(today: datetime) -> None:
        schedules = [trip_update_schedule] if today.day == 5 else []
        schedules += [trip_corrections_schedule] if today.weekday() == 6 else []
        for schedule in schedules:
            for request in tick(history, today, schedule)[0]:
                assert materialize(project, history, TRIPS, str(request.partition_key)[:7]).success

    for today in days(datetime(2022, 1, 3, tzinfo=NEW_YORK), datetime(2022, 6, 5, tzinfo=NEW_YORK)):
        change_source(today)
        run_what_is_due(today)
        if today.weekday() == 6:
            in_table = project.query(f"SELECT partition_date, {OF_TABLE} FROM trips GROUP BY ALL")
            assert in_table, today
            assert {month: tuple(digest) for month, *digest in in_table} == {
                month: digest_of(source[month]) for month, *_ in in_table
            }, today
    assert corrected > 4
    assert set(project.rows()) >= {f"2022-{number:02}" for number in range(1, 4)}
    assert max(number for (number,) in project.query("SELECT version FROM month_versions")) > 1
