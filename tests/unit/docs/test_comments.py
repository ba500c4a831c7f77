"""Comments of the code begin with their subject."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
RIDDLE = re.compile(r"\s*# (?:Of|Or|What|Where|Which|Whether)\b")


def sources() -> Iterator[Path]:
    yield from sorted((ROOT / "tracer").rglob("*.py"))
    yield from sorted((ROOT / "scripts" / "benchmark").rglob("*.py"))


def riddles(text: str) -> list[str]:
    """Return the comments of a source whose first word leaves the reader waiting for the verb."""
    lines = text.splitlines()
    return [
        f"{number}: {line.strip()}"
        for number, (before, line) in enumerate(zip(["", *lines], lines, strict=False), 1)
        if RIDDLE.match(line) and not before.lstrip().startswith("#")
    ]


@pytest.mark.parametrize("path", list(sources()), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_comment_begins_with_its_subject(path: Path) -> None:
    assert riddles(path.read_text(encoding="utf-8")) == []


def test_a_riddle_is_found() -> None:
    text = "x = 1\n# Of a stop, all is done.\n# The second line counts.\n# What follows is\n"
    assert riddles(text) == ["2: # Of a stop, all is done."]
