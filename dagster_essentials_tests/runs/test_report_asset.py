"""The asset `report`: registered when a setting names it, and written whole or not at all."""

from dataclasses import replace

import dagster as dg
import pytest

from dagster_essentials import definitions, settings
from dagster_essentials.assets.report import report
from dagster_essentials.reports.report import render_report
from dagster_essentials_tests.support.loaded_trips import daily, load_trips, load_zones, materialized_metadata
from dagster_essentials_tests.support.project import Project, failure_text, materialize

pytestmark = pytest.mark.slow


@pytest.mark.filterwarnings("ignore")
def test_asset_job_and_schedule_are_registered_when_they_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"report_job", "report_job_schedule"}

    def registered(defs: dg.Definitions) -> set[str]:
        found = {job.name for job in defs.resolve_all_job_defs()} | {each.name for each in defs.schedules or ()}
        return found | {key.to_user_string() for key in defs.resolve_asset_graph().get_all_asset_keys()}

    assert registered(definitions.defs).isdisjoint({"report", *names})
    monkeypatch.setattr(settings, "SETTINGS", replace(settings.SETTINGS, reports=("report",)))
    assert registered(definitions.build_definitions()) == registered(definitions.defs) | {"report", *names}


def test_the_page_is_written_and_its_own_page_has_a_link(project: Project, instance: dg.DagsterInstance) -> None:
    load_zones(project)
    load_trips(project, "2023-01", daily("2023-01-01", "2023-01-31"))
    result = materialize(project, instance, [report])
    assert result.success, failure_text(result)
    path = project.folder / "outputs" / "report.html"
    with project.connect() as tables:
        assert path.read_text() == render_report(tables)
    (found,) = materialized_metadata(result, report)
    assert found == {"page": path.as_uri(), "path": str(path), "bytes": path.stat().st_size}
    assert project.temporary_files() == []


def test_without_a_month_an_earlier_page_is_kept(project: Project, instance: dg.DagsterInstance) -> None:
    path = project.folder / "outputs" / "report.html"
    path.parent.mkdir()
    path.write_text("earlier")
    assert "No month is loaded. Materialize taxi_trips first." in failure_text(materialize(project, instance, [report]))
    assert path.read_text() == "earlier"
