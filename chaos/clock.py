"""Blows by the clock: it jumps, local time changes in the night, ticks are evaluated again, or for months not at all.

What the schedules have to ask for is said here once more, from the calendar, the source and the table alone.
"""

import os
import select
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone

import dagster as dg

from chaos.scheduler import CRASH_POINTS, SCHEDULES
from chaos.stage import COMMAND_SECONDS, MONTHS, Stage

FIRST, END = "2023-07", "2024-01"
"""Half a year: with all of it, half of the time would go by with the runs of 53 weeks."""
LOADABLE = [month for month in MONTHS if FIRST <= month < END]
LAG_MONTHS = 2
MONTHLY, WEEKLY = SCHEDULES
SCHEDULE_TAG, PARTITION_TAG, KEY_TAG = "dagster/schedule_name", "dagster/partition", "dagster/run_key"
BERLIN, NEW_YORK = "Europe/Berlin", "America/New_York"
ZONES = ("UTC", NEW_YORK, BERLIN)


def utc(year: int, month: int, day: int, hour: int = 0) -> datetime:
    return datetime(year, month, day, hour, tzinfo=timezone.utc)


NIGHTS = {
    "summer ends in Berlin": (BERLIN, utc(2023, 10, 29, 1)),
    "summer ends in New York": (NEW_YORK, utc(2023, 11, 5, 6)),
    "summer begins in New York": (NEW_YORK, utc(2024, 3, 10, 7)),
    "summer begins in Berlin": (BERLIN, utc(2024, 3, 31, 1)),
}
"""When local time leaps, in UTC."""


# What is true


def newest_tick(schedule: str, now: datetime) -> datetime:
    """The 5th or the Monday, at midnight in UTC, that came last before `now`."""
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    while midnight.day != 5 if schedule == MONTHLY else midnight.weekday() != 0:
        midnight -= timedelta(days=1)
    return midnight


def loadable_from(month: str) -> datetime:
    """When the source is expected to have `month` (``YYYY-MM``): some months after its end."""
    number = int(month[:4]) * 12 + int(month[5:]) + LAG_MONTHS
    return utc(number // 12, number % 12 + 1, 1)


def _weeks() -> dict[str, set[str]]:
    """The months, of those that can be loaded, of each week, by its Sunday."""
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
    """The partitions that have to be asked for, and those that may be."""

    required: set[str] = field(default_factory=set)
    allowed: set[str] = field(default_factory=set)

    def meanwhile(self, later: "Due") -> "Due":
        """What is due to who looked at some time between this one and `later`."""
        return Due(self.required, self.allowed | later.allowed)


# What is done


class Daemon:
    """A process of `chaos.scheduler` on a stage, where local time is that of `zone`."""

    def __init__(self, stage: Stage, zone: str):
        with open(stage.root / "commands.log", "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "chaos.scheduler"],
                cwd=stage.root,
                env={**stage.env, "DAGSTER_HOME": str(stage.oracle.home), "TZ": zone},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                bufsize=1,
                start_new_session=True,
            )
        assert self.answered(), "the scheduler did not start"

    def tell(self, command: str, *rest: str | datetime) -> None:
        assert self._process.stdin is not None
        words = [word if isinstance(word, str) else word.isoformat() for word in rest]
        self._process.stdin.write(f"{' '.join([command, *words])}\n")

    def answered(self, seconds: float = COMMAND_SECONDS) -> bool:
        """Wait until it has done what it was told; false if it died of it."""
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], seconds)
        if not readable:
            raise TimeoutError(f"the scheduler has not answered for {seconds:.0f} s")
        return self._process.stdout.readline() == "done\n"

    def do(self, command: str, *rest: str | datetime, seconds: float = COMMAND_SECONDS) -> None:
        self.tell(command, *rest)
        assert self.answered(seconds), f"the scheduler died of {command} {rest}"

    def kill(self) -> None:
        """End it, with its code server."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()


class Play:
    """A stage whose schedules are turned on, and what they have asked for so far.

    Attributes:
        now: what the clock says.
        zone: the local time of the machine.
    """

    def __init__(self, stage: Stage, now: datetime):
        self.stage, self.now, self.zone = stage, now, stage.random.choice(ZONES)
        self._daemons = [Daemon(stage, self.zone)]
        self._ticked = dict.fromkeys(SCHEDULES, now)
        self._seen: set[str] = set()
        self._waiting: set[str] = set()
        # For each week, how often each of its months had been loaded when it was added up.
        self._added_up: dict[str, dict[str, int]] = {}
        self.daemon.do("start", now)

    @property
    def daemon(self) -> Daemon:
        return self._daemons[0]

    def close(self) -> None:
        for daemon in self._daemons:
            daemon.kill()
        self._daemons.clear()

    def restart(self, zone: str | None = None) -> None:
        """Let the machine start anew, perhaps in another place."""
        self.close()
        self.zone = zone or self.stage.random.choice(ZONES)
        self._daemons = [Daemon(self.stage, self.zone)]

    def wipe(self) -> None:
        """Forget the schedules, and turn them on again."""
        self.daemon.do("wipe", self.now)
        self._ticked = dict.fromkeys(SCHEDULES, self.now)

    def look_at_clock(self, blow: str, now: datetime) -> None:
        """Let the clock say `now`, the ticks be evaluated that have come, and compare what is asked for."""
        self.now = now
        due = self._due()
        self.daemon.do("evaluate", now)
        self._compare(blow, due)

    def look_twice_at_once(self, blow: str, now: datetime) -> None:
        """As `look_at_clock`, with another daemon that does so in the same moment."""
        self.now = now
        due = self._due()
        other = Daemon(self.stage, self.stage.random.choice(ZONES))
        self._daemons.append(other)
        for daemon in self._daemons:
            daemon.tell("evaluate", now)
        for daemon in self._daemons:
            assert daemon.answered(), "a scheduler died beside another one"
        self._daemons.remove(other)
        other.kill()
        # Dagster looks for a run of the same tick and key before it makes one, and both may have looked.
        self._compare(blow, due, most=2)

    def look_and_die(self, blow: str, now: datetime) -> None:
        """As `look_at_clock`, with a daemon that dies on the way, and a next one that goes on, perhaps after runs."""
        self.now = now
        due = self._due()
        point = self.stage.random.choice(CRASH_POINTS)
        self.daemon.tell("evaluate", now, point)
        died = not self.daemon.answered()
        self.restart()
        if self.stage.random.random() < 0.5:
            self._see_runs()
            self.work(blow)
        later = self._due()
        self.daemon.do("evaluate", now + timedelta(minutes=self.stage.random.randint(1, 600)))
        merged = {schedule: due[schedule].meanwhile(later[schedule]) for schedule in SCHEDULES}
        self._compare(f"{blow}, {point}" if died else blow, merged)

    def _due(self) -> dict[str, Due]:
        """What each schedule has to ask for now: nothing, unless a tick has come since the last one."""
        loaded = self.stage.oracle.table.keys()
        months = {
            month
            for month in LOADABLE
            if loadable_from(month) <= newest_tick(MONTHLY, self.now)
            and f"/trip-data/yellow_tripdata_{month}.parquet" in self.stage.source.files
            and month not in loaded
        }
        loads = self._loads()
        weeks = {
            week
            for week, parts in WEEKS.items()
            if parts <= loaded and self._added_up.get(week) != {month: loads[month] for month in parts}
        }
        settled = {
            week
            for week in weeks
            if all(loadable_from(month) <= newest_tick(WEEKLY, self.now) for month in WEEKS[week])
        }
        keys = {f"{month}-01" for month in months}
        due = {MONTHLY: Due(keys, keys), WEEKLY: Due(settled, weeks)}
        return {
            schedule: due[schedule] if newest_tick(schedule, self.now) > self._ticked[schedule] else Due()
            for schedule in SCHEDULES
        }

    def _loads(self) -> Counter[str]:
        return Counter(key[:7] for key in self.stage.materialized("taxi_trips"))

    def _see_runs(self) -> list[dg.DagsterRun]:
        """The runs that were asked for since the last comparison."""
        asked = [run for run in self.stage.runs() if run.run_id not in self._seen and SCHEDULE_TAG in run.tags]
        self._waiting.update(run.run_id for run in asked)
        return asked

    def _compare(self, blow: str, due: dict[str, Due], most: int = 1) -> None:
        asked = self._see_runs()
        self._seen.update(run.run_id for run in asked)
        self.stage.report.blows[blow] += 1
        self.stage.report.runs += len(asked)
        for schedule in SCHEDULES:
            runs = [run for run in asked if run.tags[SCHEDULE_TAG] == schedule]
            counts = Counter(run.tags[PARTITION_TAG] for run in runs)
            wrong = [
                f"{run.tags[PARTITION_TAG]} has the key {run.tags[KEY_TAG]}"
                for run in runs
                if run.tags[KEY_TAG] != run.tags[PARTITION_TAG]
            ]
            if not due[schedule].required <= counts.keys() <= due[schedule].allowed:
                wrong.append(f"asked for {_names(counts)}, and due is {_names(due[schedule].required)}")
            wrong += [f"asked for {key} {count} times" for key, count in counts.items() if count > most]
            where = f"{blow}, {schedule} at {self.now} in {self.zone}"
            self.stage.note_wrong(where, wrong)
            self._ticked[schedule] = max(self._ticked[schedule], newest_tick(schedule, self.now))

    def work(self, blow: str) -> None:
        """Let the queued runs be executed, and look at the table."""
        loads = self._loads()
        # Each run is waited for: 44 have stood in line here, for 8 s each on two busy cores.
        self.daemon.do("work", seconds=COMMAND_SECONDS * (1 + len(self._waiting)))
        months = set()
        for run in self.stage.runs():
            if run.run_id in self._waiting and run.status != dg.DagsterRunStatus.NOT_STARTED:
                self._waiting.discard(run.run_id)
                key = run.tags[PARTITION_TAG]
                if run.status != dg.DagsterRunStatus.SUCCESS:
                    self.stage.report.failed += 1
                    self.stage.note_wrong(blow, [f"the run of {key} is {run.status.value}"])
                elif run.tags[SCHEDULE_TAG] == WEEKLY:
                    self._added_up[key] = {month: loads[month] for month in WEEKS[key]}
                else:
                    months.add(key[:7])
        self.stage.look(blow, sorted(months), succeeded=True)

    def note_missing(self, blow: str) -> None:
        """Note what has come to be due in vain."""
        missing = [*(set(LOADABLE) - self.stage.oracle.table.keys()), *(WEEKS.keys() - self._added_up.keys())]
        self.stage.note_wrong(blow, [f"{key} was never asked for" for key in sorted(missing)])

    def load_by_hand(self, month: str) -> None:
        """A new version of `month`, loaded from a shell."""
        self.stage.publish(month)
        if not self.stage.materialize([month]):
            self.stage.report.wrong.append(f"{month}: could not be loaded by hand")
        self.stage.look(f"{month} by hand", [month], succeeded=True)


def _names(keys: Iterable[str]) -> str:
    return ", ".join(sorted(keys)) or "nothing"


def schedules(stage: Stage) -> None:
    """From October to June: ordinary ticks, and everything that a clock and a scheduler can do to them."""
    random = stage.random
    stage.env["TAXI_START_DATE"] = f"{FIRST}-01"
    # Months that come late: all but the first, with which the schedule begins.
    late = random.sample(LOADABLE[1:], 2)
    for month in late:
        del stage.source.files[f"/trip-data/yellow_tripdata_{month}.parquet"]

    def within(**most: float) -> timedelta:
        return timedelta(seconds=random.uniform(1, timedelta(**most).total_seconds()))

    play = Play(stage, utc(2023, 10, 2) + within(days=2))
    try:
        play.look_at_clock("before the first tick", play.now + within(hours=6))
        play.look_at_clock("a tick", utc(2023, 10, 5) + within(hours=1))
        if random.random() < 0.5:
            # Else the next ones find runs that wait.
            play.work("a tick")
        play.look_at_clock("the same moment again", play.now)
        play.look_at_clock("the clock goes back by hours", utc(2023, 10, 5) - within(hours=20))
        play.look_at_clock("the clock is right again", utc(2023, 10, 5) + within(hours=12))
        play.work("a tick")
        _night(play, "summer ends in Berlin")
        play.work("summer ends in Berlin")
        play.look_and_die("killed within a tick on a Monday", utc(2023, 10, 30) + within(days=2))
        play.look_at_clock("the clock jumps by days", play.now + within(days=3))
        _night(play, "summer ends in New York")
        play.work("summer ends in New York")
        play.look_at_clock("the clock goes back by days", play.now - within(days=25))
        play.wipe()
        play.look_at_clock("schedules wiped in the past", play.now + within(hours=20))
        play.look_at_clock("ticks that came before, on wiped schedules", utc(2023, 11, 6) + within(days=3))
        play.work("wiped schedules")

        play.restart()
        play.look_at_clock("four months down", utc(2024, 3, 1) + within(days=9))
        play.work("four months down")
        _night(play, "summer begins in New York")
        for month in late:
            stage.publish(month)
        play.load_by_hand(random.choice(sorted(stage.oracle.table)))
        _night(play, "summer begins in Berlin")
        play.look_twice_at_once("two schedulers on a Monday", utc(2024, 4, 1) + within(days=3))
        play.work("two schedulers")
        play.look_twice_at_once("two schedulers on the 5th", utc(2024, 4, 5) + within(days=2))
        play.work("two schedulers")
        play.look_and_die("killed within a tick", utc(2024, 5, 5) + within(hours=12))
        play.work("killed within a tick")
        for blow in ("all is loaded", "all is added up"):
            play.look_at_clock(blow, play.now + timedelta(days=31))
            play.work(blow)
        play.note_missing("after schedules")
    finally:
        play.close()
    stage.mend("after schedules", LOADABLE)


def _night(play: Play, blow: str) -> None:
    """Look at the clock before local time leaps and after, at hours that may bear the same name."""
    zone, leap = NIGHTS[blow]
    play.restart(zone)
    for minutes in (-30, 30):
        play.look_at_clock(blow, leap + timedelta(minutes=minutes))
