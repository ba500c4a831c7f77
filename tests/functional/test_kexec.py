"""A guest that starts another kernel: nested traps go on, and entries end with one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from guest_program import assemble, initrd
from vetrace_run import agreed, boot, read_trace

from tracer.guest.initramfs import Entry, cpio
from tracer.linux.kernel import default_kernel

pytestmark = pytest.mark.qemu


@pytest.fixture(scope="module")
def ramdisk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kexec")
    kernel = default_kernel()
    assert kernel is not None, "no guest kernel: run scripts/setup"
    program = assemble(folder, "kexec")
    second = cpio(
        (
            Entry("dev", "folder"),
            Entry("dev/console", "char", 0o600, device=(5, 1)),
            Entry("init", "file", content=program.read_bytes()),
        )
    )
    first = initrd(folder, program, "/tmp/kexec")
    # The kernel takes archives one behind the other.
    more = cpio(
        (
            Entry("kernel", "file", 0o644, kernel.read_bytes()),
            Entry("second", "file", 0o644, second),
        )
    )
    both = folder / "both.cpio"
    both.write_bytes(first.read_bytes() + more)
    return both


def test_another_kernel_runs_untraced_and_that_is_told(ramdisk: Path, tmp_path: Path) -> None:
    done = boot(tmp_path, "--quiet", "--check", "--initrd", ramdisk, "--region", "ioapic")
    assert "another kernel has started" in done.serial
    line = "not traced: the kernel that this one starts (kexec), from here on"
    assert len([text for text in done.err.splitlines() if line in text]) == 1
    assert "Traceback" not in done.err
    trace = read_trace(done.trace)
    assert trace.end.outcome == "poweroff"
    assert {access.region for record in trace.intercepts for access in record.accesses} == {
        "ioapic"
    }
    # The other kernel is not compared.
    assert agreed(done) > 100


@pytest.mark.long
def test_both_kernels_are_traced_by_physical_address(ramdisk: Path, tmp_path: Path) -> None:
    done = boot(tmp_path, "--trap", "nested", "--quiet", "--check", "--initrd", ramdisk)
    assert "another kernel has started" in done.serial
    assert agreed(done) > 12_000  # a boot has some 7,000
    assert read_trace(done.trace).end.outcome == "poweroff"
