"""Answers of a made-up QEMU about its CPUs."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from tracer.qemu.cpu import has_features, lacks_long_mode, physical_bits, vcpus, virtualised


class Qemu:
    def __init__(self, **properties: object) -> None:
        self.properties = properties

    async def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> object:
        match command:
            case "query-cpus-fast":
                return [{"qom-path": "/cpu[0]"}, {"qom-path": "/cpu[1]"}]
            case "query-kvm":
                return {"enabled": self.properties["kvm"], "present": True}
            case "query-target":
                return {"arch": self.properties["arch"]}
        assert arguments is not None and arguments["path"] == "/cpu[0]"
        return self.properties[str(arguments["property"])]


def test_the_first_cpu_tells_of_all() -> None:
    assert asyncio.run(physical_bits(Qemu(**{"phys-bits": 46}))) == 46
    assert asyncio.run(physical_bits(Qemu(**{"phys-bits": 0}))) == 40
    assert asyncio.run(vcpus(Qemu())) == 2


def test_features_are_there_together_or_not_at_all() -> None:
    assert asyncio.run(has_features(Qemu(mce=True, mca=True), "mce", "mca"))
    assert not asyncio.run(has_features(Qemu(mce=True, mca=False), "mce", "mca"))


def test_who_runs_the_guest() -> None:
    assert asyncio.run(virtualised(Qemu(kvm=True)))
    assert not asyncio.run(virtualised(Qemu(kvm=False)))


def test_a_qemu_that_has_no_64_bit_cpus_lacks_none() -> None:
    assert asyncio.run(lacks_long_mode(Qemu(arch="x86_64", lm=False)))
    assert not asyncio.run(lacks_long_mode(Qemu(arch="x86_64", lm=True)))
    assert not asyncio.run(lacks_long_mode(Qemu(arch="i386", lm=False)))
