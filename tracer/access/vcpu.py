"""What is known of a vCPU that stands, and what can be changed of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tracer.x86.segment import Segment


@dataclass(frozen=True, slots=True)
class RegisterFile:
    """Hold every register of one vCPU, by GDB's names."""

    values: Mapping[str, int]

    def __getitem__(self, name: str) -> int:
        return self.values[name]


@dataclass(frozen=True, slots=True)
class SetRegister:
    """Write a register of the stopped vCPU, by GDB's name."""

    name: str
    value: int


@dataclass(frozen=True, slots=True)
class SetMemory:
    """Write guest RAM at a linear address."""

    linear: int
    data: bytes


Change = SetRegister | SetMemory


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


@dataclass(frozen=True, slots=True)
class VcpuState:
    """Hold what QEMU tells of a vCPU and its GDB stub does not, with what it is told by.

    ``task`` is the linear address of its TSS, ``task_limit`` the offset of the last byte, and
    ``task_selector`` what the task register holds.
    ``paging`` tells whether it is in long mode and translates addresses. ``segments`` are by name,
    ``dr6`` and ``dr7`` the debug registers for status and control.
    """

    rip: int
    rsp: int
    cr2: int
    cr3: int
    cr4: int
    tables: DescriptorTables
    task: int
    task_limit: int
    task_selector: int
    paging: bool
    segments: Mapping[str, Segment] = field(default_factory=dict)
    dr6: int = 0
    dr7: int = 0
