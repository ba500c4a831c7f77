"""Texts of QEMU's human monitor, where QMP and the GDB stub do not tell the same.

Ref: QEMU target/i386/cpu-dump.c (x86_cpu_dump_state), monitor/misc.c (hmp_ioport_read); texts of
several versions are in ``tests/data``. The memory map is :mod:`tracer.qemu.flat_view`'s.
"""

from __future__ import annotations

import re

from tracer.access.vcpu import DescriptorTable, DescriptorTables, VcpuState
from tracer.errors import QemuError
from tracer.x86.segment import Segment

_TABLE = re.compile(r"^(GDT|IDT)=\s*([0-9a-f]+) ([0-9a-f]+)\s*$", re.MULTILINE)

_HALTED = re.compile(r"^RIP=.* HLT=([01])\s*$", re.MULTILINE)


_VALUE = re.compile(r"\b(?:[RE](?=[IS]P=))?(IP|SP|CR[0-4]|EFER)=([0-9a-f]+)")
_TASK = re.compile(r"^TR =([0-9a-f]+) ([0-9a-f]+) ([0-9a-f]+) ", re.MULTILINE)
_SEGMENT = re.compile(
    r"^([CDEFGS]S) =([0-9a-f]+) ([0-9a-f]+) ([0-9a-f]+) ([0-9a-f]+)", re.MULTILINE
)
_DEBUG = re.compile(r"\bDR([67])=([0-9a-f]+)")
_CR0_PG, _EFER_LMA = 1 << 31, 1 << 10


def vcpu_states(registers: str) -> tuple[VcpuState, ...]:
    """Return the state of each vCPU that ``info registers`` tells of, in order.

    Raises QemuError for a text that is not of that.
    """
    states = []
    for text in re.split(r"^CPU#\d+\s*$", registers, flags=re.MULTILINE):
        if not text.strip():
            continue
        values = {name: int(value, 16) for name, value in _VALUE.findall(text)}
        task = _TASK.search(text)
        debug = {int(number): int(value, 16) for number, value in _DEBUG.findall(text)}
        try:
            states.append(
                VcpuState(
                    rip=values["IP"],
                    rsp=values["SP"],
                    cr2=values["CR2"],
                    cr3=values["CR3"],
                    cr4=values["CR4"],
                    tables=descriptor_tables(text),
                    task=int(task[2], 16) if task else 0,
                    task_limit=int(task[3], 16) if task else 0,
                    task_selector=int(task[1], 16) if task else 0,
                    paging=bool(values["CR0"] & _CR0_PG and values["EFER"] & _EFER_LMA),
                    segments={
                        name.lower(): Segment(*(int(word, 16) for word in words))
                        for name, *words in _SEGMENT.findall(text)
                    },
                    dr6=debug.get(6, 0),
                    dr7=debug.get(7, 0),
                )
            )
        except KeyError as error:
            raise QemuError(
                f"QEMU's `info registers` does not tell {error}: {text.strip()[:80]!r}"
            ) from None
    return tuple(states)


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
