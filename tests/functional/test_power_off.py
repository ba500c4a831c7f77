"""A guest whose last access is the one that powers it off: it is recorded, and QEMU agrees."""

from __future__ import annotations

from pathlib import Path

import pytest
from guest_program import assemble, initrd
from vetrace_run import agreed, boot, read_trace

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
    (last,) = trace.intercepts[-1].accesses
    assert (last.direction, last.physical, last.value) == ("write", hex(SLEEP), hex(OFF))


def test_an_instruction_that_the_vcpu_carries_out_powers_it_off(tmp_path: Path) -> None:
    program = assemble(tmp_path, "poweroff", REGISTER=SLEEP, VALUE=OFF)
    ramdisk = initrd(tmp_path, program, "/tmp/poweroff")
    regions = ("--region", f"{SLEEP & ~0xFFF:#x}-{SLEEP | 0xFFF:#x}")  # versions name it otherwise
    done = boot(tmp_path, "--quiet", "--check", "--initrd", ramdisk, *regions, *MICROVM)
    assert agreed(done) == 1
    trace = read_trace(done.trace)
    assert trace.end.outcome == "poweroff"
    (last,) = trace.intercepts
    assert last.via == "stepped"
    assert [(a.direction, a.physical) for a in last.accesses] == [("write", hex(SLEEP))]
