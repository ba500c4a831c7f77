"""The time until a trace can be looked at, however long it is."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from scripts.benchmark.result import Result
from scripts.benchmark.trace import write
from scripts.terminal import Terminal

OPEN_LIMIT = 2.0
"""How many times as long a trace of a million records may take to open as one of a thousand."""

_SIZES = (10**3, 10**6)
_TURNS = 5
_VETRACE = (sys.executable, "-m", "tracer")


def latency_of_opening() -> Result:
    """Measure seconds to the prompt, and to the first line of `show`, of short and long traces."""
    rows: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="bench-of-vetrace-") as name:
        paths = [Path(name) / f"{size}.vtrace.zst" for size in _SIZES]
        for path, size in zip(paths, _SIZES, strict=True):
            write(path, size)
        # In turn, so that what else the machine does is both's.
        for _ in range(_TURNS):
            for at, path in enumerate(paths):
                for what, seconds in (
                    ("open, first step", _first_line(("open", str(path), "-e", "step"))),
                    ("open, to the prompt", _prompt(path)),
                    ("show, first line", _first_line(("show", str(path), "--unfold"))),
                ):
                    kept = rows.setdefault(what, [float("inf")] * len(_SIZES))
                    kept[at] = min(kept[at], seconds)
    table = [("records", "".join(f"{size:>14,}" for size in _SIZES))]
    table += [
        (f"{what}, s", "".join(f"{each:>14.3f}" for each in seconds))
        for what, seconds in rows.items()
    ]
    short, long = rows["open, to the prompt"]
    table.append(("long : short", f"{long / short:>14.2f}   (limit {OPEN_LIMIT:.0f})"))
    return Result(
        f"Made-up compressed traces, one access a record; the best of {_TURNS} starts of the"
        " program each, by the wall's clock.",
        tuple(table),
        kept=long / short <= OPEN_LIMIT,
    )


def _first_line(arguments: Sequence[str]) -> float:
    begun = time.monotonic()
    with subprocess.Popen(
        [*_VETRACE, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as child:
        assert child.stdout is not None  # it is a pipe
        child.stdout.readline()
        seconds = time.monotonic() - begun
        child.kill()
    return seconds


def _prompt(path: Path) -> float:
    begun = time.monotonic()
    with Terminal([*_VETRACE, "open", str(path)]) as terminal:
        terminal.wait_for(r"\(vetrace\)")
        seconds = time.monotonic() - begun
        terminal.line("quit")
        terminal.wait()
    return seconds
