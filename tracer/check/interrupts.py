"""Interrupts that a guest inside the monitor was given, as QEMU's log tells them (``-d int``).

The log tells of each interrupt twice, as the monitor takes it and as the guest is given it: a line
that names the vector, one with the place, and the registers of the vCPU. Lines of several vCPUs may
come between these, and stand behind the beginning of one. Exceptions, the guest's own INT and NMIs
have no first line, and are left out.

Ref: QEMU 7.2, target/i386/tcg/sysemu/seg_helper.c (x86_cpu_exec_interrupt),
target/i386/tcg/seg_helper.c (do_interrupt_all), target/i386/cpu-dump.c (x86_cpu_dump_state).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from tracer.check.qemu_log import LogEntry
from tracer.compiled.monitor import vcpu_inside
from tracer.x86.vmcb import SVME

_SERVING = b"Servicing "
_SERVED = re.compile(rb"Servicing (virtual )?hardware INT=0x([0-9a-f]{1,2})\s*$")
_AT = re.compile(
    rb"\bv=([0-9a-f]{1,2}) e=[0-9a-f]+ i=0 cpl=([0-3]) IP=[0-9a-f]+:([0-9a-f]{1,16})"
    rb" pc=([0-9a-f]{1,16}) SP=[0-9a-f]+:([0-9a-f]{1,16})"
)
_MANAGEMENT = b"SMM: enter", b"SMM: after RSM"
_FIRST, _LAST = re.compile(rb"\b[RE]AX=[0-9a-f]+ [RE]BX="), b"EFER="
_VALUE = re.compile(rb"\b([RE]SP|[RE]IP|CR3|EFER)=([0-9a-f]{1,16})")
_BASE = re.compile(rb"(FS |GS |TR |GDT|IDT)= *(?:[0-9a-f]{4} )? *([0-9a-f]{8,16}) ")

UNKNOWN = -1
"""The address of an interrupt of whose place the log says nothing."""


@dataclass(frozen=True, slots=True)
class Served:
    """Hold an interrupt that a vCPU was given: the linear address and level at which it came.

    ``vcpu`` is None for one that is not in the monitor. ``rip`` is None where the log ends before
    the guest is given what the monitor took, and in real mode, of which the log has no place.
    """

    line: int
    vcpu: int | None
    vector: int
    rip: int | None
    cpl: int


class _Place(NamedTuple):
    # A line with a place, before the registers have been read.
    line: int
    vector: int
    cpl: int
    ip: int
    linear: int
    sp: int


class _Taken(NamedTuple):
    # An interrupt that the monitor took; what VMRUN leaves alone tells whose the guest's are.
    line: int
    vector: int
    who: tuple[int, ...]


class InterruptLog:
    """Find the interrupts in a log of a machine with so many ``vcpus``, in the order of its lines.

    A vCPU goes by its registers: TR, FS and GS are the guest's in the monitor as well. Those that
    are ``managing`` run firmware's code, which an SMI has begun.
    """

    def __init__(self, vcpus: int) -> None:
        self._vcpus = vcpus
        self._announced: Counter[tuple[bool, int]] = Counter()
        self._places: list[_Place] = []
        self._registers: dict[bytes, int] | None = None
        self.managing: set[int] = set()
        self._turns = 0
        self._taken: dict[int, _Taken] = {}
        self._known: dict[tuple[int, ...], int] = {}

    def line(self, line: bytes, number: int) -> Iterable[Served]:
        """Take a line, and return the interrupts that are complete by it."""
        due = self._announced or self._places or self._turns
        served = [*self._follow(line, number)] if due else ()
        self._turns += line.startswith(_MANAGEMENT)
        found = _SERVED.search(line) if _SERVING in line else None
        if found is not None:
            self._announced[found[1] is not None, int(found[2], 16)] += 1
        return served

    def rest(self) -> Iterator[Served]:
        """Yield what the monitor took and the log has no guest for."""
        for vcpu, taken in sorted(self._taken.items()):
            yield Served(taken.line, vcpu, taken.vector, None, 0)
        self._taken.clear()

    def _follow(self, line: bytes, number: int) -> Iterator[Served]:
        found = _AT.search(line)
        if found is not None:
            self._place(found, number)
        if _FIRST.search(line):
            self._registers = {}
        if self._registers is None:
            return
        for name, value in (*_VALUE.findall(line), *_BASE.findall(line)):
            self._registers[name.strip()] = int(value, 16)
        if line.startswith(_LAST):
            registers, self._registers = self._registers, None
            yield from self._complete(registers)

    def _place(self, found: re.Match[bytes], number: int) -> None:
        vector, cpl, ip, linear, sp = (int(part, 16) for part in found.groups())
        due = self._announced[True, vector] + self._announced[False, vector]
        if due > sum(each.vector == vector for each in self._places):
            self._places.append(_Place(number, vector, cpl, ip, linear, sp))

    # Registers are those of the vCPU at the place that they say.
    def _complete(self, registers: dict[bytes, int]) -> Iterator[Served]:
        ip = registers.get(b"RIP", registers.get(b"EIP"))
        sp = registers.get(b"RSP", registers.get(b"ESP"))
        place = next((each for each in self._places if (each.ip, each.sp) == (ip, sp)), None)
        cr3, gdt, idt = (registers.get(name, 0) for name in (b"CR3", b"GDT", b"IDT"))
        vcpu = vcpu_inside(sp or 0, cr3, gdt, idt, self._vcpus)
        if place is None:
            # An SMI comes to the monitor, and what it has begun ends there.
            if self._turns:
                self._turns -= 1
                self.managing ^= set() if vcpu is None else {vcpu}
            return
        self._places.remove(place)
        who = tuple([registers.get(name, 0) for name in (b"TR", b"FS", b"GS")])
        if vcpu is not None:
            self._done(virtual=False, vector=place.vector)
            yield from self._superseded(vcpu)
            self._taken[vcpu] = _Taken(place.line, place.vector, who)
            self._known[who] = vcpu
            return
        inside = registers.get(b"EFER", 0) & SVME
        owner = self._owner(place, who) if inside else None
        yield Served(place.line, owner, place.vector, place.linear, place.cpl)

    # The number of the guest's vCPU, whether the monitor took the interrupt for it or not.
    def _owner(self, place: _Place, who: tuple[int, ...]) -> int:
        for vcpu, taken in self._taken.items():
            if (taken.vector, taken.who) == (place.vector, who):
                self._done(virtual=True, vector=place.vector)
                del self._taken[vcpu]
                return vcpu
        self._done(virtual=not self._announced[False, place.vector], vector=place.vector)
        return self._known.get(who, 0)

    # An interrupt that the guest was never given is none; in real mode its place is not told.
    def _superseded(self, vcpu: int) -> Iterator[Served]:
        taken = self._taken.pop(vcpu, None)
        if taken is not None and self._announced[True, taken.vector]:
            self._done(virtual=True, vector=taken.vector)
            yield Served(taken.line, vcpu, taken.vector, None, 0)

    def _done(self, *, virtual: bool, vector: int) -> None:
        self._announced[virtual, vector] -= 1
        self._announced = +self._announced


class Interrupts:
    """Make entries of interrupts, beside those of accesses, of a machine with so many ``vcpus``.

    They have ``space`` set; ``address`` is the linear address at which one came, or
    :data:`UNKNOWN`, ``value`` the vector, and ``cpu`` -1 for a vCPU that is not in the monitor.
    """

    def __init__(self, vcpus: int) -> None:
        self._log = InterruptLog(vcpus)

    @property
    def managing(self) -> set[int]:
        """Return the vCPUs that run firmware's code by now, which an SMI has begun."""
        return self._log.managing

    def line(self, line: bytes, number: int) -> Iterable[LogEntry]:
        """Take a line that is no entry, and return what is complete by it."""
        return [_entry(served) for served in self._log.line(line, number)]

    def entry(self, entry: LogEntry) -> Iterable[LogEntry]:
        """Take an entry, which tells of no interrupt."""
        return ()

    def rest(self) -> Iterable[LogEntry]:
        """Return what nothing more is told about."""
        return [_entry(served) for served in self._log.rest()]


def _entry(served: Served) -> LogEntry:
    return LogEntry(
        line=served.line,
        cpu=-1 if served.vcpu is None else served.vcpu,
        direction="write",
        address=UNKNOWN if served.rip is None else served.rip,
        width=1,
        value=served.vector,
        name="",
        space="irq",
    )
