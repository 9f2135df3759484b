"""What a person reads on the terminal: the progress of a run in order, and each failure once."""

import logging
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import dagster as dg
import pytest

from dagster_essentials import defs
from dagster_essentials.assets import trips
from dagster_essentials.orchestration.console import print_failures_once
from dagster_essentials.sample import write_month
from dagster_essentials_tests.support.faults.samples import sample
from dagster_essentials_tests.support.project import Project, materialize
from dagster_essentials_tests.support.run_results import TRIPS, materialized_partitions, publish, step_log
from dagster_essentials_tests.support.source_server import SourceServer, cut_off, status

pytestmark = pytest.mark.slow

NOT_PUBLISHED = "not published (the source answered 403)"


@pytest.fixture(autouse=True)
def console() -> Iterator[None]:
    """As the definitions have it."""
    before = logging.getLoggerClass()
    print_failures_once()
    yield
    logging.setLoggerClass(before)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """As in .dagster/dagster.yaml, the terminal does not show Dagster's events."""
    with dg.instance_for_test(overrides={"python_logs": {"python_log_level": "INFO"}}) as instance:
        yield instance


def test_a_range_of_40_months_that_fails_is_less_than_100_lines_with_each_reason_once(
    project: Project,
    instance: dg.DagsterInstance,
    source_server: SourceServer,
    capsys: pytest.CaptureFixture[str],
) -> None:
    months = [f"{2019 + number // 12}-{number % 12 + 1:02}" for number in range(40)]
    published, missing = months[:20], months[20:]
    for month in published:
        publish(source_server, month, sample(month))

    assert not materialize(project, instance, TRIPS, months[0], months[-1]).success

    lines = capsys.readouterr().err.splitlines()
    assert len(lines) < 100, "\n".join(lines)
    for month in missing:
        (line,) = [line for line in lines if f"yellow_tripdata_{month}.parquet" in line]
        assert f"{month} ({months.index(month) + 1} of 40) failed" in line
        assert NOT_PUBLISHED in line
    assert "\n".join(lines).count("not published") == len(missing)


def failed_lines(capsys: pytest.CaptureFixture[str], *texts: str) -> list[int]:
    """How often each of the `texts` was printed."""
    printed = capsys.readouterr().err
    return [printed.count(text) for text in texts]


def test_the_reason_of_a_run_of_one_month_is_printed_once(
    project: Project,
    instance: dg.DagsterInstance,
    source_server: SourceServer,
    capsys: pytest.CaptureFixture[str],
) -> None:
    publish(source_server, "2023-01", status(403))
    assert not materialize(project, instance, TRIPS, "2023-01").success
    assert failed_lines(capsys, NOT_PUBLISHED, "RUN_FAILURE", "Stack Trace") == [1, 1, 0]


def test_the_reason_of_an_asset_without_partitions_is_printed_once(
    project: Project, instance: dg.DagsterInstance, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not materialize(project, instance, [trips.taxi_zones_file]).success
    assert failed_lines(capsys, NOT_PUBLISHED, "STEP_FAILURE", "Stack Trace") == [1, 1, 0]


@pytest.mark.parametrize("job", ["trip_update_job", "weekly_update_job"])
def test_a_job_of_partitions_that_is_launched_without_one_says_once_how_to_give_it(
    project: Project, instance: dg.DagsterInstance, capsys: pytest.CaptureFixture[str], job: str
) -> None:
    resources = {"database": project.resource()}
    run = defs.resolve_job_def(job).execute_in_process(instance=instance, resources=resources, raise_on_error=False)
    assert not run.success
    says = "The run has no partition. Launch it for one (--partition) or for a range"
    assert failed_lines(capsys, says, "Stack Trace") == [1, 0]
    assert materialized_partitions(instance, trips.taxi_trips_file) == []


def test_a_bug_and_a_failure_of_somebody_elses_asset_are_printed_once_with_their_stack_trace(
    instance: dg.DagsterInstance, capsys: pytest.CaptureFixture[str]
) -> None:
    @dg.asset
    def bug() -> None:
        raise ZeroDivisionError("a bug")

    @dg.asset
    def failing() -> None:
        raise dg.Failure("the machine is on fire")

    for asset, error in ((bug, "ZeroDivisionError: a bug"), (failing, "Failure: the machine is on fire")):
        assert not dg.materialize([asset], instance=instance, raise_on_error=False).success
        assert failed_lines(capsys, error, "\nStack Trace", "RUN_FAILURE") == [1, 1, 1]


def test_a_run_that_fails_outside_of_its_steps_says_why(
    instance: dg.DagsterInstance, capsys: pytest.CaptureFixture[str]
) -> None:
    @dg.resource
    def database(_: dg.InitResourceContext) -> None:
        raise ZeroDivisionError("no such database")

    @dg.asset(required_resource_keys={"database"})
    def report() -> None:
        pass

    result = dg.materialize([report], instance=instance, resources={"database": database}, raise_on_error=False)

    assert not result.success
    (count,) = failed_lines(capsys, "ZeroDivisionError: no such database")
    assert count >= 1


def test_a_range_is_logged_in_order_and_months_that_have_not_changed_count_as_unchanged(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer, tmp_path: Path
) -> None:
    months = ["2023-01", "2023-02", "2023-03", "2023-04"]
    for number, month in enumerate(months[:3]):
        source_server.put_month(month, write_month(tmp_path / "source", month, 1_001 + number).read_bytes())

    def late(handler: BaseHTTPRequestHandler) -> None:
        # The others are there before the first one.
        source_server.stopping.wait(0.5)
        source_server.published(handler)

    source_server.answers["/trip-data/yellow_tripdata_2023-01.parquet"] = [late]

    def log(first: str, last: str) -> list[list[str]]:
        result = materialize(project, instance, TRIPS, first, last)
        assert result.success
        return [step_log(instance, result.run_id, asset.op.name) for asset in TRIPS]

    files, table = log("2023-01", "2023-03")
    for lines, done in ((files, "downloaded"), (table, "loaded")):
        assert [line.partition(", ")[0] for line in lines] == [
            "2023-01 (1 of 3): 1,001 trips",
            "2023-02 (2 of 3): 1,002 trips",
            "2023-03 (3 of 3): 1,003 trips",
            f"3 of 3 months {done}: 3,006 trips",
        ]

    source_server.put_month("2023-04", write_month(tmp_path / "source", "2023-04", 1_004).read_bytes())
    files, table = log("2023-03", "2023-04")
    for lines, done in ((files, "downloaded"), (table, "loaded")):
        assert [line.partition(", ")[0] for line in lines] == [
            "2023-04 (2 of 2): 1,004 trips",
            f"1 of 2 months {done}",
        ]
        assert lines[-1].startswith(f"1 of 2 months {done}, 1 unchanged: 2,007 trips")

    files, table = log("2023-01", "2023-04")
    assert [lines[-1].partition(":")[0] for lines in (files, table)] == ["4 of 4 months unchanged"] * 2
    assert [len(lines) for lines in (files, table)] == [1, 1], "months that are unchanged have no line of their own"


def test_a_source_that_cannot_be_reached_names_the_lesson_without_network(
    project: Project, instance: dg.DagsterInstance, source_server: SourceServer
) -> None:
    for path in ("/trip-data/yellow_tripdata_2023-01.parquet", "/taxi_zones.csv"):
        source_server.answers[path] = [cut_off(b"PAR1", after=0, reset=True)]
    for asset, month in ((trips.taxi_trips_file, "2023-01"), (trips.taxi_zones_file, None)):
        result = materialize(project, instance, [asset], month)
        (reason,) = step_log(instance, result.run_id, asset.op.name)
        assert "Check that the address can be reached" in reason
        assert reason.endswith("Without a network, `make lesson` shows this project with generated months.")
