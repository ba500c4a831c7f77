"""What machine a guest has: QEMU's arguments, with devices and disks put in or left out."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tracer.confidential.kind import Kind
from tracer.errors import UsageError
from tracer.guest.equipment import (
    Equipment,
    check_bootable,
    device_names,
    disk_arguments,
    has_pci,
    image_format,
    is_cd,
    memory_size,
    option_name,
    options,
    takes_modules,
    with_machine,
    without_devices,
    without_disks,
)
from tracer.guest.recipe import machine_arguments

WORDS = ("-nodefaults", "-machine", "q35,accel=tcg", "--drive", "id=a,file=/x,,y", "-device",
         "nvme,drive=a", "-device", "edu")  # fmt: skip


def test_options_have_their_values() -> None:
    assert list(options(WORDS)) == [
        ("-nodefaults",), ("-machine", "q35,accel=tcg"), ("--drive", "id=a,file=/x,,y"),
        ("-device", "nvme,drive=a"), ("-device", "edu"),
    ]  # fmt: skip
    assert list(options(("-S",))) == [("-S",)]
    assert [option_name(word) for word in ("-m", "--m", "m")] == ["m", "m", ""]


@pytest.mark.parametrize(
    ("machine", "pci"),
    [("q35", True), ("pc,acpi=off", True), ("microvm", False), ("microvm,pcie=on", True),
     ("type=microvm,accel=tcg", False), ("isapc", False), ("memory-backend=x", True)],
)  # fmt: skip
def test_machines_with_pci(machine: str, pci: bool) -> None:
    assert has_pci(("-machine", machine)) is pci
    assert has_pci(("-M", machine, "-device", "x")) is pci


@pytest.mark.parametrize(
    ("machine", "slots"),
    [("q35,accel=tcg", True), ("pc", True), ("type=pc-q35-7.2", True), ("pc-i440fx-6.0", True),
     ("accel=tcg", True), ("microvm,pcie=on", False), ("isapc", False), ("pcx", False)],
)  # fmt: skip
def test_machines_with_slots_for_ram(machine: str, slots: bool) -> None:
    assert takes_modules(("-machine", machine)) is slots


def test_the_last_machine_counts_and_properties_of_all() -> None:
    assert has_pci(("-M", "microvm", "-machine", "pc"))
    assert has_pci(("-M", "microvm", "-machine", "pcie=on"))
    assert has_pci(())


def test_another_machine_under_tcg_with_the_same_devices() -> None:
    words = with_machine(WORDS, "pc,acpi=off")
    assert words[:3] == ("-nodefaults", "-machine", "pc,acpi=off,accel=tcg")
    assert words[3:] == WORDS[3:]


def test_devices_are_left_out() -> None:
    assert without_devices(WORDS) == WORDS[:3]
    assert without_disks(WORDS, ["/x,y"]) == (*WORDS[:3], "-device", "edu")
    assert without_disks(WORDS, ["/x"]) == WORDS


def test_names_of_devices() -> None:
    assert device_names(("-device", "edu,id=e", "--device", "x,id=y", "-netdev", "u,id=z")) == {
        "e", "y",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("value", "size"),
    [("2G", "2G"), ("512,slots=2", "512"), ("size=1G,slots=2", "1G"), ("slots=2", None)],
)
def test_size_of_memory(value: str, size: str | None) -> None:
    assert memory_size(("-m", value)) == size
    assert memory_size(("-m", "7M", "-m", value)) == (size or "7M")
    assert memory_size(()) is None


@pytest.mark.parametrize(
    ("head", "name"),
    [(b"QFI\xfb", "qcow2"), (b"\0" * 0x40 + b"\x7f\x10\xda\xbe", "vdi"), (b"\xeb\x63", "raw"),
     (b"x", "raw"), (b"xQFI\xfb", "raw")],
)  # fmt: skip
def test_an_image_is_known_by_its_first_bytes(head: bytes, name: str, tmp_path: Path) -> None:
    image = tmp_path / "a,b.img"
    image.write_bytes(head)
    assert image_format(image) == name
    assert not is_cd(image)
    drive, device = disk_arguments([image], ",x=y", pci=True)[1::2]
    assert drive == f"if=none,id=disk-image,format={name},snapshot=on,file={tmp_path}/a,,b.img"
    assert device == "virtio-blk-pci,id=disk,drive=disk-image,bootindex=101,disable-legacy=on,x=y"
    *_, device = disk_arguments([image, image], ",x=y", pci=False)
    assert device == "virtio-blk-device,id=disk2,drive=disk2-image,bootindex=102,x=y"


def test_the_image_of_a_cd_is_in_a_drive_for_cds(tmp_path: Path) -> None:
    image = tmp_path / "live.iso"
    content = bytearray(0x8800)
    content[0x8000:0x8006] = b"\1CD001"
    image.write_bytes(content)
    assert is_cd(image)
    drive, device = disk_arguments([image], ",x=y", pci=True)[1::2]
    assert "media=cdrom" in drive
    assert device == "ide-cd,id=disk,drive=disk-image,bootindex=101"
    with pytest.raises(
        UsageError, match=r"live\.iso is the image of a CD, whose drive needs a mac"
    ):
        disk_arguments([image], "", pci=False)
    content[0x1FE:0x200] = b"\x55\xaa"  # it is started as a disk, too
    image.write_bytes(content)
    assert not is_cd(image)
    assert disk_arguments([image], "", pci=True)[3].startswith("virtio-blk-pci")


def test_an_image_that_is_cut_is_refused(tmp_path: Path) -> None:
    image = tmp_path / "disk.qcow2"
    head = b"QFI\xfb" + (3).to_bytes(4, "big") + bytes(12) + (16).to_bytes(4, "big") + bytes(16)
    image.write_bytes(head + (1 << 20).to_bytes(8, "big") + bytes(64))
    with pytest.raises(UsageError, match=r"disk\.qcow2 is cut or damaged"):
        disk_arguments([image], "", pci=True)


def test_an_image_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read the disk image .*: No such file"):
        image_format(tmp_path / "none")
    with pytest.raises(UsageError, match=r"cannot read the disk image .*: Is a directory"):
        image_format(tmp_path)
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "pipe")  # which would be waited on for good
    for place in (tmp_path / "pipe", Path(os.devnull)):
        with pytest.raises(UsageError, match=r"neither a file nor a block device"):
            image_format(place)
    with pytest.raises(UsageError, match=r"the disk image .* is empty"):
        image_format(tmp_path / "empty")


def test_a_disk_is_in_the_default_disks_place(tmp_path: Path) -> None:
    image = tmp_path / "disk"
    image.write_bytes(b"raw")
    words = machine_arguments(Kind.TDX, Equipment(disks=(image,), devices=("edu", "edu,id=e")))
    assert device_names(words) == {"virtio-net", "disk", "e"}
    assert words[-4:] == ("-device", "edu", "-device", "edu,id=e")
    assert not any("/disk/virtio-blk.raw" in word for word in words)
    assert sum("iommu_platform=on" in word for word in words) == 2


def test_a_confidential_guest_is_given_no_device_that_it_does_not_drive(tmp_path: Path) -> None:
    image = tmp_path / "disk"
    image.write_bytes(b"raw")
    for equipment in (Equipment(), Equipment(machine="microvm"),
                      Equipment(machine="microvm", disks=(image,))):  # fmt: skip
        for kind, shared in ((Kind.PLAIN, 0), (Kind.TDX, 2), (Kind.SEV_ES, 2)):
            words = machine_arguments(kind, equipment)
            virtio = [word for word in words if re.match("virtio-(blk|net)-", word)]
            assert len(virtio) == 2
            assert sum("iommu_platform=on" in word.split(",") for word in virtio) == shared


def test_a_machine_without_pci_has_devices_without_it() -> None:
    words = machine_arguments(equipment=Equipment(machine="microvm,rtc=on"))
    assert "microvm,rtc=on,accel=tcg" in words
    assert device_names(words) == {"virtio-blk", "virtio-net"}
    assert not any("pci" in word for word in words)
    pcie = machine_arguments(equipment=Equipment(machine="microvm,pcie=on"))
    assert device_names(pcie) == {"virtio-blk", "virtio-net", "nvme"}
    bare = machine_arguments(equipment=Equipment(machine="pc", default_devices=False))
    assert "pc,accel=tcg" in bare
    assert not {"-device", "-drive", "-netdev"} & set(bare)


def test_a_machine_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "own.cfg"
    file.write_text("# mine\n-machine pc\n\n-drive id=d,file={nvme}\n-device nvme,drive=d,id=n\n")
    assert device_names(machine_arguments(equipment=Equipment(machine=str(file)))) == {"n"}
    file.write_bytes(b"\xef\xbb\xbf-machine pc\r\n-device edu,id=n\r\n")
    assert device_names(machine_arguments(equipment=Equipment(machine=str(file)))) == {"n"}
    file.write_text("-machine pc\ndevice edu\n")
    with pytest.raises(UsageError, match=r"own.cfg, line 2: 'device edu' is no option of QEMU's"):
        machine_arguments(equipment=Equipment(machine=str(file)))
    file.write_text("-m 1G\n-kernel x\n")
    with pytest.raises(UsageError, match=r"line 2: -kernel cannot be in .*: give --kernel"):
        machine_arguments(equipment=Equipment(machine=str(file)))
    with pytest.raises(UsageError, match=r"cannot read .*/none: No such"):
        machine_arguments(equipment=Equipment(machine=f"{tmp_path}/none"))
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match=r"own.cfg is no UTF-8 text: byte 0 is 0xff"):
        machine_arguments(equipment=Equipment(machine=str(file)))
    with pytest.raises(UsageError, match="drop --no-default-devices"):
        machine_arguments(equipment=Equipment(machine=str(file), default_devices=False))


def test_only_a_name_with_a_slash_or_an_ending_is_a_file() -> None:
    assert Equipment(machine="pc").file is None
    assert Equipment(machine="my.cfg").file == Path("my.cfg")
    assert Equipment(machine="./pc").file == Path("pc")
    assert Equipment().file is None


@pytest.mark.parametrize(
    ("head", "encrypted"),
    [
        (b"LUKS\xba\xbe\x00\x02", True),
        (b"QFI\xfb\x00\x00\x00\x03".ljust(35, b"\0") + b"\x02", True),
        (b"QFI\xfb\x00\x00\x00\x03".ljust(36, b"\0") + b"\x01", False),
        (b"QFI\xfb\x00\x00\x00\x03".ljust(64, b"\x07"), False),
        (b"\xeb\x63\x90".ljust(64, b"\x01"), False),
    ],
)
def test_nothing_is_started_from_an_encrypted_image(
    tmp_path: Path, head: bytes, encrypted: bool
) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(head)
    if not encrypted:
        check_bootable(disk)
        return
    with pytest.raises(UsageError, match="is encrypted, so nothing on it can be started"):
        check_bootable(disk)
