"""QEMU's object tree is asked before the first instruction which hardware a guest will find.

Ref: QEMU docs/devel/qom.rst; qapi/qom.json (qom-list, qom-get); hw/virtio/virtio.c
(``iommu_platform``); hw/i386/pc_sysfw.c (``pflash0``).
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import PurePath
from typing import Protocol

from tracer.confidential.kind import Hardware
from tracer.errors import QemuError

_DEVICES = ("/machine/peripheral", "/machine/peripheral-anon", "/machine/unattached")
_SEABIOS = ("bios.bin", "bios-256k.bin", "bios-microvm.bin")


class Monitor(Protocol):
    """Stand for the monitor of a running QEMU."""

    async def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> object:
        """Carry out a QMP command. Raises QemuError."""


async def hardware(qemu: Monitor) -> Hardware:
    """Ask QEMU what its guest has. Raises QemuError."""
    cpus = await qemu.execute("query-cpus-fast")
    cpu = str(cpus[0]["qom-path"]) if isinstance(cpus, list) and cpus else ""
    bits = await _get(qemu, cpu, "phys-bits")
    firmware = PurePath(str(await _get(qemu, "/machine", "firmware") or _SEABIOS[0])).name
    flash = await _get(qemu, "/machine", "pflash0")
    return Hardware(
        vendor=str(await _get(qemu, cpu, "vendor")),
        physical_bits=bits if isinstance(bits, int) else 0,
        five_levels=await _get(qemu, cpu, "la57") is True,
        firmware="flash memory" if flash else "" if firmware in _SEABIOS else firmware,
        vcpus=len(cpus) if isinstance(cpus, list) else 1,
        exposed=tuple([name async for name in _exposed(qemu)]),
    )


async def _exposed(qemu: Monitor) -> AsyncIterator[str]:
    for folder in _DEVICES:
        for name, type_ in await _members(qemu, folder):
            # Under `unattached` is memory, too, and there are wires.
            if not type_.startswith("child<") or (
                folder.endswith("unattached") and not name.startswith("device[")
            ):
                continue
            path = f"{folder}/{name}"
            if await _get(qemu, path, "iommu_platform") is False:
                kind = type_.removeprefix("child<").removesuffix(">")
                yield f"{name} ({kind})" if folder == _DEVICES[0] else kind


async def _members(qemu: Monitor, path: str) -> list[tuple[str, str]]:
    listed = await qemu.execute("qom-list", {"path": path})
    items = listed if isinstance(listed, list) else []
    return [(str(item["name"]), str(item["type"])) for item in items]


async def _get(qemu: Monitor, path: str, name: str) -> object:
    # None where the object has no such property.
    with contextlib.suppress(QemuError):
        return await qemu.execute("qom-get", {"path": path, "property": name})
    return None
