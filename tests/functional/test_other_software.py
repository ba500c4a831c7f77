"""Software that is no Linux and no firmware of QEMU's, traced from the CPU's reset on."""

from __future__ import annotations

from pathlib import Path

import pytest
from other_software import u_boot, xen
from vetrace_run import Run, agreed, boot

from tracer.linux.kernel import default_kernel

pytestmark = [pytest.mark.qemu, pytest.mark.long]


def regions(done: Run) -> set[str]:
    """Return the regions that are in the comparison."""
    rows = [line.split() for line in done.out.splitlines()]
    return {row[0] for row in rows if len(row) == 6 and row[1].replace(",", "").isdigit()}


def test_a_hypervisor_starts_and_refuses_the_kernel_above_it(tmp_path: Path) -> None:
    image, kernel = xen(tmp_path), default_kernel()
    assert kernel is not None
    words = (
        "--from-reset", "--quiet", "--check", "--kernel", image, "--initrd", kernel,
        "--memory", "1G", "--append", "com1=115200,8n1 console=com1",
    )  # fmt: skip
    done, least = boot(tmp_path / "icount", *words), 50_000
    if "Bad icount read" in done.err:  # QEMU 10 under Xen 4.20, without vetrace as well
        assert "boot that with --realtime" in done.err
        done, least = boot(tmp_path / "realtime", *words, "--realtime"), 1_000
    assert done.status == 0, done.err
    said = "\n".join(done.serial)
    assert "(XEN) ENABLING IO-APIC IRQs" in said, said[-2000:]
    assert agreed(done) > least
    assert {"hpet", "ioapic", "lapic", "ecam", "nvme"} <= regions(done)


def test_another_firmware_finds_a_disk(tmp_path: Path) -> None:
    disk = tmp_path / "empty.raw"
    disk.write_bytes(bytes(8 << 20))
    done = boot(
        tmp_path, "--from-reset", "--quiet", "--check", "--disk", disk, "-e", "until 4s; quit",
        "--", "-bios", u_boot(tmp_path),
    )  # fmt: skip
    assert done.status == 0, done.err
    said = "\n".join(done.serial)
    # Debian 13's U-Boot looks for what to start in another way, and tells no capacity.
    later = "U-Boot 2025" in said
    found = "Scanning bootdev 'virtio-blk#0.bootdev'" if later else "Capacity: 8.0 MB"
    assert "U-Boot" in said and found in said, said[-2000:]
    assert agreed(done) > 1_000
    assert {"disk.common", "ich9-ahci.ahci", "lapic"} <= regions(done)
