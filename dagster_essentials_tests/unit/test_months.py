"""Months as text, compared with the calendar of the standard library over many years."""

from datetime import date, timedelta

from dagster_essentials.ingestion.months import first_day, month_number, months_between, next_month


def test_months_are_those_of_the_calendar() -> None:
    days = [date(1999, 12, 31) + timedelta(days=number) for number in range(366 * 30)]
    months = list(dict.fromkeys(day.isoformat()[:7] for day in days))

    assert months_between(months[0], months[-1]) == months
    assert [next_month(month) for month in months[:-1]] == months[1:]
    assert [first_day(month) for month in months[1:]] == [day for day in days if day.day == 1]
    numbers = [month_number(month) for month in months]
    assert numbers == list(range(numbers[0], numbers[0] + len(months)))
    assert {month[5:] for month in months if month_number(month) % 12 == 1} == {"01"}


def test_months_are_none_if_the_last_lies_before_the_first() -> None:
    assert months_between("2023-02", "2023-01") == []
    assert months_between("2023-02", "2023-02") == ["2023-02"]
