"""A memory map that changes under the guest's mappings: BARs that move, devices that come and go.

The guest changes it through ports, which no trap sees, and reaches devices through mappings that
it made before.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import time
from functools import partial
from pathlib import Path

import guest_program
import pytest
from qmp_person import QmpPerson
from vetrace_run import Run, agreed, boot, drove_its_devices, need, read_trace, run, vetrace

from tracer.guest.disk import content
from tracer.guest.initramfs import build_initramfs
from tracer.linux.kernel import default_kernel, open_kernel
from tracer.trace.record import RegionRecord

pytestmark = pytest.mark.qemu

EDU_ID = "010000ed"  # QEMU docs/specs/edu.txt: the first register

MOVES = """
# Writes bytes to the device's PCI configuration; below 0x100 on bus 0 Linux does it by ports.
#   $1  offset
#   $2  bytes as printf has them
configure() {
    printf "$2" | dd of=$edu/config bs=1 seek=$1 conv=notrunc 2>/dev/null
}
# Maps the page of a physical address for good.
#   $1  name
#   $2  address
map() {
    mkfifo /tmp/$1.in /tmp/$1.out
    /tmp/peek $2 < /tmp/$1.in > /tmp/$1.out &
}
# Reads through both mappings.
say() {
    echo >&3; read old <&4
    echo >&5; read new <&6
    echo "$1: old $old new $new"
}
for edu in /sys/bus/pci/devices/*; do
    [ "$(cat $edu/vendor) $(cat $edu/device)" = "0x1234 0x11e8" ] && break
done
echo 1 > $edu/enable
read bar end flags < $edu/resource
map old $bar
exec 3> /tmp/old.in 4< /tmp/old.out
map new 0xd0000000
exec 5> /tmp/new.in 6< /tmp/new.out
say first
configure 4 '\\000'; say off
configure 4 '\\002'; say on
configure 16 '\\000\\000\\000\\320'; say moved
configure 4 '\\000'; say 'off again'
configure 4 '\\002'; say 'on again'
"""

# A virtio driver reads the status whenever somebody asks for it. Configuration below 0x100 is
# written by ports, which takes no stop.
SWITCHES = """
while read module; do insmod /lib/modules/$module; done < /lib/modules/order
for function in /sys/bus/pci/devices/*; do
    [ -d $function/virtio0 ] && break
done
status() {
    echo "status $1: $(cat $function/virtio0/status)"
}
command() {
    printf "$1" | dd of=$function/config bs=1 seek=4 conv=notrunc 2>/dev/null
}
status on; status again
command '\\007'; status still
command '\\004'; status off; status off
command '\\006'; status on
"""

SUSPENDS = """
echo +5 > /sys/class/rtc/rtc0/wakealarm
echo mem > /sys/power/state
echo "disk $(dd if=/dev/nvme0n1 bs=4k count=4 2>/dev/null | sha256sum)"
# QEMU 7.2 has no power button after it: its port is lost with the reset.
reboot -f
"""

COMES_AND_GOES = """
# Prints the first register of what is behind the root port; fails while there is nothing.
list() {
    for device in /sys/bus/pci/devices/0000:01:*; do
        [ -e $device ] || continue
        echo 1 > $device/enable
        read bar end flags < $device/resource
        [ $((bar)) -ne 0 ] || continue  # it is not placed yet
        echo "$1 $(devmem $bar 32)"
        return 0
    done
    return 1
}
echo ready
until list plugged; do sleep 1; done
while [ -e /sys/bus/pci/devices/0000:01:00.0 ]; do sleep 1; done
echo unplugged
until list again; do sleep 1; done
"""


SHARES = """
for ivshmem in /sys/bus/pci/devices/*; do
    [ "$(cat $ivshmem/vendor) $(cat $ivshmem/device)" = "0x1af4 0x1110" ] && break
done
echo 1 > $ivshmem/enable
{ read registers; read nothing; read ram end flags; } < $ivshmem/resource
# The registers go into the middle of a page of the RAM.
place=$((ram + 0x10800))
for at in 0 8 16 24; do
    printf "\\\\$(printf %o $((place >> at & 255)))"
done | dd of=$ivshmem/config bs=1 seek=16 conv=notrunc 2>/dev/null
/tmp/shared $(printf %x $((ram + 0x10000)))
"""


def initrd(folder: Path, commands: str, program: str = "peek") -> Path:
    return guest_program.initrd(folder, guest_program.assemble(folder, program), commands)


@pytest.mark.parametrize("chosen", [(), ("--region", "edu")], ids=["all", "edu"])
def test_a_device_that_moves_under_mappings(chosen: tuple[str, ...], tmp_path: Path) -> None:
    options = ("--quiet", "--check", "--initrd", initrd(tmp_path, MOVES), *chosen)
    done = boot(tmp_path, *options, "--", "-device", "edu")
    said = re.findall(r"(.*): old (\w{8}) new (\w{8})", "\n".join(done.serial))
    seen = [(when, old == EDU_ID, new == EDU_ID) for when, old, new in said]
    assert seen == [
        ("first", True, False),
        ("off", False, False),
        ("on", True, False),
        ("moved", False, True),
        ("off again", False, False),
        ("on again", False, True),
    ]
    assert agreed(done)
    # What answered is recorded, and what nobody answered is not.
    edu = [
        access.physical
        for record in read_trace(done.trace).intercepts
        for access in record.accesses
        if access.region == "edu.mmio"
    ]
    assert len(edu) == 4
    assert len(set(edu[:2])) == 1
    assert edu[2:] == [0xD0000000] * 2


def test_a_device_whose_memory_is_switched_off_and_on_between_accesses_without_a_stop(
    tmp_path: Path,
) -> None:
    default = default_kernel()
    assert default is not None
    (tmp_path / "init").write_text(guest_program.script(SWITCHES))
    started = build_initramfs(tmp_path / "init", open_kernel(default).modules)
    done = boot(tmp_path, "--quiet", "--check", "--initrd", started)
    said = [(when, int(value, 16)) for when, value in re.findall(
        r"status (\w+): 0x(\w+)", "\n".join(done.serial)
    )]  # fmt: skip
    there = said[0][1]
    seen = [value == there for _, value in said]
    assert seen == [True, True, True, False, False, True], said
    assert agreed(done)
    counts = read_trace(done.trace).end.counts
    assert 0 < counts["slow: moved"] < counts["compiled"] / 100


def test_devices_are_away_while_the_guest_wakes_up(tmp_path: Path) -> None:
    options = ("--quiet", "--check", "--initrd", initrd(tmp_path, SUSPENDS))
    done = boot(tmp_path, *options)
    assert agreed(done)
    # The firmware reaches the LAPIC on the way.
    assert "accesses of firmware left out" in done.out
    trace = read_trace(done.trace)
    assert trace.end.counts["maps"] > 1
    disk = next(line.split()[1] for line in done.serial if line.startswith("disk"))
    assert disk == hashlib.sha256(content("nvme")[: 4 * 4096]).hexdigest()


def plugged(folder: Path, image: Path, *options: str) -> Run:
    """Boot a guest, and plug a device in and out by a monitor of one's own, as it asks for it."""
    folder.mkdir()
    monitor, serial = folder / "qmp", folder / "serial"
    edu = {"driver": "edu", "bus": "behind", "id": "late"}
    with vetrace(
        folder, "boot", "--quiet", "--serial", serial, "--initrd", image, *options, "--",
        "-device", "pcie-root-port,id=behind,chassis=1",
        "-qmp", f"unix:{monitor},server=on,wait=off",
    ) as running:  # fmt: skip
        running.until(monitor.is_socket, "a monitor")
        with QmpPerson(monitor) as person:
            for text, command, arguments in (
                ("ready", "device_add", edu), ("plugged", "device_del", {"id": "late"}),
                ("unplugged", "device_add", edu),
            ):  # fmt: skip
                running.until(lambda text=text: said(serial, text), text)
                # QEMU is done with a device a moment after the guest is.
                running.until(partial(person.takes, command, arguments), command)
        return running.finish()


def said(serial: Path, text: str) -> bool:
    words = serial.read_text(errors="replace").splitlines() if serial.exists() else []
    return any(line.startswith(text) for line in words)


def what_it_says(folder: Path) -> list[str]:
    """Return what the guest's own script says, and each warning of its kernel without the time."""
    text = (folder / "serial").read_text(errors="replace").replace("\r", "")
    own = re.findall(r"^(?:plugged|unplugged|again|ready).*", text, re.MULTILINE)
    return [*own, *re.findall(r"WARNING:.*|BUG:.*|Oops.*|Call Trace.*", text)]


def test_a_device_that_comes_and_goes(tmp_path: Path) -> None:
    image = initrd(tmp_path, COMES_AND_GOES)
    untraced = plugged(tmp_path / "untraced", image, "--untraced")
    assert untraced.status == 0, untraced.err
    trace = tmp_path / "trace.vtrace"
    done = plugged(tmp_path / "traced", image, "--check", "-o", str(trace))
    assert agreed(done) > 1000
    words = what_it_says(tmp_path / "traced")
    assert words == what_it_says(tmp_path / "untraced")
    assert [line.lower() for line in words] == [
        "ready", f"plugged 0x{EDU_ID}", "unplugged", f"again 0x{EDU_ID}",
    ]  # fmt: skip
    assert of_the_late_device(trace) == [(0, 0x10000ED)] * 2


def of_the_late_device(trace: Path) -> list[tuple[int | None, int | None]]:
    return [
        (access.offset, access.value)
        for record in read_trace(trace).intercepts
        for access in record.accesses if access.region == "late.edu-mmio"
    ]  # fmt: skip


@pytest.mark.long
def test_a_person_plugs_a_device_in_and_out(tmp_path: Path) -> None:
    image = initrd(tmp_path, COMES_AND_GOES)
    plug, pull = "monitor device_add edu,id=late,bus=behind", "monitor device_del late"
    script = f"until 5s; {plug}; until 30s; {pull}; until 60s; {plug}; continue"
    done = boot(
        tmp_path, "--quiet", "--check", "--initrd", image, "-e", script,
        "--", "-device", "pcie-root-port,id=behind,chassis=1",
    )  # fmt: skip
    assert agreed(done) > 1000
    assert [line.lower() for line in what_it_says(tmp_path)] == [
        "ready", f"plugged 0x{EDU_ID}", "unplugged", f"again 0x{EDU_ID}",
    ]  # fmt: skip
    assert of_the_late_device(done.trace) == [(0, 0x10000ED)] * 2


def test_devices_beyond_6_gib_of_ram(tmp_path: Path) -> None:
    # A BAR of 4 GiB has no place below, and the firmware puts all 64-bit ones beyond RAM then.
    large = ("-object", "memory-backend-ram,id=large,size=4G,prealloc=off",
             "-device", "ivshmem-plain,memdev=large")  # fmt: skip
    done = boot(tmp_path, "--quiet", "--check", "--memory", "6G", "--", *large)
    assert agreed(done) > 1000
    drove_its_devices(done)
    trace = read_trace(done.trace)
    starts = {
        record.region.name: record.region.start
        for record in trace.records
        if isinstance(record, RegionRecord)
    }
    reached = {access.region for record in trace.intercepts for access in record.accesses}
    above = {name for name, start in starts.items() if start >= 6 << 30} & reached
    assert {"nvme", "virtio-blk.common", "virtio-net.common"} <= above
    assert "compiled" in {
        record.via
        for record in trace.intercepts
        for access in record.accesses
        if access.region == "nvme"
    }


IVSHMEM = (
    "-object", "memory-backend-ram,id=shared,size=1M", "-device", "ivshmem-plain,memdev=shared",
)  # fmt: skip


@pytest.mark.parametrize("trap", ["entry", pytest.param("nested", marks=pytest.mark.long)])
def test_a_page_of_registers_and_ram(tmp_path: Path, trap: str) -> None:
    options = ("--region", "ivshmem-plain", "--initrd", initrd(tmp_path, SHARES, "shared"))
    untraced = boot(tmp_path / "untraced", "--quiet", "--untraced", *options, "--", *IVSHMEM)
    assert "differences 0" in untraced.serial
    done = boot(tmp_path, "--quiet", "--check", "--trap", trap, *options, "--", *IVSHMEM)
    assert "differences 0" in done.serial
    assert agreed(done) == 4
    assert "not traced" not in done.err
    trace = read_trace(done.trace)
    reached = [
        (access.direction, access.offset, access.width, access.value)
        for record in trace.intercepts
        for access in record.accesses
        if access.region is not None
    ]
    assert reached == [
        ("write", 0, 4, 0x5A),
        ("read", 0, 4, 0x5A),
        ("read", 0, 4, 0x5A),
        ("read", 0, 4, 0x5A),
    ]
    assert trace.end.counts["neighbours"] > 20
    replayed = run(tmp_path, "replay", done.trace)
    assert replayed.status == 0, replayed.out + replayed.err


@pytest.mark.parametrize("trap", [pytest.param("entry", marks=pytest.mark.long), "nested"])
def test_a_tpm(tmp_path: Path, trap: str) -> None:
    # 128 bytes of registers, and the buffer for commands and answers in the rest of their page.
    program = shutil.which("swtpm")
    need(program is not None, "swtpm")
    socket = tmp_path / "tpm"
    options = ("--tpm2", "--tpmstate", f"dir={tmp_path}", "--ctrl", f"type=unixio,path={socket}")
    with subprocess.Popen([str(program), "socket", *options, "--terminate"]) as tpm:
        while not socket.exists():
            assert tpm.poll() is None
            time.sleep(0.02)
        devices = (
            "-chardev", f"socket,id=tpm,path={socket}",
            "-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device", "tpm-crb,tpmdev=tpm0",
        )  # fmt: skip
        try:
            options = "--quiet", "--check", "--trap", trap, "--region", "tpm-crb"
            done = boot(tmp_path, *options, "--", *devices)
        finally:
            tpm.kill()
    assert agreed(done) > 50
    assert "not traced" not in done.err
    assert read_trace(done.trace).end.counts["neighbours"] > 10
