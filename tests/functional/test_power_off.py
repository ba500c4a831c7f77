"""A guest whose last access is the one that powers it off: it is recorded, and QEMU agrees."""

from __future__ import annotations

from pathlib import Path

import pytest
from guest_program import assemble, initrd
from vetrace_run import agreed, boot, read_trace

from tracer.trace.record import Intercept

pytestmark = pytest.mark.qemu

# Its ACPI has no ports: the sleep register that powers it off is in memory, and so are all of
# PCI's. QEMU docs/system/i386/microvm.rst.
MICROVM = ("--", "-machine", "microvm,acpi=on,pcie=on")
SLEEP = 0xFEA0_0200  # GED_MMIO_BASE_REGS (include/hw/i386/microvm.h), ACPI_GED_REG_SLEEP_CTL
OFF = 0x34  # SLP_TYP 5, SLP_EN (hw/acpi/generic_event_device.c, ged_regs_write)


def test_a_machine_that_is_powered_off_through_memory(tmp_path: Path) -> None:
    done = boot(tmp_path, "--quiet", "--check", *MICROVM)
    assert agreed(done) > 1000
    trace = read_trace(done.trace)
    assert trace.end.outcome == "poweroff"
    # The vCPU goes on until QEMU's main loop stops it, and asks meanwhile whether it sleeps.
    made = [access for record in trace.intercepts for access in record.accesses]
    last = max(i for i, access in enumerate(made) if access.direction == "write")
    assert (made[last].physical, made[last].value) == (SLEEP, OFF)
    assert all(access.physical == SLEEP + 1 for access in made[last + 1 :])


def by_program(folder: Path, ports: int) -> list[Intercept]:
    """Let the program do it; return what was recorded."""
    program = assemble(folder, "poweroff", REGISTER=SLEEP, VALUE=OFF, PORTS=ports)
    ramdisk = initrd(folder, program, "/tmp/poweroff")
    regions = ("--region", f"{SLEEP & ~0xFFF:#x}-{SLEEP | 0xFFF:#x}")  # versions name it otherwise
    done = boot(folder, "--quiet", "--check", "--initrd", ramdisk, *regions, *MICROVM)
    trace = read_trace(done.trace)
    assert agreed(done) == len(trace.intercepts)
    assert trace.end.outcome == "poweroff"
    return trace.intercepts


def test_an_instruction_that_the_vcpu_carries_out_powers_it_off(tmp_path: Path) -> None:
    (last,) = by_program(tmp_path, 0)
    assert (last.via, last.cpl) == ("stepped", 3)
    assert [(a.direction, a.physical) for a in last.accesses] == [("write", SLEEP)]


@pytest.mark.parametrize("ports", [1, 2], ids=["IOPL", "the TSS's bitmap"])
def test_a_program_that_may_use_a_port_powers_it_off_with_what_that_gives(
    ports: int, tmp_path: Path
) -> None:
    (last,) = by_program(tmp_path, ports)
    assert (last.via, last.cpl) == ("emulated", 3)
    (access,) = last.accesses
    assert (access.direction, access.physical, access.width, access.value) == (
        "write", SLEEP, 1, OFF
    )  # fmt: skip


def test_a_program_that_may_not_use_a_port_gets_as_far_as_no_device(tmp_path: Path) -> None:
    # The port is forbidden before memory is touched: the kernel itself powers the machine off.
    assert {record.cpl for record in by_program(tmp_path, 3)} == {0}


# ---- a guest that stays, with nobody at it


def test_a_kernel_that_halts_has_ended(tmp_path: Path) -> None:
    done = boot(tmp_path, "--quiet", "--check", "--init", script(tmp_path, "halt -f"))
    assert agreed(done) > 1000
    assert "the guest goes no further, and is ended by a reset" in done.err
    assert read_trace(done.trace).end.outcome == "poweroff"


@pytest.mark.parametrize(
    ("commands", "told"),
    [
        ("echo c > /proc/sysrq-trigger", "the guest panicked: Kernel panic - not syncing: sysrq"),
        (
            "echo 'ALERT!  /dev/x does not exist.'; printf '(initramfs) '; sleep 1000",
            "the initramfs waits at its shell, where nobody types (ALERT!  /dev/x does not exist.)",
        ),
    ],
    ids=["panicked", "at a shell"],
)
def test_what_stays_in_trouble_is_ended_and_told(commands: str, told: str, tmp_path: Path) -> None:
    words = ("--quiet", "--append", "panic=0", "--init", script(tmp_path, commands))
    done = boot(tmp_path, *words)
    last = done.err.splitlines()[-1]
    assert done.status == 1 and told in last, done.err
    trace = read_trace(done.trace)
    assert told in trace.end.outcome and len(trace.records) > 1000


def script(folder: Path, commands: str) -> Path:
    """Return a script for the guest."""
    path = folder / "script"
    path.write_text(f"#!/bin/sh\n{commands}\n")
    return path
