"""A guest reads and writes under the tracer what it reads and writes without.

A program of user space reaches several devices with every width at every offset, registers that
count or change by being read left out. How QEMU's TCG brings an unaligned access to a device, and
what the device makes of it, differs between versions: only the untraced run of the QEMU at hand
knows the value.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from vetrace_run import Run, boot, read_trace

from tracer.access.transfer import cut
from tracer.guest.initramfs import Entry, build_initramfs, cpio

pytestmark = pytest.mark.qemu

SOURCE = Path(__file__).parent.parent / "guest" / "probe.S"
PAGE = 4096
WIDTHS = (1, 2, 4, 8)
VALUE = 0x8877_6655_4433_2211


@dataclass(frozen=True, slots=True)
class Device:
    """Where a device is, physical or by PCI vendor and device, and which offsets are used.

    At ``written``, eight bytes are stored in all ways that begin there, and read back; ``last`` is
    stored in the end. Then loads of all widths begin at each offset of the ``spans``. In the
    ``hole`` nothing answers. The device may ``end`` within a page.
    """

    place: int | tuple[str, str]
    spans: tuple[tuple[int, int], ...]
    written: int | None = None
    hole: range = range(0)
    last: int = 0
    end: int | None = None

    def cut(self, access: Access) -> list[tuple[int, int]]:
        """The transfers of an access as offset and width: what is behind the end goes by itself."""
        end = self.end or PAGE
        return list(
            cut(access.offset, access.width, lambda at, n: min(n, end - at) if at < end else n)
        )


# Of the IOAPIC, register 1 is read, its version. The last spans go over the end of the region, or
# of the page into the next.
DEVICES = {
    "hpet": Device(0xFED0_0000, ((0x0, 0x10), (0x3F0, 0x400)), end=0x400),
    "ioapic": Device(0xFEC0_0000, ((0x0, 0x18), (0xFF8, 0x1000)), 0x0, last=1),
    "lapic": Device(0xFEE0_0000, ((0x30, 0x38),)),
    "edu": Device(("1234", "11e8"), ((0x0, 0x8), (0xFF8, 0x1000)), 0x4),
    "xhci": Device(
        ("1b36", "000d"), ((0x0, 0x20), (0x1FF8, 0x2000)), 0x1030, range(0x1FF8, 0x2000)
    ),
    "hda": Device(("8086", "2668"), ((0x0, 0x10), (0x40, 0x50), (0xFF8, 0x1000)), 0x40),
}
QEMU = ("--", "-device", "edu", "-device", "qemu-xhci", "-device", "intel-hda")

INIT = """\
#!/bin/sh
/bin/busybox mkdir -p /proc /sys /dev
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
dmesg -n 1
pci() {
    for device in /sys/bus/pci/devices/*; do
        [ "$(cat $device/vendor) $(cat $device/device)" = "0x$1 0x$2" ] || continue
        echo 1 > $device/enable
        read base end flags < $device/resource
        echo $base
    done
}
"""


@dataclass(frozen=True, slots=True)
class Access:
    """One access of the program: at an offset of the device, ``value`` for a store."""

    offset: int
    width: int
    value: int | None = None

    @property
    def entry(self) -> str:
        """The access as an entry of the program's table."""
        kind = WIDTHS.index(self.width) + (0 if self.value is None else 4)
        return f"    .long {self.offset}\n    .byte {kind}, 0, 0, 0\n    .quad {self.value or 0:#x}"


def accesses(device: Device) -> list[Access]:
    found: list[Access] = []
    if device.written is not None:
        for n in range(8):
            for width in WIDTHS:
                value = VALUE >> 8 * n & (1 << 8 * width) - 1
                found.append(Access(device.written + n, width, value))
                found += [Access(device.written, 4), Access(device.written + 4, 4)]
        found.append(Access(device.written, 4, device.last))
    found += [
        Access(at, width)
        for start, end in device.spans
        for at in range(start, end)
        for width in WIDTHS
    ]
    return found


def tables() -> str:
    """The file ``tables.S``."""
    lines = [".balign 8", "tables:"]
    lines += [f"    .quad table{n}, {len(accesses(d))}" for n, d in enumerate(DEVICES.values())]
    for number, device in enumerate(DEVICES.values()):
        lines += [f"table{number}:", *(access.entry for access in accesses(device))]
    return "\n".join([*lines, ""])


def script() -> str:
    lines = [INIT]
    for number, (name, device) in enumerate(DEVICES.items()):
        fixed = isinstance(device.place, int)
        base = f"{device.place:#x}" if fixed else f"$(pci {' '.join(device.place)})"
        # On one CPU, whose local APIC it is.
        lines += [f"echo device {name}", f"taskset 1 /probe {number} {base} || echo FAILED"]
    return "\n".join([*lines, "echo done", "poweroff -f", ""])


@pytest.fixture(scope="module")
def initrd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("initrd")
    programs = [shutil.which(name) for name in ("as", "ld")]
    assert None not in programs, "as and ld (Debian package binutils) are needed"
    (folder / "tables.S").write_text(tables())
    for command in (
        [programs[0], "--64", "-I", str(folder), "-o", "probe.o", str(SOURCE)],
        [programs[1], "-static", "-o", "probe", "probe.o"],
    ):
        subprocess.run(command, cwd=folder, check=True)
    (folder / "init").write_text(script())
    # The kernel takes several archives, one behind the other.
    program = Entry("probe", "file", 0o755, (folder / "probe").read_bytes())
    whole = folder / "initrd"
    whole.write_bytes(build_initramfs(folder / "init", None).read_bytes() + cpio([program]))
    return whole


def run(folder: Path, initrd: Path, *options: str) -> Run:
    # Drivers claim some of the devices; and the HPET as clock would be read all the time.
    words = "iomem=relaxed clocksource=acpi_pm"
    more = ("-smp", "2") if "--realtime" in options else ()
    head = ("--quiet", "--initrd", str(initrd), "--append", words)
    return boot(folder, *head, *options, *QEMU, *more)


def values(done: Run) -> dict[str, list[str]]:
    """What the program printed, by device."""
    assert done.status == 0, done.err + done.out
    found: dict[str, list[str]] = {}
    lines = done.serial
    for line in lines[: lines.index("done")]:
        if line.startswith("device "):
            found[line.removeprefix("device ")] = printed = []
        elif re.fullmatch("[0-9a-f]{16}", line):
            printed.append(line)
    for name, device in DEVICES.items():
        loads = [access for access in accesses(device) if access.value is None]
        assert len(found[name]) == len(loads), found[name][:4]
    return found


@pytest.fixture(scope="module")
def untraced(initrd: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    return values(run(tmp_path_factory.mktemp("untraced"), initrd, "--untraced"))


@pytest.mark.parametrize("options", [(), ("--realtime",)], ids=["icount", "two vCPUs"])
def test_every_width_at_every_offset(
    options: tuple[str, ...], initrd: Path, untraced: dict[str, list[str]], tmp_path: Path
) -> None:
    done = run(tmp_path, initrd, *options)
    traced = values(done)
    for name in DEVICES:
        assert traced[name] == untraced[name], name
        # A device that answers 0 to everything would show nothing.
        assert len(set(untraced[name])) > 1, name
    trace = read_trace(done.trace)
    recorded = [
        (access.direction, access.physical % PAGE, access.width, access.value)
        for record in trace.intercepts
        if record.cpl == 3
        for access in record.accesses
    ]
    expected = [
        ("read" if access.value is None else "write", linear % PAGE, width)
        for device in DEVICES.values()
        for access in accesses(device)
        # What is in a hole from end to end is no access to a device.
        if not {access.offset, access.offset + access.width - 1} <= set(device.hole)
        for linear, width in device.cut(access)
    ]
    assert [item[:3] for item in recorded] == expected
    assert all(value is not None for *_, value in recorded)
    assert {record.via for record in trace.intercepts if record.cpl == 3} == {"emulated"}
