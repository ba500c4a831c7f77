"""A program of a TDX guest that reaches a device: it gets SIGSEGV, the guest lives, and it is told.

The kernel's #VE handler carries out what the kernel itself does alone (Linux
arch/x86/coco/tdx/tdx.c, virt_exception_user).
"""

from __future__ import annotations

from pathlib import Path

import pytest
from confidential_kernel import kernel_for
from guest_program import assemble, initrd
from vetrace_run import agreed, boot, read_trace

from tracer.confidential.kind import Kind
from tracer.trace.record import Mark

pytestmark = pytest.mark.qemu

AHCI = "0x010601"  # the class of q35's own controller, which no driver of this guest holds
COMMANDS = f"""\
for device in /sys/bus/pci/devices/*; do
    if [ "$(cat $device/class)" = {AHCI} ]; then
        echo 1 > $device/enable
        /tmp/bar $device/resource5; echo "bar: status $?"
        echo "bar: at $(head -n 6 $device/resource | tail -n 1)"
    fi
done"""


@pytest.mark.parametrize("way", [(), ("--every-stop",)], ids=["module", "stops"])
def test_a_program_that_reaches_a_device_dies_and_the_guest_lives(
    way: tuple[str, ...], tmp_path: Path
) -> None:
    ramdisk = initrd(tmp_path, assemble(tmp_path, "bar"), COMMANDS)
    done = boot(
        tmp_path, "--guest", "tdx", "--kernel", kernel_for(Kind.TDX), "--quiet", "--check",
        "--initrd", ramdisk, "--append", "loglevel=7", *way,
    )  # fmt: skip
    assert agreed(done) > 0, done.serial
    assert "bar: status 139" in done.serial  # a shell has 128 and SIGSEGV
    assert any("Unexpected #VE: 48" in line for line in done.serial)
    assert any("bar[" in line and "VE fault" in line for line in done.serial)
    trace = read_trace(done.trace)
    assert trace.end.outcome == "poweroff" and trace.end.counts["given_up"] == 1
    at = next(line for line in done.serial if line.startswith("bar: at ")).split()[2]
    (told,) = [r.text for r in trace.records if isinstance(r, Mark) and "did not ask" in r.text]
    assert f"physical {int(at, 0):#x}" in told and "in user mode: the process gets SIGSEGV" in told
    assert "mov eax, dword ptr [rax]" in told and told in done.err
