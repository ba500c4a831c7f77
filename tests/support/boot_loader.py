"""Images with one boot loader, the default guest's kernel and a small ramdisk, and no more.

They are made of what Debian's packages have, by mtools, objcopy and xorriso. The guest loads its
modules, reads of its disk, and powers off.

Ref: UEFI specification 2.10, 3.5.1.1 (\\EFI\\BOOT\\BOOTX64.EFI); UAPI group, Boot Loader
Specification (loader/entries) and Unified Kernel Image (sections of the PE image); Microsoft PE
format (ImageBase, VirtualSize); SYSLINUX, ISOLINUX (an image that its tables are patched into).
"""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

from vetrace_run import need

from tracer.guest import recipe
from tracer.guest.initramfs import Entry, build_initramfs
from tracer.guest.software import SCRIPT
from tracer.linux.kernel import default_kernel, find_modules, read_facts

SYSTEMD = Path("/usr/lib/systemd/boot/efi")
ISOLINUX = Path("/usr/lib/ISOLINUX/isolinux.bin")
LDLINUX = Path("/usr/lib/syslinux/modules/bios/ldlinux.c32")
COMMAND_LINE = "console=ttyS0 panic=-1 cpuhp.parallel=0 begun=by-its-loader"
"""The kernel's command line, by each of them."""

SAYS = "vetrace-guest: begun by "
"""How the guest begins to tell what it was begun by; its command line follows."""

_SCRIPT = f"""\
#!/bin/sh
[ -d /sys/firmware/efi ] && firmware=uefi || firmware=bios
echo "{SAYS}$firmware: $(cat /proc/cmdline)"
[ ! -b /dev/vda ] || echo "vetrace-guest: read $(dd if=/dev/vda bs=64k count=16 | wc -c)"
"""
_MIB = 1 << 20
_PAGE = 0x1000


def systemd_boot(folder: Path) -> Path:
    """Return the image of a disk whose firmware starts systemd-boot, and that the kernel by EFI."""
    kernel, ramdisk = _guest()
    loader = _written(folder / "loader.conf", "timeout 0\n")
    entry = _written(
        folder / "vetrace.conf",
        f"title vetrace\nlinux /vmlinuz\ninitrd /initrd\noptions {COMMAND_LINE}\n",
    )
    return _esp(
        folder / "systemd-boot.raw",
        {
            "EFI/BOOT/BOOTX64.EFI": _of_systemd("systemd-bootx64.efi"),
            "loader/loader.conf": loader,
            "loader/entries/vetrace.conf": entry,
            "vmlinuz": kernel,
            "initrd": ramdisk,
        },
    )


def unified_image(folder: Path) -> Path:
    """Return the image of a disk whose firmware starts one file: kernel, ramdisk and its words."""
    kernel, ramdisk = _guest()
    stub = _of_systemd("linuxx64.efi.stub")
    place = _end(stub.read_bytes())
    words: list[str | Path] = []
    for name, file in (
        (".osrel", _written(folder / "osrel", "ID=vetrace\n")),
        (".cmdline", _written(folder / "cmdline", COMMAND_LINE)),
        (".linux", kernel),
        (".initrd", ramdisk),
    ):
        words += ["--add-section", f"{name}={file}", "--change-section-vma", f"{name}={place:#x}"]
        place = _page_behind(place + file.stat().st_size)
    image = folder / "unified.efi"
    _run("binutils", "objcopy", *words, stub, image)
    return _esp(folder / "unified.raw", {"EFI/BOOT/BOOTX64.EFI": image})


def isolinux(folder: Path) -> Path:
    """Return the image of a CD that isolinux starts the kernel of."""
    kernel, ramdisk = _guest()
    need(ISOLINUX.is_file(), "isolinux")
    need(LDLINUX.is_file(), "syslinux-common")
    tree = folder / "cd"
    tree.mkdir()
    _written(
        tree / "isolinux.cfg",
        f"SERIAL 0 115200\nDEFAULT vetrace\nLABEL vetrace\nKERNEL vmlinuz\n"
        f"APPEND initrd=initrd {COMMAND_LINE}\n",
    )
    for name, file in (
        ("isolinux.bin", ISOLINUX), ("ldlinux.c32", LDLINUX), ("vmlinuz", kernel),
        ("initrd", ramdisk),
    ):  # fmt: skip
        shutil.copyfile(file, tree / name)
    image = folder / "isolinux.iso"
    _run(
        "xorriso", "xorriso", "-as", "mkisofs", "-quiet", "-o", image, "-b", "isolinux.bin",
        "-c", "boot.cat", "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table", tree,
    )  # fmt: skip
    return image


def _guest() -> tuple[Path, Path]:
    # The default guest's kernel, and the initial ramdisk for it.
    kernel = default_kernel()
    assert kernel is not None  # or no test has a guest
    modules = find_modules(kernel, read_facts(kernel).release)
    script = Entry(SCRIPT, "file", content=_SCRIPT.encode())
    return kernel, build_initramfs(recipe.init_script(), modules, added=[script])


def _of_systemd(name: str) -> Path:
    need((SYSTEMD / name).is_file(), "systemd-boot-efi")
    return SYSTEMD / name


def _esp(image: Path, files: dict[str, Path]) -> Path:
    # A FAT file system without a partition table, as removable disks have.
    size = sum(file.stat().st_size for file in files.values()) // _MIB + 40
    with image.open("wb") as disk:
        disk.truncate(size * _MIB)
    _run("mtools", "mformat", "-i", image, "-F", "::")
    folders = {str(up) for name in files for up in Path(name).parents} - {"."}
    _run("mtools", "mmd", "-i", image, *(f"::/{name}" for name in sorted(folders)))
    for name, file in files.items():
        _run("mtools", "mcopy", "-i", image, file, f"::/{name}")
    return image


def _end(stub: bytes) -> int:
    # Returns the linear address behind a PE image's last section, where one can be added.
    header = int.from_bytes(stub[0x3C:0x40], "little")
    count, optional = struct.unpack_from("<6xH12xH", stub, header)
    (base,) = struct.unpack_from("<Q", stub, header + 24 + 24)
    sections = header + 24 + optional
    ends = (
        sum(struct.unpack_from("<II", stub, sections + 40 * number + 8)) for number in range(count)
    )
    return _page_behind(base + max(ends))


def _page_behind(address: int) -> int:
    return -(-address // _PAGE) * _PAGE


def _written(file: Path, text: str) -> Path:
    file.write_text(text)
    return file


def _run(package: str, *words: str | Path) -> None:
    need(shutil.which(str(words[0])) is not None, package)
    subprocess.run(list(map(str, words)), check=True, capture_output=True)
