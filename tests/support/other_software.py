"""Xen and U-Boot of Debian's packages: they run in the place of Linux, and of the firmware."""

from __future__ import annotations

import gzip
from pathlib import Path

from debian_kernel import downloaded

from tracer.host.package import Archive, PackageError, own_archive, run_program


def xen(folder: Path) -> Path:
    """Return the hypervisor as what multiboot loads: an ELF32 image with 64-bit code.

    Where its package cannot be had the test fails in CI, and is skipped elsewhere.
    """

    def fetch() -> Path:
        archive = _archive()
        # The package's name has Xen's version in it.
        known = archive.depends("xen-system-amd64")
        name = next((name for name in known if name.startswith("xen-hypervisor-")), "xen")
        image = folder / "xen.elf"
        packed = _file(archive, name, "boot/xen-*-amd64.gz", folder)
        image.write_bytes(gzip.decompress(packed.read_bytes()))
        return image

    return downloaded("of Xen", fetch)


def u_boot(folder: Path) -> Path:
    """Return the image for QEMU's ``-bios``, likewise."""
    rom = "usr/lib/u-boot/qemu-x86_64/u-boot.rom"
    return downloaded("of U-Boot", lambda: _file(_archive(), "u-boot-qemu", rom, folder))


def _archive() -> Archive:
    archive = own_archive()
    archive.update()
    return archive


def _file(archive: Archive, package: str, pattern: str, folder: Path) -> Path:
    for file in archive.download([package], folder):
        run_program(["dpkg-deb", "-x", str(file), str(folder / "unpacked")])
    for found in (folder / "unpacked").glob(pattern):
        return found
    raise PackageError(f"there is no {pattern} in {package}")
