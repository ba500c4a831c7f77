"""A guest that hangs ends when its time is over: what it did last is told, the trace is whole."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
from prompt_terminal import session
from prompt_terminal import told as prompted
from vetrace_run import Run, boot, read_trace, vetrace

from scripts.patience import patience
from tracer.guest.initramfs import build_initramfs

pytestmark = pytest.mark.qemu

INIT = """\
#!/bin/sh
/bin/busybox mkdir -p /proc /sys /dev
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t devtmpfs devtmpfs /dev
echo this is the last line
"""
IDLE = "sleep 100000"
BUSY = "while :; do :; done"
POLLING = "while :; do devmem 0xfed00000 32 > /dev/null; done"
OVER = "the guest had not ended after"


def initrd(folder: Path, hang: str) -> Path:
    init = folder / "init"
    init.write_text(f"{INIT}{hang}\n")
    return build_initramfs(init, None)


def wall_clock(seconds: float) -> str:
    """A limit in which the guest gets as far as on an idle machine."""
    return f"{patience(seconds):g}"


def told(done: Run, limit: str) -> list[str]:
    """What was told of a run that a limit ended, in a trace that is whole."""
    assert done.status == 1, done.err
    assert "Traceback" not in done.err
    error = f"{OVER} {limit}"
    assert f"vetrace: {error}: what it did last is above" in done.err.splitlines()
    if done.trace.exists():
        trace = read_trace(done.trace)
        assert trace.damage is None
        assert trace.end.outcome == error
    return done.err.splitlines()


def starts(lines: list[str], start: str) -> str:
    (line,) = [line for line in lines if line.startswith(f"vetrace: {start}")]
    return line


@pytest.mark.parametrize(
    "how",
    [
        (),
        pytest.param(("-e", "continue"), marks=pytest.mark.long),
        pytest.param(("--untraced",), marks=pytest.mark.long),
    ],
)
def test_a_guest_that_waits_for_nothing(how: tuple[str, ...], tmp_path: Path) -> None:
    words = ("--quiet", "--initrd", initrd(tmp_path, IDLE), "--guest-timeout", "30")
    done = boot(tmp_path, *words, *how)
    lines = told(done, "30 s of its own time (--guest-timeout)")
    assert starts(lines, "last console line: ").endswith(": this is the last line")
    # A thread of the kernel may have just been woken by a timer.
    assert re.search(r"\b(do_idle|kthread)\b", starts(lines, "vcpu0 is in "))
    if "--untraced" in how:
        assert starts(lines, "no access was traced")
    else:
        # By the timer that its processor has.
        (last,) = read_trace(done.trace).intercepts[-1].accesses
        assert f" {last.region}+{last.offset:#x} " in starts(lines, "last access: ")


def test_a_program_that_never_ends_on_one_of_two_vcpus(tmp_path: Path) -> None:
    limit = wall_clock(20)  # which is such a guest's own time
    words = ("--quiet", "--initrd", initrd(tmp_path, BUSY), "--guest-timeout", limit)
    done = boot(tmp_path, *words, "--region", "nvme", "--realtime", "--", "-smp", "2")
    lines = told(done, f"{limit} s of its own time (--guest-timeout)")
    assert starts(lines, "vcpu0 is in ") and starts(lines, "vcpu1 is in ")


def test_a_program_that_polls_a_device(tmp_path: Path) -> None:
    # Time goes slowly in such a guest: 20 µs an access, whatever that costs the host.
    words = ("--quiet", "--initrd", initrd(tmp_path, POLLING), "--guest-timeout", "3")
    done = boot(tmp_path, *words, "--region", "hpet")
    lines = told(done, "3 s of its own time (--guest-timeout)")
    assert " hpet+0x" in starts(lines, "last access: ")


def test_a_guest_that_never_comes_to_its_kernel(tmp_path: Path) -> None:
    firmware = tmp_path / "firmware"
    firmware.write_bytes(b"\xeb\xfe" * (1 << 16))  # jmp to itself
    limit = wall_clock(8)
    done = boot(tmp_path, "--quiet", "--timeout", limit, "--", "-bios", firmware)
    lines = told(done, f"{limit} s (--timeout)")
    assert starts(lines, "nothing on the console")
    assert starts(lines, "vcpu0 is in 0xfff0")


@pytest.mark.parametrize(
    "commands",
    [
        pytest.param("py while True: pass", marks=pytest.mark.long),
        "py import time; time.sleep(100000)",
    ],
)
def test_a_script_that_holds_its_guest(commands: str, tmp_path: Path) -> None:
    limit = wall_clock(30)
    done = boot(tmp_path, "--quiet", "--timeout", limit, "-e", commands)
    lines = told(done, f"{limit} s (--timeout)")
    assert "start_kernel" in starts(lines, "vcpu0 is in ")


def test_a_person_keeps_the_prompt(tmp_path: Path) -> None:
    trace = tmp_path / "trace.vtrace"
    words = ("--initrd", initrd(tmp_path, IDLE), "--guest-timeout", "30", "-o", trace)
    with session(tmp_path, *map(str, words), "--region", "nvme") as terminal:
        prompted(terminal, "watch off")
        terminal.line("continue")
        terminal.wait_for(rf"the guest has ended: {OVER} 30 s of its own time")
        prompted(terminal, "info breaks", r"no breaks")
        terminal.line("quit")
        assert terminal.wait() == 1
    assert OVER in read_trace(trace).end.outcome


@pytest.mark.long
def test_a_qemu_that_does_not_stop(tmp_path: Path) -> None:
    files = ("--serial", tmp_path / "serial", "-o", tmp_path / "trace.vtrace")
    limit = wall_clock(60)
    with vetrace(tmp_path, "boot", "--quiet", "--timeout", limit, *files) as running:
        running.until_tracing()
        os.kill(running.pid_of("qemu"), signal.SIGSTOP)
        done = running.finish()
    lines = told(done, f"{limit} s (--timeout)")
    assert starts(lines, "last access: ")
    assert starts(lines, "where it stands is not known")


def test_a_guest_that_ends_in_time(tmp_path: Path) -> None:
    words = ("--quiet", "--initrd", initrd(tmp_path, "poweroff -f"), "--region", "hpet")
    done = boot(tmp_path, *words, "--timeout", "100000", "--guest-timeout", "100000")
    assert done.status == 0, done.err
    assert OVER not in done.err
    assert read_trace(done.trace).end.outcome == "poweroff"
