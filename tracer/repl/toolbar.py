"""The line at the bottom: what the guest does, its time, accesses, rate, trace file."""

from __future__ import annotations

from collections.abc import Sequence

from tracer.text.amount import counted

_JOINT = "  "


def toolbar_text(cells: Sequence[str], columns: int) -> str:
    """Return as many cells as fit a line, from the left; the last that is cut loses its end."""
    shown = ""
    for cell in cells:
        if not cell:
            continue
        longer = f"{shown}{_JOINT}{cell}" if shown else f" {cell}"
        if len(longer) <= columns:
            shown = longer
            continue
        room = columns - len(shown) - len(_JOINT)
        if not shown:
            return cell[:columns]
        return f"{shown}{_JOINT}{cell[: room - 1]}…" if room > 8 else shown
    return shown


def toolbar_cells(
    state: str, seconds: float, accesses: int, rate: float, trace: str | None, *, paused: bool
) -> list[str]:
    """Return what the line tells, what matters most first."""
    return [
        f"{state}{', output paused' if paused else ''}",
        f"{seconds:.6f} s",
        counted(accesses, "access"),
        f"{rate:,.0f}/s" if rate >= 0.5 else "0/s",
        trace or "no trace file",
    ]
