"""A guest that writes to what compiled sites have in its memory: the run ends, with a line at most.

The guest is bare, and knows where that is: it has given the room itself.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from bare_guest import DEVICE, REGION, Case, assemble
from vetrace_run import boot

from tracer.bare.window import FIRST
from tracer.compiled import layout
from tracer.compiled.layout import SITE_SIZE, control_field

pytestmark = pytest.mark.qemu

TABLE, BLOCK = 0, 4096
"""Offsets in the room: the table of leaves, the block."""
GUEST_SECONDS = 2


def _fill(offset: int, size: int, value: int) -> str:
    return (
        f"lea r8, [rip + {FIRST} + {BLOCK + offset:#x}]; mov ecx, {size // 8}; "
        f"movabs rax, {value:#x}; mov r9, rdi; mov rdi, r8; rep stosq; mov rdi, r9"
    )


def _word(name: str, value: int) -> str:
    return _fill(control_field(name), 8, value)


ONES = (1 << 64) - 1
RING_SIZE = 8192 * layout.SLOT_SIZE
HOSTILE = {
    "a ring of zeros": _fill(layout.RING, RING_SIZE, 0),
    "a ring of ones": _fill(layout.RING, RING_SIZE, ONES),
    "a head of 0": _word("HEAD", 0),
    "a head far on": _word("HEAD", 1 << 40),
    "a head that is taken": _word("HEAD", ONES),
    "a head between two records": _word("HEAD", RING_SIZE + 8),
    "no limit": _word("LIMIT", ONES >> 1),
    "another ring": _word("RING", 0x50_0000),
    "a ring in a device": _word("RING", 0x4000_1000),
    "a smaller ring": _word("RING_MASK", 0xFF),
    "no sites": _word("SITES", 0),
    "a table of sites without an end": _word("SITES_END", ONES),
    "sites of zeros": _fill(layout.SITES, layout.SITE_COUNT * SITE_SIZE, 0),
    "sites of ones": _fill(layout.SITES, layout.SITE_COUNT * SITE_SIZE, ONES),
    "stops everywhere": _fill(layout.STOPS, layout.STOP_PLACES, ONES),
    "no window": _word("WINDOW", 0),
    "a window without an end": _word("REACH", ONES),
    "another slow way": _word("SLOW", 0),
    "a control page of zeros": _fill(0, layout.PAGE, 0),
    "a control page of ones": _fill(0, layout.PAGE, ONES),
    "common code of zeros": _fill(layout.CODE, 0x1000, 0),
    "common code that never ends": _fill(layout.CODE, 0x1000, 0xFEEB_FEEB_FEEB_FEEB),
    "thunks that trap": _fill(layout.THUNKS, 0x1000, 0xCCCC_CCCC_CCCC_CCCC),
    "a table of zeros": _fill(TABLE - BLOCK, 4096, 0),
    "a table that leads nowhere": _fill(TABLE - BLOCK, 4096, 0x000F_FFFF_C000_00E3),
    "a table of ones": _fill(TABLE - BLOCK, 4096, ONES),
}
ACCESS = "mov ecx, 40; 1: mov eax, [rdi]; mov [rdi + 8], eax; dec ecx; jnz 1b"


@pytest.mark.parametrize("what", HOSTILE)
def test_a_guest_that_writes_there_ends_the_run_and_nothing_else(what: str, tmp_path: Path) -> None:
    text = f"{ACCESS}; {HOSTILE[what]}; {ACCESS.replace('1:', '2:').replace('1b', '2b')}"
    guest = assemble(tmp_path, [Case(text, [])], room=True)
    done = boot(
        tmp_path, "--kernel", guest, "--symbols", guest, "--quiet",
        "--region", REGION, "--guest-timeout", str(GUEST_SECONDS), "--", *DEVICE,
    )  # fmt: skip
    assert "Traceback" not in done.err
    assert done.status in (0, 1)
    lines = [line for line in done.complaints if "gdb log" not in line]
    failed = [line for line in lines if "tracing 1 of" not in line and "intercepts" not in line]
    # Of a guest that hangs it is told what it did last.
    hangs = bool(failed) and "--guest-timeout" in failed[-1]
    assert hangs or len(failed) == done.status, failed
