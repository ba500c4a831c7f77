"""How soon a prompt is there, and how soon it answers Ctrl-C, beside other programs' prompts."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from scripts.benchmark.result import Result
from scripts.benchmark.trace import write
from scripts.terminal import Terminal

_TURNS = 5
_BOOTS = 2
_SIZE = 2 * 10**5
_VETRACE = (sys.executable, "-m", "tracer")
_PYTHON = (sys.executable, "-c", "from prompt_toolkit import prompt; prompt('(python) ')")
_GDB = ("gdb", "-q", "-nx")


def latency_of_a_prompt() -> Result:
    """Measure seconds to the prompt of `open` and `boot -i`, and from Ctrl-C to `interrupted`."""
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="bench-of-vetrace-") as name:
        trace = Path(name) / "run.vtrace.zst"
        write(trace, _SIZE)
        # In turn, so that what else the machine does is everybody's.
        for turn in range(_TURNS):
            _keep(found, "python with prompt_toolkit", _start(_PYTHON, r"\(python\)"))
            _keep(found, "gdb", _start(_GDB, r"\(gdb\)"))
            _keep(found, "open", _start((*_VETRACE, "open", str(trace)), r"\(vetrace\)"))
            _keep(found, "open: Ctrl-C in a search", _search(trace))
            if turn < _BOOTS:
                start, stop = _boot()
                _keep(found, "boot -i", start)
                _keep(found, "boot -i: Ctrl-C as it runs", stop)
    best = {what: min(seconds) for what, seconds in found.items()}
    rows = [(f"{what}, s", f"{seconds:8.3f}") for what, seconds in best.items()]
    python = best["python with prompt_toolkit"]
    rows += [
        ("open : python with prompt_toolkit", f"{best['open'] / python:8.2f}"),
        ("open : gdb", f"{best['open'] / best['gdb']:8.2f}"),
        ("boot -i : open", f"{best['boot -i'] / best['open']:8.2f}"),
    ]
    return Result(
        f"The time from a program's start to its prompt in a terminal, the best of {_TURNS}, of"
        f" {_BOOTS} with a guest, which then stands at its kernel's entry; and from Ctrl-C to what"
        f" says `interrupted`, in a search through {_SIZE:,} accesses and in a guest that boots. By"
        " the wall's clock.",
        tuple(rows),
    )


def _keep(found: dict[str, list[float]], what: str, seconds: float) -> None:
    found.setdefault(what, []).append(seconds)


def _start(command: Sequence[str], prompt: str) -> float:
    begun = time.monotonic()
    with Terminal(command) as terminal:
        terminal.wait_for(prompt)
        return time.monotonic() - begun


def _search(trace: Path) -> float:
    with Terminal((*_VETRACE, "open", str(trace))) as terminal:
        terminal.wait_for(r"\(vetrace\)")
        terminal.line("break if value == 1")
        terminal.wait_for(r"break 1: ")
        return _interrupted(terminal)


def _boot() -> tuple[float, float]:
    begun = time.monotonic()
    with Terminal((*_VETRACE, "boot", "-i")) as terminal:
        terminal.wait_for(r"\(vetrace\)")
        start = time.monotonic() - begun
        stop = _interrupted(terminal)
        terminal.line("quit")
        terminal.line("y")
        terminal.wait()
    return start, stop


# Seconds from Ctrl-C to what tells of it, in what `continue` has begun.
def _interrupted(terminal: Terminal) -> float:
    terminal.line("continue")
    time.sleep(0.5)
    begun, mark = time.monotonic(), terminal.mark
    terminal.control("c")
    terminal.wait_for(r"interrupted", after=mark)
    return time.monotonic() - begun
