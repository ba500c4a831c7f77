"""What machine a guest has: QEMU's arguments for it, and what a reader has put in or left out.

Ref: QEMU qemu-options.hx (-machine, -drive, -device); for the first bytes of images block/qcow2.h,
block/vmdk.c, block/vhdx.h and block/vdi.c.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tracer.errors import UsageError
from tracer.guest.qcow2 import check_whole
from tracer.qemu.option import MACHINE, option_name, options
from tracer.text.file_error import unread

_FORMATS = (
    (0, b"QFI\xfb", "qcow2"),
    (0, b"KDMV", "vmdk"),
    (0, b"vhdxfile", "vhdx"),
    (0x40, b"\x7f\x10\xda\xbe", "vdi"),
)
"""Offset, bytes and QEMU's name of the formats of images that are not raw."""
_HEAD = 0x44
_VOLUME = 0x8000
"""Offset of the first volume descriptor of a CD."""
_LUKS = b"LUKS\xba\xbe"
_QCOW2_CRYPT = slice(32, 36)
_CRYPT_METHODS = 1, 2  # AES, LUKS; QEMU refuses an image with any other number

_BOOT = 100
"""The place behind which the disks come in the order in which firmware tries devices. UEFI firmware
leaves out what has no place there, such as a network that it would wait for (edk2 OvmfPkg
QemuBootOrderLib)."""

_OF_DEVICES = ("drive", "device", "netdev")


@dataclass(frozen=True, slots=True)
class Equipment:
    """Say what machine to run in place of the default guest's, and with what.

    ``machine`` is the name of one of QEMU's machines, with properties behind commas, or the path
    of a file as ``machine.cfg``. ``devices`` are values of QEMU's ``-device``. ``disks`` are images
    that the guest finds in place of the default disks, the first as ``/dev/vda``; what it writes
    is thrown away. Without ``default_devices`` there is no default network either.
    """

    machine: str | None = None
    devices: tuple[str, ...] = ()
    default_devices: bool = True
    disks: tuple[Path, ...] = ()

    @property
    def file(self) -> Path | None:
        """Return the file that describes the machine, None where a name does."""
        name = self.machine or ""
        return Path(name) if "/" in name or name.endswith(".cfg") else None


def has_pci(arguments: Sequence[str]) -> bool:
    """Tell whether the machine that QEMU makes of arguments has a PCI bus for devices."""
    name, words = _machine(arguments)
    return name not in ("isapc", "none") and (name != "microvm" or "pcie=on" in words)


def takes_modules(arguments: Sequence[str]) -> bool:
    """Tell whether the machine that QEMU makes of arguments has slots for more RAM."""
    name, _ = _machine(arguments)
    return name in ("", "pc", "q35") or name.startswith(("pc-i440fx-", "pc-q35-"))


def _machine(arguments: Sequence[str]) -> tuple[str, list[str]]:
    # Returns the name of the machine, empty for QEMU's own choice, and all that is said of it.
    words = [
        word
        for option, *value in options(arguments)
        if option_name(option) in MACHINE
        for word in ",".join(value).split(",")
    ]
    names = [word.removeprefix("type=") for word in words if "=" not in word or word[:5] == "type="]
    return names[-1] if names else "", words


def with_machine(arguments: Sequence[str], machine: str) -> tuple[str, ...]:
    """Return the arguments for another machine of QEMU's, by its name; the rest stays."""
    return tuple(
        word
        for option, *value in options(arguments)
        for word in (option, *([f"{machine},accel=tcg"] if option == "-machine" else value))
    )


def without_devices(arguments: Sequence[str]) -> tuple[str, ...]:
    """Return the arguments with no device, drive or network among them."""
    kept = (words for words in options(arguments) if option_name(words[0]) not in _OF_DEVICES)
    return tuple(word for words in kept for word in words)


def without_disks(arguments: Sequence[str], files: Sequence[str]) -> tuple[str, ...]:
    """Return the arguments without the drives of some files, and without their devices."""
    kept = list(options(arguments))
    drives = [
        words
        for words in kept
        if option_name(words[0]) == "drive" and _property(words[1:], "file") in files
    ]
    names = {_property(words[1:], "id") for words in drives}
    return tuple(
        word
        for words in kept
        if words not in drives
        and not (option_name(words[0]) == "device" and _property(words[1:], "drive") in names)
        for word in words
    )


def device_names(arguments: Sequence[str]) -> frozenset[str]:
    """Return the names that QEMU arguments give devices."""
    values = (words[1:] for words in options(arguments) if option_name(words[0]) == "device")
    return frozenset(name for value in values if (name := _property(value, "id")) is not None)


def memory_size(arguments: Sequence[str]) -> str | None:
    """Return the size of RAM that QEMU arguments say, None where they say none."""
    size = None
    for option, *value in options(arguments):
        if option_name(option) == "m" and value:
            first = value[0].split(",")[0]
            size = _property(value, "size") or (first if "=" not in first else size)
    return size


def disk_arguments(disks: Sequence[Path], properties: str, *, pci: bool) -> tuple[str, ...]:
    """Return the QEMU arguments for virtio disks, named ``disk``, ``disk2`` and so on.

    The image of a CD is in a drive for CDs. ``properties`` follow those of each virtio device.
    Raises UsageError for an image that cannot be read or lacks its end, or a CD without PCI.
    """
    words: list[str] = []
    for number, disk in enumerate(disks, 1):
        name, format_ = f"disk{number if number > 1 else ''}", image_format(disk)
        if format_ == "qcow2":
            check_whole(disk)
        file = str(disk.absolute()).replace(",", ",,")
        cd = is_cd(disk)
        if cd and not pci:
            raise UsageError(f"{disk} is the image of a CD, whose drive needs a machine with PCI")
        media = ",media=cdrom" if cd else ""
        if cd:
            driver, more = "ide-cd", ""
        elif pci:
            driver, more = "virtio-blk-pci", f",disable-legacy=on{properties}"
        else:
            driver, more = "virtio-blk-device", properties
        words += [
            "-drive", f"if=none,id={name}-image,format={format_},snapshot=on{media},file={file}",
            "-device",
            f"{driver},id={name},drive={name}-image,bootindex={_BOOT + number}{more}",
        ]  # fmt: skip
    return tuple(words)


def is_cd(disk: Path) -> bool:
    """Tell whether an image is that of a CD, and not one that is started as a disk too.

    Ref: ECMA-119, 8.1 (volume descriptors from sector 16 on); a master boot record ends in 55h AAh.
    """
    with disk.open("rb") as file:
        head = file.read(_VOLUME + 6)
    return head[_VOLUME + 1 :] == b"CD001" and head[0x1FE:0x200] != b"\x55\xaa"


def image_format(disk: Path) -> str:
    """Return QEMU's name of the format of a disk image, by its first bytes.

    Raises UsageError for one that cannot be read.
    """
    if disk.exists() and not (disk.is_file() or disk.is_block_device() or disk.is_dir()):
        raise UsageError(f"the disk image {disk} is neither a file nor a block device")
    try:
        with disk.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise UsageError(unread(f"the disk image {disk}", error)) from None
    if not head:
        raise UsageError(f"the disk image {disk} is empty")
    return next((name for at, magic, name in _FORMATS if head[at:].startswith(magic)), "raw")


def check_bootable(disk: Path) -> None:
    """Raise UsageError for an image whose content nobody can start without a key.

    That is one which is encrypted as a whole: by LUKS, or as QEMU does it in a qcow2 image
    (crypt_method in its header, QEMU docs/interop/qcow2.txt; LUKS1 and LUKS2 on-disk formats).
    """
    kind = image_format(disk)
    with disk.open("rb") as file:
        head = file.read(_HEAD)
    method = int.from_bytes(head[_QCOW2_CRYPT], "big")
    if head.startswith(_LUKS) or (kind == "qcow2" and method in _CRYPT_METHODS):
        raise UsageError(f"the disk image {disk} is encrypted, so nothing on it can be started")


def _property(value: Sequence[str], name: str) -> str | None:
    # The value of one of a -drive's or -device's properties, in which a comma is doubled.
    for word in ",".join(value).replace(",,", "\0").split(","):
        key, _, text = word.partition("=")
        if key == name:
            return text.replace("\0", ",")
    return None
