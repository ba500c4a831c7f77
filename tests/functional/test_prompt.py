"""`vetrace boot -i` as the person at it has it: a real terminal, a real guest."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

import pytest
from prompt_terminal import PROMPT, session, told
from vetrace_run import read_trace

from tracer.trace.record import Intercept, UserRecord

pytestmark = pytest.mark.qemu


def stop_at(number: int) -> str:
    """Return a pattern of what is printed at a break; the toolbar has no access below its words."""
    return rf"break {number}: [^\n]*\n +\d+\.\d+ +vcpu0 "


def test_stop_look_change_and_go_on(tmp_path: Path) -> None:
    with session(tmp_path, "-o", str(tmp_path / "run.vtrace")) as terminal:
        told(terminal, "watch off")
        # The upper half of CAP has MPSMIN in bits 19:16: another page size than the host's makes
        # the driver give up, and say why.
        told(terminal, "break write nvme+0x1000", r"1\b.*nvme\+0x1000")
        told(terminal, "tbreak read nvme+0x4", r"2\b.*nvme\+0x4")
        told(terminal, "continue", stop_at(2))
        told(terminal, "plan", r"nvme\+0x4 CAP")
        told(terminal, "set value 0x00440820")
        told(terminal, "tbreak read nvme+0x4", r"break 3: read nvme\+0x4 \(once\)")
        told(terminal, "c", stop_at(3))
        told(terminal, "set value 0x00400820")
        # The driver reads CAP twice; the second value lets it go on to its first doorbell.
        told(terminal, "c", stop_at(1))
        told(terminal, "p", r"nvme\+0x1000 SQ0TDBL")
        told(terminal, "bt", r"#\d+ +nvme_\w+")
        told(terminal, "poke nvme INTMS 0")
        told(terminal, "brek", r"did you mean break")
        mark = terminal.mark
        terminal.line("break symbol start_kernl")
        terminal.wait_for(r"did you mean start_kernel[\s\S]*\(y or \[n\]\)", after=mark)
        told(terminal, "n", r"nothing is changed")
        terminal.line("break symbol start_kernl")
        told(terminal, "y", r"symbol start_kernl \(pending\)")
        told(terminal, "step", r"^ *\d+\.\d+ .*(R|W)\d")
        told(terminal, "delete")
        terminal.line("c")
        terminal.wait_for(r"powered off")
        terminal.line("quit")
        assert terminal.wait() == 0
    records = read_trace(tmp_path / "run.vtrace").records
    assert [r.text for r in records if isinstance(r, UserRecord)] == [
        "set value 0x440820", "set value 0x400820", "poke nvme+0xc 0x0",
    ]  # fmt: skip
    given = [
        access.value
        for record in records
        if isinstance(record, Intercept)
        for access in record.accesses
        if access.device is not None
    ]
    assert given == [0x440820, 0x400820]
    assert records[-1].outcome == "poweroff"  # type: ignore[union-attr]


def programs(pid: int) -> set[int]:
    """Return what runs below a process of QEMU and GDB."""
    parents, names = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            head, _, rest = stat.read_text().rpartition(")")
            number, _, name = head.partition(" (")
            names[int(number)], parents[int(number)] = name, int(rest.split()[1])
    below = {pid}
    for _ in range(5):
        below |= {child for child, parent in parents.items() if parent in below}
    return {each for each in below if names.get(each, "").startswith(("qemu", "gdb"))}


def test_the_driver_prints_what_it_was_made_to_read_by_the_same_guest_again(tmp_path: Path) -> None:
    with session(tmp_path, "-o", "run.vtrace.zst") as terminal:
        told(terminal, "watch off")
        told(terminal, "break read nvme+0x4 if value > 0", r"1\b")
        told(terminal, "alias go continue")
        told(terminal, "rule on read nvme.VS do give 0x10301", r"rule 1")
        told(terminal, "go", stop_at(1))
        before, mark = programs(terminal.pid), terminal.mark
        terminal.line("restart")
        terminal.wait_for(r"from the beginning\? \(y or n\)", after=mark)
        told(terminal, "n", r"left as it is")
        told(terminal, "plan", r"nvme\+0x4 CAP")
        mark = terminal.mark
        terminal.line("run")
        terminal.wait_for(r"from the beginning\? \(y or n\)", after=mark)
        told(terminal, "y", r"so far is in run\.vtrace\.zst, .* goes to run\.vtrace\.2\.zst")
        told(terminal, "info breaks", r"1 +0 hits")
        told(terminal, "rule", r"give 0x10301")
        told(terminal, "go", stop_at(1))
        after = programs(terminal.pid)
        assert before and len(after) == len(before) and not before & after
        told(terminal, "set value 0x440820")
        told(terminal, "c", rf"(?:{stop_at(1)}|Minimum device page size)")
        told(terminal, "set value 0x440820") if "Minimum" not in terminal.text else None
        terminal.line("c")
        terminal.wait_for(r"Minimum device page size 65536 too large for host \(4096\)")
        # While text is printed above the prompt, Ctrl-D would be the terminal's own end of file.
        terminal.wait_for(rf"powered off[\s\S]*{PROMPT}")
        terminal.control("d")
        assert terminal.wait() == 0
    for name, outcome in (("run.vtrace.zst", "interrupted"), ("run.vtrace.2.zst", "poweroff")):
        records = read_trace(tmp_path / name).records
        assert records[-1].outcome == outcome  # type: ignore[union-attr]
        assert any(isinstance(each, Intercept) for each in records)


def test_ctrl_c_never_loses_the_session_and_a_detached_guest_ends_its_boot(tmp_path: Path) -> None:
    with session(tmp_path, columns=80, rows=24) as terminal:
        for moment in range(24):
            mark = terminal.mark
            terminal.line("c")
            terminal.wait_for(rf"\) c *\n[\s\S]*{PROMPT}", after=mark)
            time.sleep(0.01 * moment)
            if moment % 2:
                terminal.control("c")
            else:
                os.kill(terminal.pid, signal.SIGINT)
            terminal.wait_for(r"interrupted", after=mark)
        terminal.resize(60, 20)
        told(terminal, "regs", r"rip")
        # On an empty or a begun line there is nothing to interrupt.
        terminal.type("brea")
        terminal.control("c")
        terminal.control("c")
        told(terminal, "info breaks", "no breaks|Num|number|none")
        terminal.line("detach")
        terminal.wait_for(r"vetrace-guest: done")
        terminal.wait_for(r"powered off")
        terminal.line("quit")
        assert terminal.wait() == 0
