"""Months as text, ``YYYY-MM``: their numbers, their order and their days."""

from datetime import date


def month_number(month: str) -> int:
    """A number of its own for each month, the next one for the next month. Each January has a multiple of 12, plus one."""
    return int(month[:4]) * 12 + int(month[5:7])


def months_between(first: str, last: str) -> list[str]:
    """The months from `first` to `last`, both included."""
    return [_month(number) for number in range(month_number(first), month_number(last) + 1)]


def next_month(month: str) -> str:
    return _month(month_number(month) + 1)


def first_day(month: str) -> date:
    return date.fromisoformat(f"{month}-01")


def _month(number: int) -> str:
    return f"{(number - 1) // 12:04}-{(number - 1) % 12 + 1:02}"
