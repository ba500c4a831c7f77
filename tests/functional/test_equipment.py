"""A machine of the reader's: another one of QEMU's, with a disk and devices of the reader's."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from guest_program import assemble
from vetrace_run import agreed, boot, drove_its_devices, read_trace, run

from tracer.guest.disk import checksum, disk_file
from tracer.linux.kernel import default_kernel
from tracer.trace.record import RegionRecord

pytestmark = pytest.mark.qemu


def said(folder: Path) -> list[str]:
    lines = (folder / "serial").read_text(errors="replace").replace("\r", "").splitlines()
    return [line.removeprefix("vetrace-guest: ") for line in lines if "vetrace-guest" in line]


def test_the_older_pc_has_all_default_devices(tmp_path: Path) -> None:
    done = boot(tmp_path, "--quiet", "--check", "--machine", "pc")
    assert agreed(done) > 5000
    drove_its_devices(done)


def test_a_machine_without_pci_has_its_devices_in_memory(tmp_path: Path) -> None:
    done = boot(tmp_path, "--quiet", "--check", "--machine", "microvm")
    assert agreed(done) > 1000
    words = said(tmp_path)
    assert f"disk virtio-blk {checksum('virtio-blk')}" in words
    assert any(line.startswith("network eth0") and line.endswith("reachable") for line in words)
    trace = read_trace(done.trace)
    assert trace.end.outcome == "poweroff"
    made = {access.region for record in trace.intercepts for access in record.accesses}
    assert sum(name.startswith("virtio-mmio") for name in made if name) == 2


def test_a_disk_of_the_readers_is_in_the_default_disks_place(tmp_path: Path) -> None:
    kernel = default_kernel()
    assert kernel is not None
    image = tmp_path / "a,disk.raw"
    image.write_bytes(disk_file("nvme").read_bytes())
    image.chmod(0o444)
    done = boot(tmp_path, "--quiet", "--check", "--kernel", kernel, "--disk", image,
                "--no-default-devices", "--device", "edu,id=teacher",
                "--memory", "256M")  # fmt: skip
    assert agreed(done) > 1000
    assert f"disk virtio-blk {checksum('nvme')}" in said(tmp_path)
    assert "disk nvme none" in said(tmp_path)
    assert hashlib.sha256(image.read_bytes()).hexdigest() == checksum("nvme")
    trace = read_trace(done.trace)
    assert trace.header.qemu_args[-2:] == ["-device", "edu,id=teacher"]
    names = {record.region.name for record in trace.records if isinstance(record, RegionRecord)}
    assert "disk.common" in names
    assert not any(name.startswith(("nvme", "virtio")) for name in names)


def test_the_regions_of_a_machine_of_the_readers(tmp_path: Path) -> None:
    machine = tmp_path / "my machine.cfg"
    machine.write_text(
        "# nothing but a controller\n-nodefaults\n-no-user-config\n-display none\n"
        "-machine q35,accel=tcg\n-cpu max\n-m 256M\n-no-reboot\n-device edu,id=teacher\n"
    )
    usb = ("--device", "qemu-xhci,id=usb", "--bypass", "hpet")
    done = run(tmp_path, "regions", "--json", "--machine", machine, *usb)
    assert done.status == 0, done.err
    regions = {row["name"]: row for row in done.objects}
    (edu,) = [name for name, row in regions.items() if row["qemu_name"] == "edu-mmio"]
    assert edu.startswith("teacher") and regions[edu]["traced"]
    assert not regions["hpet"]["traced"]
    assert any(name.startswith("usb.") for name in regions)
    assert not any(name.startswith(("nvme", "virtio")) for name in regions)


SCRIPT = """\
#!/bin/sh
echo "own: $(env -i echo from a program that is added)"
echo changed | dd of=/dev/vda conv=notrunc; sync
echo "own: $(head -c 7 /dev/vda)"
leave
"""


@pytest.mark.parametrize(
    ("value", "status"), [(2, 0), (3, 1)], ids=["what is awaited", "another status"]
)
def test_a_guest_with_a_script_writes_its_disk_and_ends_with_a_status(
    tmp_path: Path, value: int, status: int
) -> None:
    image = tmp_path / "disk"
    image.write_bytes(disk_file("nvme").read_bytes())
    (tmp_path / "script").write_text(SCRIPT)
    program = assemble(tmp_path, "leave", PORT=0xF4, VALUE=value)
    done = boot(
        tmp_path, "--quiet", "--check", "--disk", image, "--init", tmp_path / "script",
        "--add", "/usr/bin/env", "--add", f"{program}:/bin/leave",
        "--device", "isa-debug-exit,iobase=0xf4", "--exit-ok", "5",
    )  # fmt: skip
    lines = [line for line in done.serial if line.startswith("own: ")]
    assert lines == ["own: from a program that is added", "own: changed"]
    assert hashlib.sha256(image.read_bytes()).hexdigest() == checksum("nvme")
    if status == 0:
        assert agreed(done) > 1000
        trace = read_trace(done.trace)
        assert trace.end.outcome == "poweroff"
        assert trace.header.software == [
            "--add", "/usr/bin/env", "--add", f"{program}:/bin/leave",
            "--init", str(tmp_path / "script"),
        ]  # fmt: skip
    else:
        assert done.status == status
        (said,) = [line for line in done.complaints if "exit status" in line]
        assert "exit status 7" in said


def test_a_file_that_is_no_ramdisk_starts_no_guest(tmp_path: Path) -> None:
    text, zeros = tmp_path / "text", tmp_path / "zeros"
    text.write_text("hello\n")
    zeros.write_bytes(bytes(8192))
    for path in (text, zeros):
        done = run(tmp_path, "boot", "--initrd", path)
        assert done.status == 2
        assert f"the initial ramdisk {path} is none that Linux knows" in done.err.splitlines()[-1]
