"""QEMU's log of a run: what is in it, how it tells what the vCPU does, and when it is cut."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from bare_guest import DEVICE, DEVICE_LINEAR, REGION, Case, assemble
from vetrace_run import Run, agreed, boot, read_trace, run

from tracer.check.qemu_log import LogEntry, entries
from tracer.guest.initramfs import build_initramfs
from tracer.trace.record import Mark

pytestmark = pytest.mark.qemu

PORTS = 1 << 16
# The second page of the device, where no case has a slot.
WIDE = {"rdi": DEVICE_LINEAR + 0x1200}

# What the vCPU does by itself, in pieces that follow from its microcode and the device, and what is
# emulated beside it.
CASES = [
    Case("mov edx, 0x80; mov ecx, 5; rep insb", []),
    Case("mov edx, 0x80; insd; insw; mov byte ptr [rdi], 1", []),
    Case("fxsave64 [rdi]; mov dword ptr [rdi + 4], 0x1f80", [], WIDE),
    Case("fxsave64 [rdi]; fxsave64 [rdi]; fxrstor64 [rdi]; mov eax, [rdi]", [], WIDE),
    Case("mov eax, 7; xor edx, edx; xsave64 [rdi]; mov eax, [rdi + 512]", [], WIDE),
    Case("fnsave [rdi]; frstor [rdi]; mov [rdi], eax", [], WIDE),
    Case("vpxor ymm1, ymm1, ymm1; vpcmpeqd ymm2, ymm2, ymm2;"
         " vpgatherdd ymm0, [rdi + ymm1 * 4], ymm2; mov eax, [rdi]", []),
    Case("vpcmpeqd ymm2, ymm2, ymm2; vmaskmovps [rdi], ymm2, ymm2; mov eax, [rdi]", []),
    Case("pcmpeqd xmm2, xmm2; maskmovdqu xmm2, xmm2; mov eax, [rdi]", []),
    # unaligned, by every width
    Case("mov ax, [rdi + 1]; mov eax, [rdi + 1]; mov rax, [rdi + 3]; movups xmm0, [rdi + 5]", []),
    Case("mov [rdi + 3], ax; mov [rdi + 1], eax; mov [rdi + 5], rax; movups [rdi + 7], xmm0", []),
    Case("addps xmm1, [rdi]; vaddps ymm1, ymm1, [rdi + 1]; fadd qword ptr [rdi + 3]", []),
    Case("fld tbyte ptr [rdi + 1]; fstp tbyte ptr [rdi + 6]; mov eax, [rdi]", []),
]  # fmt: skip


def test_what_the_vcpu_does_by_itself_is_known_in_the_log(tmp_path: Path) -> None:
    guest = assemble(tmp_path, CASES)
    done = boot(
        tmp_path,
        "--kernel", guest, "--check", "--quiet", "--region", REGION,
        "--", *DEVICE,
    )  # fmt: skip
    assert agreed(done) >= 40
    said = [line for line in done.serial if line.startswith("case ")]
    assert [line for line in said if " ok" in line] == said and len(said) == len(CASES)


UNALIGNED = """\
#!/bin/sh
/bin/busybox mkdir -p /proc /sys /dev /tmp
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
reads() {
    for width in 16 32 64; do
        for offset in 1 2 3 4 5 6 7; do
            devmem $(($1 + offset)) $width > /tmp/value
        done
    done
}
reads 0xfed00000
reads 0xfec00010
reads 0xfee00030
devmem 0xfee00081 32 0
for device in /sys/bus/pci/devices/*; do
    [ "$(cat $device/vendor)" = 0x1234 ] || continue
    echo 1 > $device/enable
    read start end flags < $device/resource
    reads $start
    devmem $((start + 0x81)) 32 0x11223344
    devmem $((start + 0x83)) 16 0x5566
    devmem $((start + 0x85)) 64 0x1122334455667788
done
poweroff -f
"""


def test_unaligned_accesses_agree(tmp_path: Path) -> None:
    (tmp_path / "init").write_text(UNALIGNED)
    words = ("--initrd", build_initramfs(tmp_path / "init", None), "--append", "iomem=relaxed")
    chosen = ("--region", "hpet", "--region", "ioapic", "--region", "lapic", "--region", "edu")
    done = boot(tmp_path, "--quiet", "--check", *words, *chosen, "--", "-device", "edu")
    assert agreed(done) > 500
    edu = [
        a for r in read_trace(done.trace).intercepts for a in r.accesses if a.region == "edu.mmio"
    ]
    assert len(edu) >= 24


# ---- what is in the log


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A boot of which the NVMe disk alone is traced, with its log."""
    folder = tmp_path_factory.mktemp("chosen")
    log = ("--qemu-log", folder / "qemu.log")
    return boot(folder, "--quiet", "--check", *log, "--region", "nvme")


def logged(done: Run, offset: int = 0) -> list[LogEntry]:
    with done.qemu_log.open("rb") as log:
        return list(entries(log, offset))


def test_accesses_are_logged_from_the_kernels_entry_on(chosen: Run) -> None:
    marks = [r for r in read_trace(chosen.trace).records if isinstance(r, Mark)]
    first, last = (mark.qemu_log_offset for mark in marks if mark.qemu_log_offset is not None)
    assert 0 < first < last == chosen.qemu_log.stat().st_size
    assert logged(chosen) == logged(chosen, first) != []


def test_what_was_not_looked_at_is_told(chosen: Run) -> None:
    assert agreed(chosen) > 100
    (line,) = [x for x in chosen.out.splitlines() if x.startswith("accessed by vCPUs and not")]
    told = dict(item.rsplit(" ", 1) for item in line.partition(": ")[2].split(", "))
    counts = Counter(
        e.name for e in logged(chosen) if e.cpu >= 0 and e.address >= PORTS and not e.refused
    )
    # The messages that devices send to the local APIC are no accesses of a vCPU.
    assert {"hpet", "ioapic", "lapic", "virtio-blk.common", "virtio-net.notify"} <= set(told)
    assert told["hpet"] == f"{counts['hpet']:,}" and told["ioapic"] == f"{counts['ioapic']:,}"
    assert "nvme" not in told and not {"serial", "rtc-index", "pci-conf-data"} & set(told)
    found = run(chosen.folder, "verify", "--json", chosen.trace, "--qemu-log", chosen.qemu_log)
    assert found.status == 0, found.err
    overlooked = json.loads(found.out)["overlooked"]
    assert {item["region"]: f"{item['accesses']:,}" for item in overlooked} == told


def test_a_doorbell_is_in_the_log_of_an_untraced_guest(tmp_path: Path) -> None:
    done = run(tmp_path, "boot", "--untraced", "--quiet", "--qemu-log", tmp_path / "qemu.log")
    assert done.status == 0, done.err
    names = Counter(e.name for e in logged(done) if e.direction == "write")
    assert names["virtio-pci-notify-virtio-blk"] > 5 and names["virtio-pci-notify-virtio-net"] > 0


# A disk with an I/O thread cannot do without its ioeventfd, and one without virtio has none.
def test_a_machine_that_needs_its_ioeventfd_starts(tmp_path: Path) -> None:
    drive = "if=none,id=more,driver=null-co,size=1M"
    disk = ("-object", "iothread,id=io", "-drive", drive)
    device = ("-device", "virtio-blk-pci,drive=more,iothread=io")
    done = boot(tmp_path, "--quiet", "--check", "--region", "nvme", "--", *disk, *device)
    assert agreed(done) > 100


# ---- a log that is cut


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_log_that_did_not_fit_on_the_disk(tmp_path: Path, small_disk: Path) -> None:
    log = small_disk / "qemu.log"
    done = boot(tmp_path, "--quiet", "--check", "--qemu-log", log)
    assert done.status == 1, done.out
    assert re.search(r"^vetrace: .*: the log is cut at its line [\d,]+, [\d,]+ accesses before",
                     done.err, re.MULTILINE), done.err  # fmt: skip
    assert log.stat().st_size == 2 << 20


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9999])
def test_a_log_that_was_cut_between_two_lines(chosen: Run, tmp_path: Path, kept: float) -> None:
    lines = chosen.qemu_log.read_bytes().splitlines(keepends=True)
    log = tmp_path / "cut.log"
    log.write_bytes(b"".join(lines[: int(len(lines) * kept)]))
    done = run(tmp_path, "verify", chosen.trace, "--qemu-log", log)
    assert done.status == 1
    assert "the log is cut" in done.err
