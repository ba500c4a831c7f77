"""Sizes of memory, as the command line has them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tracer.bare.guidance import guidance
from tracer.compiled.inputs import Input
from tracer.confidential.kind import Kind
from tracer.errors import UsageError
from tracer.guest.equipment import Equipment
from tracer.guest.software import Software
from tracer.launch.plan import (
    USUAL_INPUTS,
    Plan,
    check_bare,
    check_plan,
    parse_inputs,
    parse_memory,
    parse_trap,
    ways,
)
from tracer.qemu.firmware import Firmware


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512M", 512 << 20),
        ("2G", 2 << 30),
        ("1g", 1 << 30),
        ("64", 64 << 20),
        ("131072K", 128 << 20),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_memory(text) == size


@pytest.mark.parametrize(
    "text", ["", "M", "12T", "-512M", "0", "63M", "512.5M", "65537K", "1 G", "0x200", "lots"]
)
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_memory(text)
    assert "\n" not in str(caught.value)


def test_room_for_more_memory_is_told_to_qemu_itself() -> None:
    with pytest.raises(UsageError, match=r"-M memory\.slots=N,memory\.max-size=SIZE$"):
        parse_memory("512M,slots=2,maxmem=2G")


@pytest.mark.parametrize(
    ("extra", "instead"),
    [
        (("-m", "5G"), "--memory"),
        (("-device", "edu", "-m", "size=5G,slots=2"), "--memory"),
        (("--append", "quiet"), "--append"),
        (("-kernel", "bzImage"), "--kernel"),
        (("-initrd", "initrd.img"), "--initrd"),
        (("-s",), "GDB stub"),
        (("-device", "edu", "-gdb", "tcp::1234"), "GDB stub"),
        (("-daemonize",), "ends with vetrace"),
    ],
)
def test_what_vetrace_has_to_know_itself_is_no_qemu_argument(
    extra: tuple[str, ...], instead: str
) -> None:
    with pytest.raises(UsageError, match=instead):
        check_plan(Plan(extra=extra))


def test_other_qemu_arguments_are_taken() -> None:
    check_plan(Plan(extra=("-device", "edu", "-machine", "pc", "-smp", "2", "--", "-")))


def test_configuration_space_is_recorded_where_ports_are() -> None:
    assert parse_inputs("config") == parse_inputs("port") == {Input.PORT}
    assert parse_inputs("msi") == parse_inputs("irq") == {Input.IRQ}
    assert parse_inputs("msr, config") == {Input.MSR, Input.PORT}
    assert parse_inputs(USUAL_INPUTS) == {Input.PORT, Input.MSR, Input.CPUID, Input.IRQ}
    with pytest.raises(UsageError, match="confg"):
        parse_inputs("confg")


def test_a_disk_without_a_kernel_has_its_own() -> None:
    disks = Equipment(disks=(Path("debian.qcow2"), Path("data.raw")))
    assert Plan(equipment=disks).installed == Path("debian.qcow2")
    assert Plan(equipment=disks, kernel=Path("bzImage")).installed is None
    assert Plan().installed is None
    for software in (Software(("nvme",)), Software(added=("edu",)), Software(script=Path("try"))):
        assert Plan(equipment=disks, software=software).installed is None
    check_plan(Plan(equipment=disks, firmware=Firmware.UEFI))
    check_plan(Plan(equipment=disks, kernel=Path("bzImage"), append="quiet", kaslr=True))


@pytest.mark.parametrize(
    ("more", "option"),
    [
        ({"append": "quiet"}, "--append"),
        ({"initrd": Path("initrd.img")}, "--initrd"),
        ({"symbols": Path("System.map")}, "--symbols are those of a kernel: give its file"),
        ({"kaslr": True}, "--kaslr"),
        ({"guest": Kind.TDX}, "--guest tdx"),
    ],
)
def test_what_a_boot_loader_decides_is_not_vetraces(more: dict[str, Any], option: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_plan(Plan(equipment=Equipment(disks=(Path("debian.qcow2"),)), **more))
    assert option in str(caught.value) and "--kernel" in str(caught.value)


def test_what_is_said_of_another_guest_than_linux() -> None:
    image = Path("image.elf")
    every = guidance("main", ["f(linear=rdx)"])
    check_plan(Plan(kernel=image, guidance=every))
    check_plan(Plan(kernel=image, guidance=guidance("main"), nested=True))
    with pytest.raises(UsageError, match="--attach-at is for a guest that is not Linux"):
        check_plan(Plan(guidance=every))
    for said, option in (
        (every, "--mapping"),
        (guidance(stub="0x1000"), "--stub-at"),
        (guidance(look="1s"), "--look-again"),
    ):
        with pytest.raises(UsageError, match=f"{option} says nothing with --trap nested"):
            check_plan(Plan(kernel=image, guidance=said, nested=True))


@pytest.mark.parametrize(
    ("more", "option"),
    [
        ({"software": Software(modules=("edu",))}, "--module"),
        ({"software": Software(added=("a",))}, "--add"),
        ({"software": Software(script=Path("a"))}, "--init"),
        ({"kaslr": True}, "--kaslr"),
    ],
)
def test_what_is_said_of_linux_to_another_guest(more: dict[str, Any], option: str) -> None:
    image = Path("image.elf")
    check_bare(Plan(kernel=image, initrd=image, append="quick", memory=1 << 28), image)
    with pytest.raises(UsageError, match=f"{option} is for Linux, and image.elf is not"):
        check_bare(Plan(kernel=image, **more), image)


def test_traps_are_where_they_are_named() -> None:
    assert parse_trap("nested") and not parse_trap("entry")
    with pytest.raises(UsageError, match="did you mean nested"):
        parse_trap("nestd")


@pytest.mark.parametrize("kind", [Kind.TDX, Kind.SEV_ES])
def test_a_confidential_guest_has_no_nested_traps(kind: Kind) -> None:
    with pytest.raises(UsageError, match="drop --trap nested"):
        check_plan(Plan(guest=kind, nested=True))


def test_nested_traps_come_behind_entries_where_nobody_says() -> None:
    plan = Plan()
    nested = replace(plan, nested=True)
    assert ways(plan, None) == (plan, nested)
    assert ways(plan, True) == (nested,)
    assert ways(plan, False) == (plan,)
    assert ways(Plan(guest=Kind.TDX), None) == (Plan(guest=Kind.TDX),)
    begun = Plan(from_reset=True)
    assert ways(begun, None) == (replace(begun, nested=True),)
    with pytest.raises(UsageError, match="--from-reset is for --trap nested"):
        ways(begun, False)


def test_what_can_be_traced_from_reset() -> None:
    check_plan(Plan(nested=True, from_reset=True))
    for plan, why in (
        (Plan(from_reset=True), "is for --trap nested"),
        (Plan(guest=Kind.TDX, nested=True, from_reset=True), "drop --from-reset"),
    ):
        with pytest.raises(UsageError, match=why):
            check_plan(plan)
