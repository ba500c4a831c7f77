"""The history of a prompt is kept in a file from one session to the next, where one can be."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from prompt_toolkit.history import FileHistory, InMemoryHistory


def history_file() -> Path | None:
    """Return where the history is kept: ``$XDG_STATE_HOME/vetrace/history``.

    Ref: XDG Base Directory Specification: ``~/.local/state`` by default, and a path that is not
    absolute is ignored.
    """
    xdg = os.environ.get("XDG_STATE_HOME", "")
    try:
        base = Path(xdg) if xdg.startswith("/") else Path.home() / ".local" / "state"
    except RuntimeError:  # no home
        return None
    return base / "vetrace" / "history"


def kept(path: Path | None) -> InMemoryHistory | FileHistory:
    """Return a history that is kept in a file, or only in memory where there can be none."""
    if path is None:
        return InMemoryHistory()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Lines may hold what is nobody else's, in the file of an older vetrace as well.
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.fchmod(file, 0o600)
        finally:
            os.close(file)
    except OSError:
        return InMemoryHistory()
    return _File(str(path))


class _File(FileHistory):
    # A history that cannot be written is no error: it is a convenience.
    def store_string(self, string: str) -> None:
        with contextlib.suppress(OSError):
            super().store_string(string)

    def load_history_strings(self) -> Iterator[str]:
        with contextlib.suppress(OSError):
            yield from super().load_history_strings()
