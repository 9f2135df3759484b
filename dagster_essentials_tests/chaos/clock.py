"""Faults of the clock: it jumps, local time changes at night, ticks are evaluated again, or not at all for months.

What the schedules must request is computed here independently, from the calendar, the source and the table alone.
"""

import os
import select
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import dagster as dg

from dagster_essentials_tests.chaos.oracle import DATA_VERSION_TAG, TABLE_ASSET
from dagster_essentials_tests.chaos.sandbox import COMMAND_SECONDS, MONTHS, Sandbox
from dagster_essentials_tests.chaos.scheduler import CRASH_POINTS, SCHEDULES

FIRST, END = "2023-07", "2024-01"
"""Half a year: with a whole one, the runs of 53 weeks would take half of the time."""
LOADABLE = [month for month in MONTHS if FIRST <= month < END]
LAG_MONTHS = 2
WEEKS_BEHIND = 13
"""From the end of a week until it is a partition: on whatever day, its months ended `LAG_MONTHS` ago."""
MONTHLY, WEEKLY = SCHEDULES
SCHEDULE_TAG, PARTITION_TAG, KEY_TAG = "dagster/schedule_name", "dagster/partition", "dagster/run_key"
BERLIN, NEW_YORK = "Europe/Berlin", "America/New_York"
TIME_ZONES = ("UTC", NEW_YORK, BERLIN)
"""Local times of the machine. The schedules are in that of New York, whatever it is."""


def utc(year: int, month: int, day: int, hour: int = 0) -> datetime:
    return datetime(year, month, day, hour, tzinfo=UTC)


def midnight(year: int, month: int, day: int) -> datetime:
    """When that day begins in New York, in UTC, in which times can be added across changes of the clock."""
    return datetime(year, month, day, tzinfo=ZoneInfo(NEW_YORK)).astimezone(UTC)


CLOCK_CHANGES = {
    "summer time ends in Berlin": (BERLIN, utc(2023, 10, 29, 1)),
    "summer time ends in New York": (NEW_YORK, utc(2023, 11, 5, 6)),
    "summer time begins in New York": (NEW_YORK, utc(2024, 3, 10, 7)),
    "summer time begins in Berlin": (BERLIN, utc(2024, 3, 31, 1)),
}
"""The changes of local time, in UTC."""


# What is due


def newest_tick(schedule: str, now: datetime) -> datetime:
    """The start, in New York, of the last 5th or Monday before `now`."""
    day = now.astimezone(ZoneInfo(NEW_YORK)).date()
    while day.day != 5 if schedule == MONTHLY else day.weekday() != 0:
        day -= timedelta(days=1)
    return midnight(day.year, day.month, day.day)


def loadable_from(month: str) -> datetime:
    """The time from which the source is expected to have `month` (``YYYY-MM``): some months after its end."""
    number = int(month[:4]) * 12 + int(month[5:]) + LAG_MONTHS
    return utc(number // 12, number % 12 + 1, 1)


def _weeks() -> dict[str, set[str]]:
    """The loadable months of each week, by its Sunday."""
    sunday = date.fromisoformat(f"{FIRST}-01") - timedelta(days=6)
    sunday += timedelta(days=6 - sunday.weekday())
    weeks = {}
    while sunday.isoformat() < f"{END}-01":
        days = [sunday + timedelta(days=number) for number in range(7)]
        weeks[sunday.isoformat()] = {day.isoformat()[:7] for day in days} & set(LOADABLE)
        sunday += timedelta(days=7)
    return weeks


WEEKS = _weeks()


@dataclass(frozen=True)
class Due:
    """The partitions that must be requested, and those that may be."""

    required: set[str] = field(default_factory=set)
    allowed: set[str] = field(default_factory=set)

    def until(self, later: "Due") -> "Due":
        """The union of what is due now and at any time until `later`."""
        return Due(self.required, self.allowed | later.allowed)


# The schedules under test


class SchedulerProcess:
    """A process of `chaos.scheduler` in a sandbox, in the local time of `time_zone`."""

    def __init__(self, sandbox: Sandbox, time_zone: str):
        with open(sandbox.root / "commands.log", "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "dagster_essentials_tests.chaos.scheduler"],
                cwd=sandbox.root,
                env={**sandbox.env, "DAGSTER_HOME": str(sandbox.oracle.home), "TZ": time_zone},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                bufsize=1,
                start_new_session=True,
            )
        assert self.wait_for_answer(), "the scheduler did not start"

    def send(self, command: str, *arguments: str | datetime) -> None:
        assert self._process.stdin is not None
        words = [argument if isinstance(argument, str) else argument.isoformat() for argument in arguments]
        self._process.stdin.write(f"{' '.join([command, *words])}\n")

    def wait_for_answer(self, seconds: float = COMMAND_SECONDS) -> bool:
        """Wait until it has executed the command; false if it crashed."""
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], seconds)
        if not readable:
            raise TimeoutError(f"the scheduler has not answered for {seconds:.0f} s")
        return self._process.stdout.readline() == "done\n"

    def execute(self, command: str, *arguments: str | datetime, seconds: float = COMMAND_SECONDS) -> None:
        self.send(command, *arguments)
        assert self.wait_for_answer(seconds), f"the scheduler crashed on {command} {arguments}"

    def kill(self) -> None:
        """End it, with its code server."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()


class Timeline:
    """A sandbox whose schedules are turned on, a clock, and what the schedules have requested so far.

    Attributes:
        now: the time of the clock.
        time_zone: the local time of the machine.
    """

    def __init__(self, sandbox: Sandbox, now: datetime):
        self.sandbox, self.now, self.time_zone = sandbox, now, sandbox.random.choice(TIME_ZONES)
        self._schedulers = [SchedulerProcess(sandbox, self.time_zone)]
        self._last_tick = dict.fromkeys(SCHEDULES, now)
        self._seen: set[str] = set()
        self._waiting: set[str] = set()
        # For each week, how often each of its months had been loaded when it was aggregated.
        self._aggregated: dict[str, dict[str, int]] = {}
        self.scheduler.execute("start", now)

    @property
    def scheduler(self) -> SchedulerProcess:
        return self._schedulers[0]

    def close(self) -> None:
        for scheduler in self._schedulers:
            scheduler.kill()
        self._schedulers.clear()

    def restart(self, time_zone: str | None = None) -> None:
        """Restart the machine, perhaps in another time zone."""
        self.close()
        self.time_zone = time_zone or self.sandbox.random.choice(TIME_ZONES)
        self._schedulers = [SchedulerProcess(self.sandbox, self.time_zone)]

    def wipe(self) -> None:
        """Wipe the schedules, and turn them on again."""
        self.scheduler.execute("wipe", self.now)
        self._last_tick = dict.fromkeys(SCHEDULES, self.now)

    def tick(self, label: str, now: datetime) -> None:
        """Set the clock to `now`, evaluate the ticks that are due, and compare the requested runs."""
        self.now = now
        due = self._due()
        self.scheduler.execute("evaluate", now)
        self._compare(label, due)

    def tick_twice(self, label: str, now: datetime) -> None:
        """As `tick`, with a second scheduler at the same moment."""
        self.now = now
        due = self._due()
        other = SchedulerProcess(self.sandbox, self.sandbox.random.choice(TIME_ZONES))
        self._schedulers.append(other)
        for scheduler in self._schedulers:
            scheduler.send("evaluate", now)
        for scheduler in self._schedulers:
            assert scheduler.wait_for_answer(), "one of two schedulers crashed"
        self._schedulers.remove(other)
        other.kill()
        # Dagster looks for a run of the same tick and key before it creates one, and both may have looked first.
        self._compare(label, due, at_most=2)

    def tick_and_crash(self, label: str, now: datetime) -> None:
        """As `tick`, with a scheduler that crashes on the way, and one that continues, perhaps after some runs."""
        self.now = now
        due = self._due()
        point = self.sandbox.random.choice(CRASH_POINTS)
        self.scheduler.send("evaluate", now, point)
        crashed = not self.scheduler.wait_for_answer()
        self.restart()
        if self.sandbox.random.random() < 0.5:
            self._requested_runs()
            self.launch_queued(label)
        later = self._due()
        self.scheduler.execute("evaluate", now + timedelta(minutes=self.sandbox.random.randint(1, 600)))
        merged = {schedule: due[schedule].until(later[schedule]) for schedule in SCHEDULES}
        self._compare(f"{label}, {point}" if crashed else label, merged)

    def _due(self) -> dict[str, Due]:
        """The requests that each schedule must make now: none, unless there has been a tick since the last one."""
        loaded = self.sandbox.oracle.table.keys()
        months = {
            month
            for month in LOADABLE
            if loadable_from(month) <= newest_tick(MONTHLY, self.now)
            and f"/trip-data/yellow_tripdata_{month}.parquet" in self.sandbox.source.files
            and month not in loaded
        }
        loads = self._count_loads()
        weeks = {
            week
            for week, parts in WEEKS.items()
            if parts <= loaded and self._aggregated.get(week) != {month: loads[month] for month in parts}
        }
        monday = newest_tick(WEEKLY, self.now).astimezone(ZoneInfo(NEW_YORK)).date()
        settled = {week for week in weeks if date.fromisoformat(week) + timedelta(weeks=1 + WEEKS_BEHIND) <= monday}
        keys = {f"{month}-01" for month in months}
        due = {MONTHLY: Due(keys, keys), WEEKLY: Due(settled, weeks)}
        return {
            schedule: due[schedule] if newest_tick(schedule, self.now) > self._last_tick[schedule] else Due()
            for schedule in SCHEDULES
        }

    def _count_loads(self) -> Counter[str]:
        """The number of versions of each month that were loaded. To load the last one again changes nothing."""
        with self.sandbox.instance() as instance:
            records = instance.fetch_materializations(TABLE_ASSET, limit=1000).records
        loads = [record.asset_materialization for record in records if record.asset_materialization is not None]
        versions = {(str(load.partition), (load.tags or {})[DATA_VERSION_TAG]) for load in loads}
        return Counter(partition[:7] for partition, _ in versions)

    def _requested_runs(self) -> list[dg.DagsterRun]:
        """The runs that were requested since the last comparison."""
        requested = [run for run in self.sandbox.runs() if run.run_id not in self._seen and SCHEDULE_TAG in run.tags]
        self._waiting.update(run.run_id for run in requested)
        return requested

    def _compare(self, label: str, due: dict[str, Due], at_most: int = 1) -> None:
        requested = self._requested_runs()
        self._seen.update(run.run_id for run in requested)
        self.sandbox.report.faults[label] += 1
        self.sandbox.report.runs += len(requested)
        for schedule in SCHEDULES:
            runs = [run for run in requested if run.tags[SCHEDULE_TAG] == schedule]
            counts = Counter(run.tags[PARTITION_TAG] for run in runs)
            violations = [
                f"{run.tags[PARTITION_TAG]} has the run key {run.tags[KEY_TAG]}"
                for run in runs
                if run.tags[KEY_TAG] != run.tags[PARTITION_TAG]
            ]
            if not due[schedule].required <= counts.keys() <= due[schedule].allowed:
                violations.append(f"requested {_names(counts)}, but due is {_names(due[schedule].required)}")
            violations += [f"requested {key} {count} times" for key, count in counts.items() if count > at_most]
            where = f"{label}, {schedule} at {self.now} in {self.time_zone}"
            self.sandbox.add_violations(where, violations)
            self._last_tick[schedule] = max(self._last_tick[schedule], newest_tick(schedule, self.now))

    def launch_queued(self, label: str) -> None:
        """Execute the queued runs, and check the table."""
        loads = self._count_loads()
        # Time for each run: there have been 44 in the queue, which took 8 s each on two busy cores.
        self.scheduler.execute("launch", seconds=COMMAND_SECONDS * (1 + len(self._waiting)))
        months = set()
        for run in self.sandbox.runs():
            if run.run_id in self._waiting and run.status != dg.DagsterRunStatus.NOT_STARTED:
                self._waiting.discard(run.run_id)
                key = run.tags[PARTITION_TAG]
                if run.status != dg.DagsterRunStatus.SUCCESS:
                    self.sandbox.report.failed += 1
                    self.sandbox.add_violations(label, [f"the run of {key} is {run.status.value}"])
                elif run.tags[SCHEDULE_TAG] == WEEKLY:
                    self._aggregated[key] = {month: loads[month] for month in WEEKS[key]}
                else:
                    months.add(key[:7])
        self.sandbox.check(label, sorted(months), succeeded=True)

    def check_all_requested(self, label: str) -> None:
        """Every month and every week must have been requested by now."""
        missing = [*(set(LOADABLE) - self.sandbox.oracle.table.keys()), *(WEEKS.keys() - self._aggregated.keys())]
        self.sandbox.add_violations(label, [f"{key} was never requested" for key in sorted(missing)])

    def load_by_hand(self, month: str) -> None:
        """Load a new version of `month` from a shell."""
        self.sandbox.publish(month)
        if not self.sandbox.materialize([month]):
            self.sandbox.report.violations.append(f"{month}: could not be loaded by hand")
        self.sandbox.check(f"{month} by hand", [month], succeeded=True)


def _names(keys: Iterable[str]) -> str:
    return ", ".join(sorted(keys)) or "nothing"


def schedules(sandbox: Sandbox) -> None:
    """From October to June: ordinary ticks, and everything that a clock and a scheduler can do to them."""
    random = sandbox.random
    sandbox.env["TAXI_START_DATE"] = f"{FIRST}-01"
    # Two months are published late: not the first, with which the schedule begins.
    late = random.sample(LOADABLE[1:], 2)
    for month in late:
        del sandbox.source.files[f"/trip-data/yellow_tripdata_{month}.parquet"]

    def within(**at_most: float) -> timedelta:
        return timedelta(seconds=random.uniform(1, timedelta(**at_most).total_seconds()))

    timeline = Timeline(sandbox, midnight(2023, 10, 2) + within(days=2))
    try:
        timeline.tick("before the first tick", timeline.now + within(hours=6))
        timeline.tick("a tick", midnight(2023, 10, 5) + within(hours=1))
        if random.random() < 0.5:
            # Otherwise the next ticks find runs that wait.
            timeline.launch_queued("a tick")
        timeline.tick("the same moment again", timeline.now)
        timeline.tick("the clock goes back by hours", midnight(2023, 10, 5) - within(hours=20))
        timeline.tick("the clock is correct again", midnight(2023, 10, 5) + within(hours=12))
        timeline.launch_queued("a tick")
        _change_clocks(timeline, "summer time ends in Berlin")
        timeline.launch_queued("summer time ends in Berlin")
        timeline.tick_and_crash("crash within a tick on a Monday", midnight(2023, 10, 30) + within(days=2))
        timeline.tick("the clock jumps by days", timeline.now + within(days=3))
        _change_clocks(timeline, "summer time ends in New York")
        timeline.launch_queued("summer time ends in New York")
        timeline.tick("the clock goes back by days", timeline.now - within(days=25))
        timeline.wipe()
        timeline.tick("schedules wiped in the past", timeline.now + within(hours=20))
        timeline.tick("earlier ticks on wiped schedules", midnight(2023, 11, 6) + within(days=3))
        timeline.launch_queued("wiped schedules")

        timeline.restart()
        timeline.tick("four months without a scheduler", midnight(2024, 3, 1) + within(days=9))
        timeline.launch_queued("four months without a scheduler")
        _change_clocks(timeline, "summer time begins in New York")
        for month in late:
            sandbox.publish(month)
        timeline.load_by_hand(random.choice(sorted(sandbox.oracle.table)))
        _change_clocks(timeline, "summer time begins in Berlin")
        timeline.tick_twice("two schedulers on a Monday", midnight(2024, 4, 1) + within(days=3))
        timeline.launch_queued("two schedulers")
        timeline.tick_twice("two schedulers on the 5th", midnight(2024, 4, 5) + within(days=2))
        timeline.launch_queued("two schedulers")
        timeline.tick_and_crash("crash within a tick", midnight(2024, 5, 5) + within(hours=12))
        timeline.launch_queued("crash within a tick")
        for label in ("everything is loaded", "everything is aggregated"):
            timeline.tick(label, timeline.now + timedelta(days=31))
            timeline.launch_queued(label)
        timeline.check_all_requested("after clock faults")
    finally:
        timeline.close()
    sandbox.repair_and_check("after clock faults", LOADABLE)


def _change_clocks(timeline: Timeline, label: str) -> None:
    """Evaluate the ticks before and after local time changes, at times that may have the same local name."""
    time_zone, change = CLOCK_CHANGES[label]
    timeline.restart(time_zone)
    for minutes in (-30, 30):
        timeline.tick(label, change + timedelta(minutes=minutes))
