"""Vector 14 under the guest's hands: what it does with its IDT, its stacks and its CPU."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from bare_guest import DEVICE, REGION, assemble
from vetrace_run import vetrace

pytestmark = pytest.mark.qemu


def test_exceptions_go_through_an_idt(tmp_path: Path) -> None:
    program = shutil.which("qemu-system-x86_64")
    assert program is not None
    known = subprocess.run([program, "-cpu", "help"], capture_output=True, text=True, check=True)
    guest = assemble(tmp_path)
    kernel = ("--kernel", guest, "--symbols", guest, "--region", REGION)
    with vetrace(tmp_path, "boot", "--quiet", *kernel, "--", *DEVICE) as running:
        words: list[bytes] = []

        def started() -> bool:
            for name, pid in running.children().items():
                if name.startswith("qemu"):
                    words[:] = Path("/proc", str(pid), "cmdline").read_bytes().split(b"\0")
            # A QEMU that is asked for the CPUs it knows comes before.
            return b"-gdb" in words

        running.until(started, "QEMU is there")
        assert (b"x86_64-cpu.fred=off" in words) == ("fred" in known.stdout.split())
        assert running.finish().status == 0
