"""Devices named as a person names them, and memory maps that do not stay as they were."""

from __future__ import annotations

from pathlib import Path

import pytest
from vetrace_run import Run, agreed, boot, read_trace, run

from tracer.guest.initramfs import build_initramfs
from tracer.trace.record import Mark

pytestmark = pytest.mark.qemu

START = """\
#!/bin/sh
/bin/busybox mkdir -p /proc /sys /dev
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
# Prints the folders of the PCI functions of a class: 0x0c0330 is xHCI.
of_class() {
    for device in /sys/bus/pci/devices/*; do
        [ "$(cat $device/class)" = "$1" ] && echo $device
    done
}
"""
"""What the init scripts here have in common."""

XHCI = """
for device in $(of_class 0x0c0330); do
    echo 1 > $device/enable
    read start end flags < $device/resource
    echo "capabilities $(devmem $start 32) vectors $(devmem $((start + 0x3000)) 32)"
done
poweroff -f
"""
"""Reads a register of each controller, which are QEMU's base-xhci's, and of its MSI-X table."""


def initrd(folder: Path, script: str) -> Path:
    init = folder / "init"
    init.write_text(START + script)
    return build_initramfs(init, None)


def regions(done: Run) -> set[str | None]:
    """The regions that the trace has accesses to."""
    return {a.region for r in read_trace(done.trace).intercepts for a in r.accesses}


CONTROLLERS = ("--", "-device", "qemu-xhci", "-device", "qemu-xhci,id=usb")


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        ("qemu-xhci", {"base-xhci.capabilities", "qemu-xhci.msix-table"}),
        ("usb", {"base-xhci#2.capabilities", "usb.msix-table"}),
    ],
)
def test_a_device_is_all_its_parts(wanted: str, names: set[str], tmp_path: Path) -> None:
    options = ("--quiet", "--check", "--initrd", initrd(tmp_path, XHCI), "--region", wanted)
    done = boot(tmp_path, *options, *CONTROLLERS)
    assert agreed(done)
    assert names <= regions(done) <= {*names, None}
    assert "is not traced" not in done.err
    # The trace is asked by the same names.
    shown = run(tmp_path, "show", done.trace, "--region", wanted, "--json")
    assert {item["region"] for item in shown.objects} == names
    other = run(tmp_path, "show", done.trace, "--region", "nothing")
    assert other.status == 2


def test_parts_left_out_are_told(tmp_path: Path) -> None:
    options = ("--quiet", "--initrd", initrd(tmp_path, XHCI), "--region", "base-xhci")
    done = boot(tmp_path, *options, *CONTROLLERS)
    assert done.status == 0, done.err
    assert regions(done) == {"base-xhci.capabilities"}
    told = "base-xhci is a part of qemu-xhci, of which is not traced: qemu-xhci.msix-table"
    assert told in done.err
    records = read_trace(done.trace).records
    assert any(isinstance(record, Mark) and told in record.text for record in records)


def test_bypass_of_a_device_is_of_all_its_parts(tmp_path: Path) -> None:
    done = run(tmp_path, "regions", "--json", "--bypass", "usb", *CONTROLLERS)
    assert done.status == 0, done.err
    untraced = {item["name"] for item in done.objects if not item["traced"]}
    assert {name for name in untraced if "msix" not in name} == {
        item["name"] for item in done.objects if item["within"] == ["usb"]
    }
    assert {"usb.msix-table", "usb.msix-pba"} <= untraced
