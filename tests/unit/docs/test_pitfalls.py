"""docs/pitfalls.md has every pitfall, and every test of one that there is."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
COUNT = 92

ROWS = {
    int(number): cell
    for number, cell in re.findall(
        r"^\| (\d+) \| .* \| (.*) \|$", (ROOT / "docs" / "pitfalls.md").read_text(), re.MULTILINE
    )
}


def test_the_page_has_every_number() -> None:
    assert list(ROWS) == list(range(1, COUNT + 1))


def test_the_page_names_the_tests_that_there_are() -> None:
    tests: dict[int, set[str]] = {}
    for path in (ROOT / "tests").rglob("test_*.py"):
        for number in re.findall(r"^def test_pitfall_(\d+)_", path.read_text(), re.MULTILINE):
            tests.setdefault(int(number), set()).add(path.relative_to(ROOT).as_posix())
    named = {n: set(re.findall(r"`(tests/[^`]*\.py)`", cell)) for n, cell in ROWS.items()}
    assert {n: files for n, files in named.items() if files} == tests


def test_what_has_no_test_says_why() -> None:
    assert all(len(cell.split()) >= 4 for cell in ROWS.values() if "`tests/" not in cell)
