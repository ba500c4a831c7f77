"""A long answer, through a person's pager: ``$PAGER``, or less.

Ref: git-config(1), core.pager: the shell has the program, and less gets ``FRX`` where ``$LESS`` is
not set.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Sequence


def pager() -> str | None:
    """Return the command of the pager, None where there is none."""
    named = os.environ.get("PAGER")
    if named is None:
        return "less" if shutil.which("less") else None
    return None if named.strip() in ("", "cat") else named


async def paged(lines: Sequence[str], command: str) -> bool:
    """Show lines by a pager, until the person leaves it; tell whether there is such a pager."""
    text = "".join(f"{line}\n" for line in lines).encode(errors="replace")
    environment = {"LESS": "FRX", **os.environ}

    def show() -> int:
        return subprocess.run(
            command, shell=True, input=text, env=environment, check=False
        ).returncode

    # The shell says so of a program that it does not find, or may not run.
    return await asyncio.to_thread(show) not in (126, 127)
