"""A system as it is installed: its own boot loader starts its own kernel, which is traced."""

from __future__ import annotations

import hashlib
import platform
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import boot_loader
import pytest
from installed_system import ROOT_OFFSET, SAYS, installed_system
from vetrace_run import DEADLINE, Run, agreed, need, read_trace, vetrace

from tracer.access.symbols import KERNEL_HALF
from tracer.linux.kernel import default_kernel
from tracer.trace.marker import PHASE
from tracer.trace.phase import USER
from tracer.trace.record import Mark

pytestmark = pytest.mark.qemu

OVMF = Path("/usr/share/OVMF/OVMF_CODE_4M.fd")
BAD = re.compile(r"WARNING:|BUG:|Oops|Call Trace|\[FAILED\]|invalid physical|Unknown NMI")
"""A kernel or a service manager prints this when something is wrong."""


@pytest.fixture(scope="module")
def disk() -> Path:
    return installed_system(platform.freedesktop_os_release()["VERSION_CODENAME"])


def boot(folder: Path, *arguments: str | Path) -> Run:
    """Boot a whole system, which takes its time."""
    files = ("--serial", folder / "serial", "-o", folder / "trace.vtrace")
    with vetrace(folder, "boot", *files, *arguments) as running:
        return running.finish(5 * DEADLINE)


def debugfs(disk: Path, command: str) -> str:
    """Carry out a command on the image's root file system."""
    return subprocess.run(
        ["/sbin/debugfs", "-R", command, f"{disk}?offset={ROOT_OFFSET}"], check=True,
        capture_output=True, text=True,
    ).stdout  # fmt: skip


def taken_out(disk: Path, name: str, copy: Path) -> Path:
    debugfs(disk, f"dump {name} {copy}")
    return copy


def told(done: Run) -> tuple[str, str]:
    """Return the release and the firmware that the system itself tells of."""
    (line,) = [line for line in done.serial if line.startswith(SAYS)]
    release, firmware = line.removeprefix(SAYS).split()
    return release, firmware


def traced_to_its_end(done: Run, firmware: str, sha256: str = "") -> None:
    assert agreed(done) > 10_000
    release, begun_by = told(done)
    assert begun_by == firmware
    assert not [line for line in done.serial if BAD.search(line)]
    trace = read_trace(done.trace)
    assert (trace.header.kernel, trace.header.kernel_sha256) == (release, sha256)
    assert "root=/dev/vda2 ro console=ttyS0" in trace.header.command_line
    assert trace.end.outcome == "poweroff"
    symbols = [record.symbol or "" for record in trace.intercepts]
    assert any(name.endswith("[libahci]") for name in symbols)  # a module, by BTF out of RAM
    assert sum(name.startswith("iowrite16+") for name in symbols) > 100
    # Its APIC is mapped before anything else is.
    first = trace.intercepts[0]
    assert first.accesses[0].region == "lapic"


@pytest.mark.long
def test_grub_starts_it_under_bios(disk: Path, tmp_path: Path) -> None:
    before = disk.stat().st_mtime_ns
    done = boot(tmp_path, "--quiet", "--check", "--disk", disk)
    traced_to_its_end(done, "bios")
    assert any("GRUB starts Linux" in line for line in done.serial)
    assert "compiled at" in done.err
    assert disk.stat().st_mtime_ns == before


@pytest.mark.long
def test_grub_starts_it_under_uefi(disk: Path, tmp_path: Path) -> None:
    need(OVMF.exists(), "ovmf")
    done = boot(tmp_path, "--quiet", "--check", "--disk", disk, "--firmware", "uefi")
    traced_to_its_end(done, "uefi")


@pytest.mark.long
def test_from_the_reset_on_its_kernel_is_known_once_it_is_entered(
    disk: Path, tmp_path: Path
) -> None:
    done = boot(tmp_path, "--from-reset", "--quiet", "--check", "--disk", disk)
    assert agreed(done) > 10_000
    trace = read_trace(done.trace)
    assert {record.mode for record in trace.intercepts} >= {32, 64}  # firmware, and the kernel
    kernel = [record for record in trace.intercepts if record.rip >= KERNEL_HALF]
    assert all(record.symbol for record in kernel)
    assert any((record.symbol or "").endswith("[libahci]") for record in kernel)
    marks = {record.text for record in trace.records if isinstance(record, Mark)}
    assert {f"Linux {told(done)[0]} has been entered", f"{PHASE}{USER}"} <= marks


@pytest.mark.long
def test_the_next_debian_is_started_likewise(tmp_path: Path) -> None:
    debian = installed_system("trixie")
    untraced = boot(tmp_path / "untraced", "--untraced", "--disk", debian)
    assert untraced.status == 0, untraced.err
    assert not [line for line in untraced.serial if BAD.search(line)]
    done = boot(tmp_path / "traced", "--quiet", "--check", "--disk", debian)
    traced_to_its_end(done, "bios")
    assert told(done) == told(untraced)
    assert told(done)[0].startswith("6.12.")


@pytest.mark.long
def test_a_file_of_its_kernel_is_held_to_what_is_started(disk: Path, tmp_path: Path) -> None:
    other = default_kernel()
    assert other is not None
    refused = boot(tmp_path / "other", "--quiet", "--disk", disk, "--kernel-file", other)
    assert refused.status == 1
    assert f"and not {other}" in refused.err.splitlines()[-1]
    (name,) = re.findall(r"starts Linux (\S+), and not", refused.err)
    kernel = taken_out(disk, f"/boot/vmlinuz-{name}", tmp_path / "vmlinuz")
    done = boot(tmp_path / "own", "--quiet", "--check", "--disk", disk, "--kernel-file", kernel)
    traced_to_its_end(done, "bios", hashlib.sha256(kernel.read_bytes()).hexdigest())


@pytest.mark.long
def test_vetrace_starts_its_kernel_with_its_ramdisk(disk: Path, tmp_path: Path) -> None:
    (name,) = re.findall(r" vmlinuz-(\S+)", debugfs(disk, "ls /boot"))
    kernel = taken_out(disk, f"/boot/vmlinuz-{name}", tmp_path / "vmlinuz")
    done = boot(
        tmp_path, "--quiet", "--check", "--disk", disk, "--kernel", kernel,
        "--initrd", taken_out(disk, f"/boot/initrd.img-{name}", tmp_path / "initrd"),
        "--append", "root=/dev/vda2 ro console=ttyS0",
    )  # fmt: skip
    traced_to_its_end(done, "bios", hashlib.sha256(kernel.read_bytes()).hexdigest())


@pytest.mark.long
def test_untraced_it_says_the_same(disk: Path, tmp_path: Path) -> None:
    done = boot(tmp_path, "--untraced", "--disk", disk)
    assert done.status == 0, done.err
    assert told(done)[1] == "bios"
    assert not [line for line in done.serial if BAD.search(line)]


@pytest.mark.parametrize(
    ("image", "firmware"),
    [
        pytest.param(boot_loader.systemd_boot, "uefi", marks=pytest.mark.long),
        pytest.param(boot_loader.unified_image, "uefi", marks=pytest.mark.long),
        (boot_loader.isolinux, "bios"),
    ],
)
def test_another_loader_starts_a_kernel(
    image: Callable[[Path], Path], firmware: str, tmp_path: Path
) -> None:
    need(firmware == "bios" or OVMF.exists(), "ovmf")
    words = ("--quiet", "--check", "--disk", image(tmp_path), "--firmware", firmware)
    done = boot(tmp_path, *words)
    assert agreed(done) > 10_000
    assert not [line for line in done.serial if BAD.search(line)]
    (said,) = [line for line in done.serial if line.startswith(boot_loader.SAYS)]
    begun_by, command_line = said.removeprefix(boot_loader.SAYS).split(": ", 1)
    trace = read_trace(done.trace)
    assert begun_by == firmware
    assert boot_loader.COMMAND_LINE in command_line
    assert command_line == trace.header.command_line
    assert trace.end.outcome == "poweroff"
    first = trace.intercepts[0]
    assert first.accesses[0].region == "lapic"


def test_a_disk_that_nothing_can_be_started_from(tmp_path: Path) -> None:
    empty = tmp_path / "empty.raw"
    empty.write_bytes(bytes(1 << 20))
    done = boot(tmp_path, "--disk", empty)
    assert done.status == 1
    assert done.err.splitlines()[-1] == (
        f"vetrace: {empty}: the BIOS found nothing to start: No bootable device; is it the image "
        "of a whole disk? One for UEFI: --firmware uefi"
    )


def test_a_script_that_fails_in_the_guest_is_told(tmp_path: Path) -> None:
    script = tmp_path / "fails.sh"
    script.write_text("#!/bin/sh\nexit 3\n")
    done = boot(tmp_path, "--init", script, "--quiet")
    assert done.status == 1
    assert done.err.splitlines()[-1] == (
        f"vetrace: the script {script} ended with status 3 in the guest: its console says why "
        "(--serial FILE keeps it)"
    )
