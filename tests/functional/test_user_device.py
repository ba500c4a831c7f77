"""A program of a confidential guest that reaches a device: it is killed, the guest lives, all told.

The kernel's handlers of #VE and #VC carry out what the kernel itself does alone (Linux
arch/x86/coco/tdx/tdx.c, virt_exception_user; arch/x86/coco/sev/vc-handle.c, vc_handle_mmio, from
6.6 on and in stable kernels).
"""

from __future__ import annotations

from dataclasses import dataclass
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


@dataclass(frozen=True)
class Death:
    """A program gets a signal of its kernel, and a line on the console tells."""

    name: str
    number: int
    line: str


DEATHS = {
    Kind.TDX: Death("SIGSEGV", 11, "Unexpected #VE: 48"),
    Kind.SEV_ES: Death("SIGBUS", 7, "Unsupported exit-code 0x400 in #VC exception"),
}


@pytest.mark.parametrize(
    ("kind", "way"),
    [
        (Kind.TDX, ()),
        pytest.param(Kind.TDX, ("--every-stop",), marks=pytest.mark.long),
        (Kind.SEV_ES, ()),
    ],
    ids=["module", "stops", "sev-es"],
)
def test_a_program_that_reaches_a_device_dies_and_the_guest_lives(
    kind: Kind, way: tuple[str, ...], tmp_path: Path
) -> None:
    death = DEATHS[kind]
    ramdisk = initrd(tmp_path, assemble(tmp_path, "bar"), COMMANDS)
    done = boot(
        tmp_path, "--guest", kind, "--kernel", kernel_for(kind), "--quiet", "--check",
        "--initrd", ramdisk, "--append", "loglevel=7", *way,
    )  # fmt: skip
    assert agreed(done) > 0, done.serial
    assert f"bar: status {128 + death.number}" in done.serial  # as a shell tells it
    assert any(death.line in line for line in done.serial)
    trace = read_trace(done.trace)
    assert trace.end.outcome == "poweroff" and trace.end.counts["given_up"] == 1
    at = next(line for line in done.serial if line.startswith("bar: at ")).split()[2]
    (told,) = [r.text for r in trace.records if isinstance(r, Mark) and "did not ask" in r.text]
    assert f"physical {int(at, 0):#x}" in told
    assert f"in user mode: the process gets {death.name}" in told
    assert "mov eax, dword ptr [rax]" in told and told in done.err
