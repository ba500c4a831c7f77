"""How long tests wait before they call something hung: every deadline goes through here."""

from __future__ import annotations

import os

VARIABLE = "VETRACE_TEST_PATIENCE"
"""The environment variable that all deadlines are multiplied by: 10 on a machine that is busy."""


def patience(seconds: float) -> float:
    """Return a deadline in seconds for this machine, from one for an idle machine.

    A deadline is only ever an error, so a long one costs nothing where all is well. Raises
    ValueError for a factor that is none.
    """
    factor = float(os.environ.get(VARIABLE) or 1)
    if not factor > 0:
        raise ValueError(f"{VARIABLE} is {factor:g}: give a factor, such as 10")
    return factor * seconds
