"""Devices beyond the default guest's, reached from user space; wall-clock time; several vCPUs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from vetrace_run import agreed, boot, read_trace, run

from tracer.guest.initramfs import build_initramfs

pytestmark = pytest.mark.qemu

# Stands in for qemu/init: no modules, no disks; the edu device's registers through /dev/mem.
INIT = """\
#!/bin/sh
/bin/busybox mkdir -p /proc /sys /dev
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
echo "vcpus $(grep -c ^processor /proc/cpuinfo)"
for device in /sys/bus/pci/devices/*; do
    [ "$(cat $device/vendor) $(cat $device/device)" = "0x1234 0x11e8" ] || continue
    echo 1 > $device/enable
    read start end flags < $device/resource
    echo "identification $(devmem $start 32)"
    devmem $((start + 4)) 32 0x12345678
    echo "inverted $(devmem $((start + 4)) 32)"
done
poweroff -f
"""


@pytest.fixture(scope="module")
def initrd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    init = tmp_path_factory.mktemp("initrd") / "init"
    init.write_text(INIT)
    return build_initramfs(init, None)


def test_user_space_and_the_vga_window(initrd: Path, tmp_path: Path) -> None:
    regions = ("--region", "edu", "--region", "vga.window")
    devices = ("--", "-device", "edu", "-device", "VGA")
    done = boot(tmp_path, "--quiet", "--check", "--initrd", initrd, *regions, *devices)
    trace = read_trace(done.trace)
    assert agreed(done) > 1000
    assert "identification 0x010000ED" in done.serial
    assert "inverted 0xEDCBA987" in done.serial
    edu = [r for r in trace.intercepts if r.accesses[0].region == "edu.mmio"]
    assert [(a.direction, a.offset, a.width, a.value) for r in edu for a in r.accesses] == [
        ("read", 0x0, 4, 0x10000ED),
        ("write", 0x4, 4, 0x12345678),
        ("read", 0x4, 4, 0xEDCBA987),
    ]
    assert {record.cpl for record in edu} == {3}
    # Healed before they went: Linux reads their physical address out of the page-table entry.
    complaints = ("invalid memtype", "WARNING", "BUG")
    assert not [line for line in done.serial if any(word in line for word in complaints)]
    others = {a.region for r in trace.intercepts for a in r.accesses} - {"edu.mmio", None}
    assert others == {"vga.window"}


def test_wall_clock_time_and_two_vcpus(initrd: Path, tmp_path: Path) -> None:
    # Every reading of the HPET as clock would take longer than the time between two of them.
    words = ("--append", "clocksource=acpi_pm")
    options = ("--quiet", "--check", "--realtime", "--initrd", initrd, "--bypass", "lapic", *words)
    done = boot(tmp_path, *options, "--", "-smp", "2")
    trace = read_trace(done.trace)
    assert agreed(done) > 500
    assert "vcpus 2" in done.serial
    assert trace.header.clock == "realtime"
    assert trace.header.vcpus == 2
    counts = trace.end.counts
    strays = counts.get("strays", 0)
    assert counts["stops"] == counts["intercepts"] + counts["hooks"] + strays
    assert "lapic" not in {a.region for r in trace.intercepts for a in r.accesses}


@pytest.mark.parametrize("smp", ["2", "sockets=2", "1,maxcpus=4,cpus=3", "cores=2,threads=1"])
def test_several_vcpus_need_wall_clock_time(tmp_path: Path, smp: str) -> None:
    done = boot(tmp_path, "--", "-smp", smp)
    assert done.status == 2
    assert "--realtime" in done.err


def test_a_guest_of_one_vcpu_that_could_have_more_needs_none(tmp_path: Path) -> None:
    done = run(tmp_path, "regions", "--", "-smp", "1,maxcpus=4")
    assert done.status == 0, done.err


@pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="there is no KVM")
def test_kvm_is_refused(tmp_path: Path) -> None:
    done = boot(tmp_path, "--realtime", "--", "-enable-kvm", "-cpu", "qemu64")
    assert done.status == 2 and "TCG" in done.err


def test_regions(tmp_path: Path) -> None:
    done = run(tmp_path, "regions", "--json", "--bypass", "nvme", "--", "-device", "VGA")
    assert done.status == 0, done.err
    traced = {item["name"]: item["traced"] for item in done.objects}
    assert {name for name in traced if not traced[name]} == {
        "nvme", "nvme.msix-table", "nvme.msix-pba", "vga.window",
    }  # fmt: skip
    assert {"ioapic", "lapic", "hpet", "ecam", "virtio-net.common"} <= set(traced)
    by_name = {item["name"]: item for item in done.objects}
    assert by_name["hpet"]["start"] == "0xfed00000"
    assert by_name["hpet"]["size"] == 0x400
    assert by_name["ioapic"]["qemu_name"] == "ioapic"
