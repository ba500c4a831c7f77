"""A prompt on a real guest, in a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vetrace_run import CHECKOUT

from scripts.terminal import Terminal

PROMPT = r"\(vetrace\)"
COMMAND = (sys.executable, "-m", "tracer", "boot", "-i", "--append", "loglevel=7")


def environment(folder: Path) -> dict[str, str]:
    """Return what a session in a folder has in its environment."""
    return {
        "PYTHONPATH": str(CHECKOUT), "XDG_STATE_HOME": str(folder / "state"), "PAGER": "cat",
    }  # fmt: skip


@contextmanager
def session(
    folder: Path, *arguments: str, columns: int = 120, rows: int = 40
) -> Iterator[Terminal]:
    """Start a session, and wait for its prompt."""
    with Terminal(
        [*COMMAND, *arguments], columns=columns, rows=rows, environment=environment(folder),
        folder=str(folder),
    ) as terminal:  # fmt: skip
        terminal.wait_for(PROMPT)
        yield terminal


def told(terminal: Terminal, line: str, pattern: str = "") -> None:
    """Type a line, and wait for what it is to show and for the next prompt."""
    mark = terminal.mark
    terminal.line(line)
    terminal.wait_for(rf"{pattern}[\s\S]*\n{PROMPT}", after=mark)
