"""A made-up object tree of QEMU tells what hardware a guest will find."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from tracer.confidential.kind import Hardware
from tracer.errors import QemuError
from tracer.qemu.hardware import hardware

CPU = "/machine/unattached/device[0]"
TREE: dict[str, dict[str, object]] = {
    "/machine": {"firmware": "bios-256k.bin"},
    CPU: {"vendor": "GenuineIntel", "phys-bits": 40, "la57": False},
    "/machine/peripheral/nvme": {"serial": "x"},
    "/machine/peripheral/disk": {"iommu_platform": True},
    "/machine/peripheral/other": {"iommu_platform": False},
    "/machine/peripheral-anon/device[0]": {"iommu_platform": False},
    "/machine/unattached/device[7]": {"iommu_platform": False},
    "/machine/unattached/pc.rom[0]": {"size": 1},
}


class Tree:
    # Stands for QEMU's monitor; a device's type is `x-` and its name.

    def __init__(self, changes: Mapping[str, dict[str, object]]) -> None:
        self.objects = {path: TREE.get(path, {}) | changes.get(path, {}) for path in TREE}

    async def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> Any:
        words = arguments or {}
        path = str(words.get("path"))
        match command:
            case "query-cpus-fast":
                return [{"qom-path": CPU}]
            case "qom-list":
                names = [p.rpartition("/")[2] for p in self.objects if p.rpartition("/")[0] == path]
                members = [{"name": name, "type": f"child<x-{name}>"} for name in names]
                return [{"name": "type", "type": "string"}, *members]
            case "qom-get" if words["property"] in self.objects.get(path, {}):
                return self.objects[path][str(words["property"])]
        raise QemuError(f"QEMU did not carry out {command}")


def asked(**machine: object) -> Hardware:
    return asyncio.run(hardware(Tree({"/machine": machine})))


def test_what_the_cpu_has_and_which_devices_reach_past_the_bounce_buffers() -> None:
    assert asked() == Hardware(
        "GenuineIntel",
        40,
        five_levels=False,
        exposed=("other (x-other)", "x-device[0]", "x-device[7]"),
    )


@pytest.mark.parametrize(
    ("machine", "name"),
    [({"firmware": "/usr/share/OVMF.fd"}, "OVMF.fd"), ({"pflash0": "pflash0"}, "flash memory")],
)
def test_other_firmware(machine: dict[str, object], name: str) -> None:
    assert asked(**machine).firmware == name


def test_firmware_that_is_named_by_its_path_is_the_same() -> None:
    assert not asked(firmware="/usr/share/seabios/bios-256k.bin", pflash0="").firmware
