"""The page of a report in a browser: how soon it is open, and how smoothly it answers."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from scripts.benchmark.result import Result
from scripts.benchmark.trace import write
from scripts.chromium import chromium, open_page

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

OPEN_LIMIT = 2.0
"""Seconds that a page of 10^5 accesses may take to open."""

_SIZE = 10**5
_TURNS = 5

# Zooms in and out again, as a wheel does, and tells how long each picture took in milliseconds.
_ZOOM = """
const done = arguments[0], {lanes} = vetrace, taken = [];
const step = (left) => requestAnimationFrame((begun) => {
  lanes.zoom(left > 15 ? 0.8 : 1.25);
  requestAnimationFrame(() => setTimeout(() => {
    taken.push(performance.now() - begun);
    if (left) step(left - 1); else done(taken);
  }));
});
step(30);
"""

_SEARCH = """
const done = arguments[0], begun = performance.now();
vetrace.apply('register == CSTS or value & 0xff == 0').then(() => done(performance.now() - begun));
"""


def speed_of_a_page() -> Result:
    """Measure how long a report of 10^5 accesses takes to be written, opened, zoomed, searched."""
    with tempfile.TemporaryDirectory(prefix="bench-of-vetrace-") as name:
        trace, page = Path(name) / "run.vtrace.zst", Path(name) / "report.html"
        write(trace, _SIZE)
        begun = time.monotonic()
        report = [sys.executable, "-m", "tracer", "report", str(trace), "-o", str(page)]
        subprocess.run(report, check=True, stderr=subprocess.DEVNULL)
        written = time.monotonic() - begun
        with chromium() as driver:
            opened = min(_seconds_to_open(driver, page) for _ in range(_TURNS))
            frames = sorted(driver.execute_async_script(_ZOOM))
            searched = min(driver.execute_async_script(_SEARCH) for _ in range(_TURNS))
        size = page.stat().st_size
    rows = (
        ("written", f"{written:6.2f} s, {size / 1e6:.1f} MB"),
        ("opened", f"{opened:6.2f} s   (limit {OPEN_LIMIT:.0f})"),
        (
            "a picture while zooming",
            f"{frames[len(frames) // 2]:6.0f} ms, {frames[-1]:.0f} at most",
        ),
        ("searched", f"{searched:6.0f} ms"),
    )
    return Result(
        f"A made-up trace of {_SIZE:,} accesses, its page in Debian's Chromium without a window and"
        f" without a graphics processor; the best of {_TURNS}, by the wall's clock. Opened is"
        " everything drawn, and ready for a click.",
        rows,
        kept=opened <= OPEN_LIMIT,
    )


def _seconds_to_open(driver: Chrome, page: Path) -> float:
    begun = time.monotonic()
    open_page(driver, page)
    return time.monotonic() - begun
