"""Lines that are edited on a terminal that is only written to, as such a terminal shows them."""

from __future__ import annotations

from collections.abc import Iterable

import pyte
import pytest

from tracer.repl.echo import Echo

HEAD = "(vetrace) "


def shown(lines: Iterable[str | None], columns: int = 30) -> list[str]:
    """Return the rows of a terminal after a line has become each of these; None drops it."""
    screen = pyte.Screen(columns, 10)
    screen.set_mode(pyte.modes.LNM)
    echo = Echo(HEAD, columns, pyte.Stream(screen).feed)
    for line in lines:
        if line is None:
            echo.drop()
        else:
            echo.follow(line)
    echo.end()
    return [row.rstrip() for row in screen.display if row.strip()]


@pytest.mark.parametrize(
    ("lines", "rows"),
    [
        (["s", "st", "ste"], ["ste"]),
        (["stp", "st", "ste"], ["ste"]),  # Backspace
        (["rev", "reverse-"], ["reverse-"]),  # Tab
        (["step 3", "info breaks", ""], [""]),  # Up and Down
        (["stp", "step"], ["step"]),  # in the middle
        (["nonsense", None, "step"], ["nonsense^C", "step"]),
        (["a\x1b[31m"], ["a\\x1b[31m"]),
    ],
)
def test_a_line_stands_as_it_is_edited(lines: list[str | None], rows: list[str]) -> None:
    assert shown(lines) == [(HEAD + row).rstrip() for row in rows]


def test_a_line_of_several_rows_is_taken_back_on_its_last() -> None:
    long = "break nvme.CC if value & 1"
    assert shown([long, long[:-1], f"{long[:-1]}2"]) == [f"{HEAD}break nvme.CC if val", "ue & 2"]
    assert shown([long, "step"]) == [f"{HEAD}break nvme.CC if val", "ue & 1", f"{HEAD}step"]
