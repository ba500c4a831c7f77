"""docs/reliability.md names tests that there are, and all of those that bring a fault about."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "reliability.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if line.startswith("| ") and not line.startswith("| ---")
]
FAULTS = [
    "tests/functional/test_fault.py",
    "tests/functional/test_power_off.py",
    "tests/functional/test_watchdog.py",
    "tests/unit/across/test_hostile_guest.py",
    "tests/unit/host/test_signals.py",
]
WELL = {"test_a_guest_that_ends_in_time"}
"""No fault at all."""


def names_in(file: str) -> set[str]:
    return set(re.findall(r"^def (test_\w+)\(", (ROOT / file).read_text(), re.MULTILINE))


def named(text: str) -> set[tuple[str, str]]:
    return set(re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text))


def test_the_tests_are_there() -> None:
    assert named(PAGE)
    for file, name in named(PAGE):
        assert (ROOT / file).exists(), file
        assert not name or name in names_in(file), f"{file}::{name}"


def test_each_row_has_a_promise_and_a_test() -> None:
    for row in ROWS:
        assert len(row) == 3 and all(row), row
        assert row[0] == "fault" or named(row[2]), row


@pytest.mark.parametrize("file", FAULTS)
def test_each_test_of_a_fault_has_a_row(file: str) -> None:
    assert {name for other, name in named(PAGE) if other == file} == names_in(file) - WELL
