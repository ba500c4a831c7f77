"""A confidential guest that is none: each way to be one is refused or told, with status 1."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from confidential_kernel import kernel_for
from debian_kernel import kernel_of
from vetrace_run import boot, read_trace, run

from tracer.confidential.kind import Kind
from tracer.errors import GuestError
from tracer.guest.initramfs import build_initramfs
from tracer.launch.plan import Plan
from tracer.launch.start import launch
from tracer.linux import origin
from tracer.linux.entry import reach_entry
from tracer.linux.kernel import Kernel
from tracer.x86.paging import PhysicalMemory

pytestmark = pytest.mark.qemu


def test_a_kernel_without_the_option_is_refused_before_anything_is_started(tmp_path: Path) -> None:
    # Debian 13's kernels have the option.
    kernel = kernel_of("bookworm", "linux-image-cloud-amd64")
    done = run(
        tmp_path, "boot", "--guest", "tdx", "--kernel", str(kernel), "-o", "t.vtrace",
        "--serial", "serial",
    )  # fmt: skip
    *_, line = done.complaints
    assert done.status == 1 and "CONFIG_INTEL_TDX_GUEST" in line
    assert "vetrace setup --guest tdx" in line
    assert not [name for name in ("t.vtrace", "serial") if (tmp_path / name).exists()]


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        (("-device", "virtio-rng-pci"), "iommu_platform=on"),
        (("-cpu", "max,la57=off,phys-bits=40"), "vendor=GenuineIntel"),
        (("-cpu", "max,vendor=GenuineIntel,phys-bits=40"), "la57=off"),
        (("-bios", "qboot.rom"), "its firmware is qboot.rom"),
    ],
)
def test_a_machine_that_is_none_is_refused(
    extra: tuple[str, ...], reason: str, tmp_path: Path
) -> None:
    words = ("boot", "--guest", "tdx", "--kernel", kernel_for(Kind.TDX))
    done = run(tmp_path, *words, "--", *extra)
    (line,) = done.complaints
    assert done.status == 1 and reason in line and "no TDX guest can be run" in line


def test_a_kernel_that_says_another_thing_ends_with_that_in_its_trace(tmp_path: Path) -> None:
    # It is quiet of itself, and its program says that it is a guest of another kind.
    init = tmp_path / "init"
    init.write_text(
        "#!/bin/busybox sh\n"
        "echo 'Memory Encryption Features active: AMD SEV-ES'\n"
        "while :; do /bin/busybox sleep 1; done\n"
    )
    done = boot(
        tmp_path, "--guest", "tdx", "--kernel", kernel_for(Kind.TDX), "--quiet",
        "--append", "quiet", "--initrd", build_initramfs(init, None),
    )  # fmt: skip
    why = "the kernel takes itself for no TDX guest: active is AMD SEV-ES"
    assert done.status == 1 and f"vetrace: {why}" in done.complaints
    assert read_trace(done.trace).end.outcome == why


def test_user_space_that_is_reached_without_one_ve_is_no_tdx_guest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Nobody tells the kernel what it is: it boots as an ordinary guest, and its console is quiet.
    async def reach(kernel: Kernel, moved: int, memory: PhysicalMemory) -> None:
        await reach_entry(kernel, moved)

    monkeypatch.setattr(origin, "reach_tdx_entry", reach)
    said: list[bytes] = []

    async def session() -> None:
        plan = Plan(kernel=kernel_for(Kind.TDX), guest=Kind.TDX, append="quiet")
        async with launch(plan, said.append) as session:
            await session.reach_entry()
            await session.refresh_regions()
            await session.trap()
            await session.run()

    with pytest.raises(GuestError, match="without one #VE"):
        asyncio.run(session())
    assert b"vetrace-guest: done" in b"".join(said)
