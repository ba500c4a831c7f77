"""A complete log of QEMU: the arguments that it needs, and when it begins."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from tracer.qemu import access_log
from tracer.qemu.access_log import doorbell_arguments, log_accesses, ringing_drivers


@pytest.mark.parametrize(
    ("words", "drivers"),
    [
        ("-device virtio-blk-pci,id=virtio-blk,drive=d", ["virtio-blk-pci"]),
        ("--device driver=virtio-net-pci-transitional", ["virtio-net-pci-transitional"]),
        ("-device virtio-rng", ["virtio-rng-pci"]),  # QEMU knows it by an alias
        ("-device virtio-serial-device", ["virtio-mmio"]),
        ("-device ivshmem-doorbell,chardev=c", ["ivshmem-doorbell"]),
        ("-device nvme,serial=virtio-blk-pci -device e1000e", []),
        ("-drive file=d,if=virtio", ["virtio-blk-pci"]),
        ("-drive file=d,if=none,id=virtio", []),
        ('-device {"driver":"virtio-scsi-pci","id":"s"}', ["virtio-scsi-pci"]),
        ('-device {"driver":"virtio-scsi-pci", -device [1]', []),
        ('-device {"driver":["x"]} -device', []),
        ("-device virtio-blk-pci,drive=a -device virtio-blk-pci,drive=b", ["virtio-blk-pci"]),
        # One that has an I/O thread cannot do without, and a default is for all of a driver.
        ("-device virtio-blk-pci,drive=a,iothread=i -device virtio-blk-pci,drive=b", []),
        ('-device {"driver":"virtio-scsi-pci","iothread":"i"} -device virtio-rng-pci',
         ["virtio-rng-pci"]),
        ("virtio-blk-pci -device", []),
        ("-device ../../bin/sh", []),
    ],
)  # fmt: skip
def test_drivers_with_doorbells(words: str, drivers: list[str]) -> None:
    assert ringing_drivers(words.split(" ")) == drivers


def test_a_driver_without_the_property_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    async def words_of(arguments: list[str], seconds: float) -> str:
        assert arguments[:2] == ["qemu", "-device"] and seconds > 0
        if arguments[2] == "virtio-blk-pci,help":
            return "virtio-blk-pci options:\n  indirect=<bool>\n  ioeventfd=<bool> - on/off\n"
        return "virtio-balloon-pci options:\n  x-no-ioeventfd=<bool>\n"

    monkeypatch.setattr(access_log, "words_of", words_of)
    words = ["-device", "virtio-balloon-pci", "-device", "virtio-blk-pci"]
    assert asyncio.run(doorbell_arguments("qemu", words)) == [
        "-global", "virtio-blk-pci.ioeventfd=off",
    ]  # fmt: skip


class Monitor:
    """Stand in for QEMU's: note what it is told."""

    def __init__(self) -> None:
        self.told: list[object] = []

    async def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> object:
        self.told.append((command, arguments))
        return {}

    async def monitor(self, command: str) -> str:
        self.told.append(command)
        return ""


def test_what_the_user_logs_goes_on() -> None:
    qemu = Monitor()
    asyncio.run(log_accesses(qemu, ("-d", "in_asm", "-s", "-d", "int")))
    assert qemu.told == [
        "log cpu_reset,guest_errors,in_asm,int",
        "log cpu_reset,guest_errors,invalid_mem,in_asm,int",
        ("trace-event-set-state", {"name": "memory_region_ops_*", "enable": True}),
    ]


def test_configuration_is_logged_by_its_functions_where_that_is_wanted() -> None:
    qemu = Monitor()
    asyncio.run(log_accesses(qemu, (), configuration=True))
    assert qemu.told[-1] == ("trace-event-set-state", {"name": "pci_cfg_*", "enable": True})
    assert len(qemu.told) == 4


def test_interrupts_are_logged_where_that_is_wanted() -> None:
    qemu = Monitor()
    asyncio.run(log_accesses(qemu, ("-d", "in_asm"), interrupts=True))
    assert qemu.told[:2] == [
        "log cpu_reset,int,guest_errors,in_asm",
        "log cpu_reset,int,guest_errors,invalid_mem,in_asm",
    ]
