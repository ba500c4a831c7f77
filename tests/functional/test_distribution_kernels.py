"""Debian's full and real-time kernels, whose drivers are modules and which map much RAM early."""

from __future__ import annotations

import functools
import hashlib
import random
import re
from collections import Counter
from pathlib import Path

import pytest
from debian_kernel import downloaded
from vetrace_run import Run, Trace, agreed, boot, drove_its_devices, read_trace, run

from tracer.guest import recipe
from tracer.guest.initramfs import build_initramfs
from tracer.host.package import fetch_kernel, newest_kernel
from tracer.linux.kernel import open_kernel
from tracer.trace.record import MapRecord, StackRecord
from tracer.x86.state import PAGE_SIZE

pytestmark = pytest.mark.qemu

MODULES_AT = 0xFFFF_FFFF_C000_0000
"""Modules lie from here on (Linux: Documentation/arch/x86/x86_64/mm.rst)."""
FULL, REAL_TIME = "linux-image-amd64", "linux-image-rt-amd64"


@functools.cache
def kernel_of(metapackage: str) -> Path:
    """Return the kernel of a flavour, downloaded the first time that a test wants it."""
    return downloaded(f"of {metapackage}", lambda: fetch_kernel(newest_kernel(metapackage)))


def regions(trace: Trace) -> Counter[str | None]:
    return Counter(a.region for record in trace.intercepts for _, a in record.device_accesses())


# ---- the price of a hook


@pytest.mark.parametrize("metapackage", [FULL, pytest.param(REAL_TIME, marks=pytest.mark.long)])
def test_stops_for_mappings_are_as_few_as_in_the_default_guest(
    metapackage: str, traced: Run, tmp_path: Path
) -> None:
    # A real-time kernel's own messages come in the middle of a program's: warnings alone will do.
    words = ("--module", "ahci", "--module", "nvme-core", "--append", "loglevel=5")
    kernel = kernel_of(metapackage)
    done = boot(tmp_path, "--quiet", "--check", "--kernel", kernel, *words)
    agreed(done)
    said = drove_its_devices(done)
    assert "module nvme" in said and "module ahci" in said
    assert said.index("module nvme_core") < said.index("module nvme") < said.index("module ahci")
    trace = read_trace(done.trace)
    assert {"nvme", "virtio-blk.common", "virtio-net.common", "ich9-ahci.ahci"} <= set(
        regions(trace)
    )
    assert any((record.symbol or "").endswith("[libahci]") for record in trace.intercepts)
    usual = read_trace(traced.trace).end.counts
    counts = trace.end.counts
    assert 0 < counts["hooks"] <= 2 * usual["hooks"]
    assert counts["ram_hooks"] < counts["hooks"]
    (told,) = re.findall(
        r"stops, (\d+) of them for mappings, (\d+) of these of RAM$", done.err, re.M
    )
    assert tuple(map(int, told)) == (counts["hooks"], counts["ram_hooks"])


# ---- modules


def test_a_module_that_is_nowhere_is_refused(tmp_path: Path) -> None:
    done = run(tmp_path, "boot", "--kernel", kernel_of(FULL), "--module", "e1000f")
    assert done.status == 2
    (complaint,) = done.complaints
    assert "no module e1000f in " in complaint
    assert "did you mean e1000e?" in complaint or "did you mean e1000?" in complaint


# ---- a machine full of devices

MODULES = ("ahci", "sd_mod", "e1000e", "xhci-pci", "usb-storage", "sdhci_pci", "mmc-block")
DRIVEN = {"ich9-ahci", "e1000e", "base-xhci", "xhci", "sdhci", "intel-iommu", "edu", "nvme"}
DISK_SIZE = 1 << 20

# No driver of Linux touches QEMU's teaching device: its registers are reached through /dev/mem.
EDU = """\
for device in /sys/bus/pci/devices/*; do
    [ "$(cat $device/vendor) $(cat $device/device)" = "0x1234 0x11e8" ] || continue
    echo 1 > $device/enable
    read start end flags < $device/resource
    devmem $((start + 4)) 32 0x12345678
    say edu "$(devmem $start 32)" "$(devmem $((start + 4)) 32)"
done
"""


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Disks of noise, by the name that the guest gives them."""
    folder = tmp_path_factory.mktemp("disks")
    found = {name: folder / name for name in ("sda", "sdb", "mmcblk0")}
    for name, path in found.items():
        path.write_bytes(random.Random(name).randbytes(DISK_SIZE))
    return found


def machine(
    folder: Path, disks: dict[str, Path], *options: str, extra: tuple[str, ...] = ()
) -> Run:
    """A boot of the full flavour with a driver for every device, checked."""
    script = recipe.init_script().read_text()
    assert script.count("say done\n") == 1
    (folder / "init").write_text(script.replace("say done\n", EDU + "say done\n"))
    kernel = kernel_of(FULL)
    initrd = build_initramfs(folder / "init", open_kernel(kernel).modules, MODULES)
    drives = [
        word
        for name, path in disks.items()
        for word in ("-drive", f"if=none,id={name},format=raw,snapshot=on,file={path}")
    ]
    return boot(
        folder, "--quiet", "--check", *options, "--kernel", kernel, "--initrd", initrd,
        "--append", "intel_iommu=on", "--",
        # TCG remaps the interrupts of an IO-APIC that is QEMU's own.
        "-machine", "kernel-irqchip=split", "-device", "intel-iommu,intremap=on",
        "-netdev", "user,id=second,restrict=on",
        "-device", "e1000e,id=e1000e,netdev=second,romfile=",
        *drives,
        "-device", "ide-hd,drive=sda,bus=ide.0",
        "-device", "qemu-xhci,id=xhci", "-device", "usb-storage,drive=sdb,bus=xhci.0",
        "-device", "sdhci-pci,id=sdhci", "-device", "sd-card,drive=mmcblk0",
        "-device", "edu,id=edu",
        # QEMU's log has no entry for a doorbell that an ioeventfd takes.
        "-global", "virtio-blk-pci.ioeventfd=off", "-global", "virtio-net-pci.ioeventfd=off",
        *extra,
    )  # fmt: skip


@pytest.fixture(scope="module")
def full_machine(disks: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Run:
    return machine(tmp_path_factory.mktemp("full"), disks, "--stacks")


@pytest.mark.long
def test_a_full_machine_makes_its_accesses_by_itself(
    disks: dict[str, Path], tmp_path: Path
) -> None:
    done = machine(tmp_path, disks)
    agreed(done)
    drove_its_devices(done)
    trace = read_trace(done.trace)
    assert {(region or "").partition(".")[0] for region in regions(trace)} >= DRIVEN
    counts = trace.end.counts
    assert counts["compiled"] >= 0.95 * counts["accesses"] and not counts.get("disagreements")


@pytest.mark.long
def test_four_vcpus_in_real_time(disks: dict[str, Path], tmp_path: Path) -> None:
    done = machine(tmp_path, disks, "--realtime", extra=("-smp", "4"))
    agreed(done)
    drove_its_devices(done)
    trace = read_trace(done.trace)
    assert {record.vcpu for record in trace.intercepts} == {0, 1, 2, 3}
    counts = trace.end.counts
    assert counts["compiled"] >= 0.95 * counts["accesses"] and not counts.get("disagreements")


@pytest.mark.long
def test_registers_that_ports_show_too_and_regions_in_pieces(tmp_path: Path) -> None:
    modules = ("--module", "8139cp", "--module", "bochs")
    devices = ("-device", "rtl8139", "-device", "bochs-display")
    kernel = kernel_of(FULL)
    done = boot(tmp_path, "--quiet", "--check", "--kernel", kernel, *modules, "--", *devices)
    agreed(done)
    found = regions(read_trace(done.trace))
    assert found["rtl8139"] and found["bochs-display.mmio"]
    replayed = run(tmp_path, "replay", done.trace)
    assert replayed.status == 0, replayed.err


def test_every_device_of_a_full_machine_agrees_with_qemus_log(full_machine: Run) -> None:
    agreed(full_machine)
    trace = read_trace(full_machine.trace)
    assert {(region or "").partition(".")[0] for region in regions(trace)} >= DRIVEN
    assert not trace.end.counts.get("stepped")


def test_the_guest_reads_every_disk_and_uses_every_network_card(
    full_machine: Run, disks: dict[str, Path]
) -> None:
    said = drove_its_devices(full_machine)
    for name, path in disks.items():
        assert f"disk {name} {hashlib.sha256(path.read_bytes()).hexdigest()}" in said
    assert any(re.fullmatch(r"network eth1 [0-9a-f:]{17} reachable", line) for line in said)
    assert "edu 0x010000ED 0xEDCBA987" in said
    for name in MODULES:
        assert f"module {name.replace('-', '_')}" in said
    complaints = ("invalid memtype", "WARNING", "BUG", "Unknown symbol", "DMAR: [DMA")
    assert not [line for line in full_machine.serial if any(word in line for word in complaints)]


# Modules that lie where others were, and where they were themselves.
RELOADED = """\
#!/bin/sh
/bin/busybox mkdir -p /proc /sys /dev
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
load() { for name in $*; do insmod /lib/modules/$name.ko || echo FAILED $name; done; }
unload() { for name in $*; do rmmod $name || echo FAILED $name; done; }
while read -r module; do insmod /lib/modules/$module; done < /lib/modules/order
unload e1000e ahci libahci
for turn in 1 2; do
    load e1000e libahci ahci
    unload e1000e ahci libahci
    load libahci ahci e1000e
    unload e1000e ahci libahci
done
# The card's registers move, there or where the kernel likes them better. Its slot is 8, and the
# address of MMCONFIG is q35's.
card=/sys/bus/pci/devices/0000:00:08.0
read start end flags < $card/resource
echo 1 > $card/remove
devmem $((0xb0000000 + (8 << 15) + 0x10)) 32 0xd0000000
echo 1 > /sys/bus/pci/rescan
read moved end flags < $card/resource
load e1000e
echo "from $start to $moved"
echo done
poweroff -f
"""


@pytest.mark.long
def test_another_module_comes_to_the_place_of_one_that_makes_accesses_by_itself(
    tmp_path: Path,
) -> None:
    kernel = kernel_of(FULL)
    (tmp_path / "init").write_text(RELOADED)
    modules = open_kernel(kernel).modules
    initrd = build_initramfs(tmp_path / "init", modules, ("ahci", "e1000e"))
    done = boot(
        tmp_path, "--quiet", "--check", "--kernel", kernel, "--initrd", initrd,
        "--append", "iomem=relaxed", "--",
        "-netdev", "user,id=second,restrict=on",
        "-device", "e1000e,id=e1000e,netdev=second,romfile=,addr=8",
        "-drive", "if=none,id=sda,driver=null-co,size=1M", "-device", "ide-hd,drive=sda,bus=ide.0",
    )  # fmt: skip
    agreed(done)
    assert "done" in done.serial and not any("FAILED" in line for line in done.serial)
    trace = read_trace(done.trace)
    assert not trace.end.counts.get("disagreements")
    owners: dict[int, set[str]] = {}
    for record in trace.intercepts:
        module = (record.symbol or "").partition("[")[2].rstrip("]")
        region = record.accesses[0].region or ""
        if module in ("e1000e", "libahci", "ahci"):
            assert region.startswith("e1000e" if module == "e1000e" else "ich9-ahci"), record
            owners.setdefault(record.rip // PAGE_SIZE, set()).add(module)
        elif region.startswith(("e1000e.", "ich9-ahci.")):
            assert record.rip < MODULES_AT, record
    assert any("e1000e" in modules and len(modules) > 1 for modules in owners.values()), owners
    places = {
        access.physical - (access.offset or 0) for record in trace.intercepts
        for access in record.accesses if access.region == "e1000e.mmio"
    }  # fmt: skip
    assert len(places) == 2, places
    # Each loading anew finds its sites again where it lies where it was.
    counts = trace.end.counts
    assert counts["compiled"] > 0.8 * counts["accesses"]


def test_device_memory_is_followed_before_the_allocator_runs(full_machine: Run) -> None:
    # Linux reads the capabilities of VT-d through early_ioremap (detect_intel_iommu).
    trace = read_trace(full_machine.trace)
    maps = [record for record in trace.records if isinstance(record, MapRecord)]
    early = [record for record in maps if record.by == "early_ioremap"]
    assert early and all("intel-iommu" in record.regions[0] for record in early)
    first = next(r for r in trace.intercepts if "intel-iommu" in (r.accesses[0].region or ""))
    assert (first.symbol or "").startswith("dmar_")


def test_names_and_stacks_hold_as_modules_come_and_go(full_machine: Run) -> None:
    trace = read_trace(full_machine.trace)
    stacks = {r.id: r for r in trace.records if isinstance(r, StackRecord)}
    assert not [stack.lost for stack in stacks.values() if stack.lost]
    # Each device is driven by its own modules, on whoever's freed memory they lie.
    drivers = {
        "e1000e.mmio": {"e1000e"}, "sdhci": {"sdhci", "sdhci_pci"},
        "ich9-ahci.ahci": {"ahci", "libahci"}, "base-xhci.doorbell": {"xhci_hcd"},
        "nvme": {"nvme"},
    }  # fmt: skip
    for region, modules in drivers.items():
        own = [r for r in trace.intercepts if r.accesses[0].region == region]
        assert own, region
        for record in own:
            assert record.stack is not None
            callers = [frame.symbol or "" for frame in stacks[record.stack].frames]
            assert modules & {name.rpartition("[")[2].rstrip("]") for name in callers}, callers
