"""QEMU's own log of the accesses to its devices: how it is made complete, and when it begins.

Ref: QEMU docs/devel/tracing.rst; qapi/trace.json (trace-event-set-state); util/log.c (the items of
``-d``); softmmu/memory.c, memory_region_dispatch_write_eventfds: a write that an ioeventfd takes
is in no trace event.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Protocol

from tracer.host.process import words_of
from tracer.qemu.log import MAP_EVENT

_ALWAYS = "cpu_reset"
"""The items that are logged from the first instruction on: how the guest ends."""
_EVENTS = "memory_region_ops_*"
_CONFIGURATION_EVENTS = "pci_cfg_*"
_INTERRUPTS = "int"
"""The item of the log that tells of interrupts and exceptions, with all registers at each."""
# Accesses of a width or alignment that a device does not take are in no trace event: items of the
# log tell of them, whose name changed with QEMU 10.0.
_REFUSALS = ("guest_errors", "guest_errors,invalid_mem")
_ALIAS = re.compile(r"virtio-[a-z0-9]+")
_BELLS = re.compile(r"virtio-[a-z0-9-]+|ivshmem-doorbell")
_HELP_TIMEOUT = 20.0


class Monitor(Protocol):
    """Stand for the monitor of a running QEMU."""

    async def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> object:
        """Carry out a QMP command."""

    async def monitor(self, command: str) -> str:
        """Carry out a command of the human monitor."""


def log_arguments(path: str) -> list[str]:
    """Return the QEMU arguments that say where the log goes, and what is in it from the start."""
    return ["-D", path, "-d", _ALWAYS, "-trace", MAP_EVENT]


async def log_accesses(
    qemu: Monitor,
    extra: Sequence[str],
    *,
    configuration: bool = False,
    interrupts: bool = False,
) -> None:
    """Have every access to a device logged from here on; the guest stands.

    With ``configuration`` those to PCI configuration space are logged by their functions as well,
    and with ``interrupts`` what each vCPU takes.
    ``extra`` are the user's own QEMU arguments: what they log goes on. Firmware polls: were it
    switched on from the first instruction, its accesses could fill a disk before the kernel has
    been entered.
    """
    wanted = [value for option, value in pairwise(extra) if option in ("-d", "--d")]
    always = [_ALWAYS, *([_INTERRUPTS] if interrupts else ())]
    for items in _REFUSALS:
        # An older QEMU leaves all as it is when it does not know one.
        await qemu.monitor(f"log {','.join([*always, items, *wanted])}")
    for events in (_EVENTS, _CONFIGURATION_EVENTS) if configuration else (_EVENTS,):
        await qemu.execute("trace-event-set-state", {"name": events, "enable": True})


async def doorbell_arguments(program: str, words: Sequence[str]) -> list[str]:
    """Return the QEMU arguments that keep doorbells from being taken by an ioeventfd.

    ``words`` are the other arguments. Each of the drivers in them is asked whether it has the
    property, as a property that it does not know would stop QEMU; a device with an I/O thread
    cannot do without.
    """
    drivers = ringing_drivers(words)
    helps = await asyncio.gather(
        *(words_of([program, "-device", f"{driver},help"], _HELP_TIMEOUT) for driver in drivers)
    )
    return [
        word
        for driver, told in zip(drivers, helps, strict=True)
        if re.search(r"^\s*ioeventfd=", told, re.MULTILINE)
        for word in ("-global", f"{driver}.ioeventfd=off")
    ]


def ringing_drivers(words: Sequence[str]) -> list[str]:
    """Return the drivers in QEMU's arguments that may have doorbells, without those that must."""
    found: dict[str, bool] = {}
    for driver, options in _devices(words):
        if _ALIAS.fullmatch(driver):
            driver += "-pci"
        elif driver.startswith("virtio-") and driver.endswith("-device"):
            driver = "virtio-mmio"  # the transport has the property
        if _BELLS.fullmatch(driver):
            found[driver] = found.get(driver, True) and "iothread" not in options
    return [driver for driver, possible in found.items() if possible]


def _devices(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    # Each device's driver and options, as -device and -drive have them.
    for option, value in pairwise(words):
        if option in ("-drive", "--drive") and "if=virtio" in value.split(","):
            yield "virtio-blk-pci", value
        elif option in ("-device", "--device"):
            yield _driver(value), value


def _driver(value: str) -> str:
    if value.startswith("{"):
        try:
            told = json.loads(value)
        except ValueError:
            return ""  # QEMU will say what is wrong
        return str(told.get("driver", "")) if isinstance(told, dict) else ""
    return value.partition(",")[0].removeprefix("driver=")
