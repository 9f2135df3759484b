"""A database that is held for one month after the other: until its time is up, an error, or the end of the months."""

from contextlib import suppress
from math import inf
from pathlib import Path

import pytest

from dagster_essentials.errors import DatabaseBusyError, LoadError
from dagster_essentials.orchestration import database
from dagster_essentials.orchestration.database import HeldTables
from dagster_essentials.resources import LockedDuckDBResource
from dagster_essentials.warehouse.tables import Tables


@pytest.fixture
def resource(tmp_path: Path) -> LockedDuckDBResource:
    return LockedDuckDBResource(database=str(tmp_path / "data.duckdb"), wait_seconds=0)


def is_free(resource: LockedDuckDBResource) -> bool:
    try:
        with resource.tables():
            return True
    except DatabaseBusyError:
        return False


def used(held: HeldTables, resource: LockedDuckDBResource) -> Tables:
    with held.open(resource) as tables:
        assert not is_free(resource)
        assert tables.execute("SELECT 1").fetchall() == [(1,)]
        return tables


def test_they_are_the_same_until_they_are_closed(
    resource: LockedDuckDBResource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "HOLD_SECONDS", inf)
    held = HeldTables()

    first = used(held, resource)
    assert not is_free(resource), "held between two months"
    assert used(held, resource) is first
    held.close()
    assert is_free(resource)
    assert used(held, resource) is not first, "they can be opened again"
    held.close()
    held.close()


def test_when_their_time_is_up_others_can_have_them(
    resource: LockedDuckDBResource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "HOLD_SECONDS", 0)
    held = HeldTables()

    first = used(held, resource)
    assert is_free(resource)
    assert used(held, resource) is not first


def test_after_a_load_others_can_have_them(resource: LockedDuckDBResource, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "HOLD_SECONDS", 1e9)
    held = HeldTables()

    with held.open(resource):
        held.expire()
        assert not is_free(resource), "not before its end"
    assert is_free(resource)
    used(held, resource)
    assert not is_free(resource), "the next ones are held again"
    held.close()


@pytest.mark.parametrize("error", [LoadError("it is damaged"), KeyboardInterrupt()], ids=["error", "cancelled"])
def test_after_an_error_they_are_free_and_can_be_opened_again(
    error: BaseException, resource: LockedDuckDBResource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "HOLD_SECONDS", inf)
    held = HeldTables()

    with pytest.raises(type(error)), held.open(resource):
        raise error
    assert is_free(resource)
    used(held, resource)
    held.close()


def test_tables_that_others_can_use_are_not_held(
    resource: LockedDuckDBResource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "HOLD_SECONDS", inf)
    monkeypatch.setattr(Tables, "is_held_alone", False)
    held = HeldTables()

    used(held, resource)
    assert is_free(resource)


def test_what_was_rolled_back_is_prepared_again(resource: LockedDuckDBResource) -> None:
    def create(tables: Tables) -> None:
        tables.execute("CREATE TABLE trips (vendor_id INTEGER)")

    with resource.tables() as tables:
        with suppress(LoadError), tables.transaction():
            tables.once("trips", create)
            raise LoadError("it is damaged")
        with tables.transaction():
            tables.once("trips", create)
        tables.once("trips", create)
        assert tables.execute("SELECT count(*) FROM trips").fetchall() == [(0,)]


def test_what_could_not_be_prepared_is_tried_again(resource: LockedDuckDBResource) -> None:
    errors = [LoadError("it is damaged")]

    def fail_once(tables: Tables) -> None:
        if errors:
            raise errors.pop()

    with resource.tables() as tables:
        with pytest.raises(LoadError):
            tables.once("trips", fail_once)
        assert "trips" not in tables.prepared
        tables.once("trips", fail_once)
        assert "trips" in tables.prepared
