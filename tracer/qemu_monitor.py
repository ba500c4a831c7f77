"""What QEMU's human monitor prints, where QMP and the GDB stub do not tell the same.

Ref: QEMU target/i386/cpu-dump.c (x86_cpu_dump_state); texts of several versions are in
``tests/data``. The memory map is :mod:`tracer.flat_view`'s.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tracer.errors import QemuError

_TABLE = re.compile(r"^(GDT|IDT)=\s*([0-9a-f]+) ([0-9a-f]+)\s*$", re.MULTILINE)

_HALTED = re.compile(r"^RIP=.* HLT=([01])\s*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class DescriptorTable:
    """Hold what GDTR or IDTR says: linear base address, and the offset of the last byte."""

    base: int
    limit: int


@dataclass(frozen=True, slots=True)
class DescriptorTables:
    """Hold both descriptor tables of a vCPU."""

    gdt: DescriptorTable
    idt: DescriptorTable


def descriptor_tables(registers: str) -> DescriptorTables:
    """Return the descriptor tables that ``info registers`` tells of.

    Raises QemuError when it does not.
    """
    found = {
        name: DescriptorTable(int(base, 16), int(limit, 16))
        for name, base, limit in _TABLE.findall(registers)
    }
    if len(found) != 2:
        raise QemuError(
            f"QEMU's `info registers` does not tell where GDT and IDT are: {registers[:80]!r}"
        )
    return DescriptorTables(found["GDT"], found["IDT"])


def halted(registers: str) -> bool:
    """Tell whether the vCPU of ``info registers`` sleeps in HLT. Raises QemuError, too."""
    found = _HALTED.search(registers)
    if found is None:
        raise QemuError(
            f"QEMU's `info registers` does not tell whether a vCPU sleeps: {registers[:80]!r}"
        )
    return found[1] == "1"
