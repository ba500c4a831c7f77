"""A terminal that cannot move its cursor: nothing is drawn there."""

from __future__ import annotations

import shutil
import sys

from prompt_toolkit.data_structures import Size
from prompt_toolkit.output import DummyOutput
from prompt_toolkit.utils import is_dumb_terminal


def is_dumb() -> bool:
    """Tell whether the terminal cannot move its cursor, by ``$TERM``."""
    return is_dumb_terminal()


class Dumb(DummyOutput):
    """Write what is said, and draw nothing.

    prompt_toolkit's own way with such a terminal echoes the character before the cursor at each
    change, whatever has changed.
    """

    def write_raw(self, data: str) -> None:
        sys.stdout.write(data)

    def flush(self) -> None:
        sys.stdout.flush()

    def get_size(self) -> Size:
        columns, rows = shutil.get_terminal_size()
        return Size(rows=rows, columns=columns)
