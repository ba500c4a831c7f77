"""QEMU is asked what CPUs its guest has, and who runs them.

Ref: QEMU qapi/machine.json (query-cpus-fast, query-kvm, query-target); target/i386/cpu.c
(``feature_word_info``).
"""

from __future__ import annotations

from collections.abc import Mapping

from tracer.qemu.hardware import Monitor

_USUAL_BITS = 40


async def physical_bits(qemu: Monitor) -> int:
    """Return MAXPHYADDR of the guest's CPUs (Intel SDM vol. 3A, 4.1.4). Raises QemuError."""
    bits = await _property(qemu, "phys-bits")
    return bits if isinstance(bits, int) and bits else _USUAL_BITS


async def has_features(qemu: Monitor, *names: str) -> bool:
    """Tell whether the guest's CPUs have all of some features. Raises QemuError."""
    return all([await _property(qemu, name) is True for name in names])


async def lacks_long_mode(qemu: Monitor) -> bool:
    """Tell whether the guest's CPUs are 32-bit ones by choice: QEMU itself has others.

    Raises QemuError.
    """
    target = await qemu.execute("query-target")
    able = isinstance(target, Mapping) and target.get("arch") == "x86_64"
    return able and not await has_features(qemu, "lm")


async def vcpus(qemu: Monitor) -> int:
    """Return how many vCPUs the guest has. Raises QemuError."""
    cpus = await qemu.execute("query-cpus-fast")
    return len(cpus) if isinstance(cpus, list) else 1


async def virtualised(qemu: Monitor) -> bool:
    """Tell whether the host's CPU runs the guest by KVM. Raises QemuError."""
    told = await qemu.execute("query-kvm")
    return isinstance(told, Mapping) and told.get("enabled") is True


async def _property(qemu: Monitor, name: str) -> object:
    cpus = await qemu.execute("query-cpus-fast")
    path = cpus[0]["qom-path"] if isinstance(cpus, list) and cpus else ""
    return await qemu.execute("qom-get", {"path": path, "property": name})
