"""The #VE of a confidential guest that wait: for TDG.VP.VEINFO.GET, and for their hypercalls.

A kernel's handlers nest, as it enables interrupts once it has the information: so a fault and the
hypercall for it are told apart by the stack that both have, and by the physical address. The guest
code and vetrace keep the faults in one place, whoever came upon them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from tracer.compiled import layout
from tracer.compiled.layout import CODE_SIZE, RECORD_FIELDS, SLOT_SIZE
from tracer.compiled.module import (
    FAULT_COUNT,
    FAULTS,
    KEYS,
    MMIO_FIELDS,
    STACK,
    VE_SIZE,
    VES,
)
from tracer.compiled.sites import Write
from tracer.x86.state import CpuState

_WORD = struct.Struct("<Q")
_KEYS = struct.Struct(f"<{FAULT_COUNT}Q")
_VE = struct.Struct("<5Q")
_GPR = struct.Struct("<16Q")


@dataclass(frozen=True, slots=True)
class Waiting:
    """Hold a fault that was made a #VE and waits for its hypercall.

    ``cpu`` is the state of the code that made it, ``stack`` the linear address of the frame that
    the CPU has pushed, ``linear`` that of the access, ``gpa`` the physical one with the shared bit,
    ``tsc`` the time-stamp counter. ``code`` are up to 16 bytes, zeros from a page that is not
    mapped.
    """

    stack: int
    linear: int
    gpa: int
    error: int
    tsc: int
    cpu: CpuState
    code: bytes


def information_place(vcpu: int) -> tuple[int, int]:
    """Return the offset in the block and the size of a vCPU's information."""
    return VES + vcpu * VE_SIZE, _VE.size


def unpack_information(data: bytes) -> tuple[int, ...] | None:
    """Return what TDG.VP.VEINFO.GET is to give a vCPU, None where it has fetched it.

    That is RCX (the reason), RDX (the qualification), R8 (linear), R9 (physical), R10 (length).
    """
    words = _VE.unpack(data)
    return words if words[0] else None


def pack_information(vcpu: int, words: tuple[int, ...]) -> Write:
    """Return what to write so that a vCPU fetches these words, or, without any, nothing."""
    return VES + vcpu * VE_SIZE, _VE.pack(*(words or (0,) * 5))


PLACE, SIZE = KEYS, FAULTS + FAULT_COUNT * SLOT_SIZE - KEYS
"""Offset in the block and size of what :class:`Faults` is made of."""


class Faults:
    """Read the faults that wait for their hypercalls, as a guest that stands has them."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._keys = _KEYS.unpack_from(data)

    def __iter__(self) -> Iterator[Waiting]:
        return (self._fault(number) for number, key in enumerate(self._keys) if key)

    def asked(self, stack: int, gpa: int) -> Waiting | None:
        """Return the fault that a hypercall is for; ``stack`` is the address of that one's frame.

        It is the nearest above on the same stack.
        """
        found = [
            (key - stack, number)
            for number, key in enumerate(self._keys)
            if 0 < key - stack < STACK and self._word(number, "GPA") == gpa
        ]
        return self._fault(min(found)[1]) if found else None

    def keep(self, fault: Waiting) -> list[Write]:
        """Return what to write so that a fault waits for its hypercall.

        Where there is no room, the one that has waited longest gives way: its handler is gone.
        """
        number = self._number(fault.stack)
        if number is None and 0 in self._keys:
            number = self._keys.index(0)
        if number is None:
            number = min(range(FAULT_COUNT), key=lambda each: self._word(each, "TSC"))
        place = FAULTS + number * SLOT_SIZE
        return [
            (KEYS + 8 * number, _WORD.pack(0)),
            (place, _pack(fault)),
            (KEYS + 8 * number, _WORD.pack(fault.stack)),
        ]

    def forget(self, fault: Waiting) -> list[Write]:
        """Return what to write once its hypercall has come."""
        number = self._number(fault.stack)
        return [] if number is None else [(KEYS + 8 * number, _WORD.pack(0))]

    def _number(self, stack: int) -> int | None:
        return self._keys.index(stack) if stack in self._keys else None

    def _word(self, number: int, name: str) -> int:
        return _word(self._entry(number), name)

    def _entry(self, number: int) -> bytes:
        place = FAULTS - KEYS + number * SLOT_SIZE
        return self._data[place : place + SLOT_SIZE]

    def _fault(self, number: int) -> Waiting:
        entry = self._entry(number)
        return Waiting(
            stack=self._keys[number],
            linear=_word(entry, "LINEAR"),
            gpa=_word(entry, "GPA"),
            error=_word(entry, "ERROR"),
            tsc=_word(entry, "TSC"),
            cpu=CpuState(
                _GPR.unpack_from(entry, RECORD_FIELDS["GPR"]),
                _word(entry, "RIP"),
                _word(entry, "RFLAGS"),
            ),
            code=entry[MMIO_FIELDS["CODE"] :][:CODE_SIZE],
        )


def _word(entry: bytes, name: str) -> int:
    offset = MMIO_FIELDS.get(name)
    (word,) = _WORD.unpack_from(entry, RECORD_FIELDS[name] if offset is None else offset)
    return int(word)


def _pack(fault: Waiting) -> bytes:
    entry = bytearray(SLOT_SIZE)
    words = {
        RECORD_FIELDS["TSC"]: fault.tsc,
        RECORD_FIELDS["LINEAR"]: fault.linear,
        RECORD_FIELDS["ERROR"]: fault.error,
        RECORD_FIELDS["RFLAGS"]: fault.cpu.rflags,
        MMIO_FIELDS["GPA"]: fault.gpa,
        MMIO_FIELDS["RIP"]: fault.cpu.rip,
    }
    for offset, word in words.items():
        _WORD.pack_into(entry, offset, word)
    _GPR.pack_into(entry, RECORD_FIELDS["GPR"], *fault.cpu.gpr)
    entry[MMIO_FIELDS["CODE"] : MMIO_FIELDS["CODE"] + CODE_SIZE] = fault.code.ljust(
        CODE_SIZE, b"\0"
    )[:CODE_SIZE]
    return bytes(entry)


assert layout.MODULE_DATA < PLACE and PLACE + SIZE <= layout.THUNKS
