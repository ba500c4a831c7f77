"""docs/guests.md: its rows are of scripts/guests, each of a run that was told exactly."""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    loader = SourceFileLoader("guests_script", str(ROOT / "scripts" / "guests"))
    spec = importlib.util.spec_from_loader("guests_script", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["guests_script"] = module
    loader.exec_module(module)
    return module


def test_each_row_is_of_a_guest_of_the_script(script: ModuleType) -> None:
    rows = script.read_rows((ROOT / "docs" / "guests.md").read_text())
    guests = {guest.name: guest for guest in script.GUESTS}
    assert rows and set(rows) <= set(guests)
    for name, (_, guest, machine, accesses, result, _) in rows.items():
        assert (guest, machine) == (guests[name].guest, guests[name].machine)
        assert int(accesses.replace(",", "")) > 0
        assert result == script.EXACT


def test_the_table_is_written_as_it_is_read(script: ModuleType) -> None:
    page = (ROOT / "docs" / "guests.md").read_text()
    rows = script.read_rows(page)
    assert script.table(rows) in page
    assert script.read_rows(script.table(rows)) == rows


def test_what_differs_from_an_untraced_run_is_told(script: ModuleType) -> None:
    lines = ["[    1.5] usb: fine", "[    1.6] WARNING: CPU: 0 at x", "vetrace-guest: done"]
    made = script.Outcome(0, "", lines, 1.0)
    assert script.words_of(made) == ["WARNING: CPU: 0 at x", "vetrace-guest: done"]
