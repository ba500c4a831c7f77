"""Accesses that a confidential guest's kernel has decoded: their sites, and what it asked for.

The guest code knows no sites: a record of :data:`Kind.MMIO` has its instruction's address and code.
Here it gets the number of a site, as a thunk's record has from the start. What one site asks for
has one direction and one width.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from tracer.compiled import inputs
from tracer.compiled.layout import CODE_SIZE, RECORD_FIELDS, SLOT_SIZE
from tracer.compiled.module import MMIO_FIELDS, Kind
from tracer.compiled.reading import state_before
from tracer.compiled.ring import Raw
from tracer.errors import EmulationError
from tracer.x86.bus import Load, Store
from tracer.x86.instruction import Instruction
from tracer.x86.state import CpuState, Mode

FIRST = 1 << 31
"""The number of the first such site: thunks have those below."""

_KINDS = 0xFFFF_0000
_NUMBER = struct.Struct(f"<{RECORD_FIELDS['SITE']}xI{SLOT_SIZE - RECORD_FIELDS['SITE'] - 4}x")
_SITE = struct.Struct("<I")
_PLACE = struct.Struct(f"<{MMIO_FIELDS['RIP']}xQ{CODE_SIZE}s16xQH6x")
_CALL = struct.Struct("<QQQHH4x")

_Place = tuple[int, bytes, int, int]  # RIP, code, width, and whether it is a write


@dataclass(frozen=True, slots=True)
class AskedSite:
    """Hold an instruction at ``rip`` that the guest asks for ``width`` bytes for.

    ``insn`` is None where vetrace cannot decode it, ``code`` has all bytes that are known then.
    """

    number: int
    rip: int
    code: bytes
    insn: Instruction | None
    write: bool
    width: int


def kinds(rows: bytes) -> Iterator[Kind | None]:
    """Yield what each record tells of that no thunk has made, and None for the others.

    Inputs have the numbers of their sites.

    Raises ValueError at one of no kind.
    """
    return (
        None if number < FIRST or inputs.FIRST <= number < _KINDS else Kind(number)
        for (number,) in _NUMBER.iter_unpack(rows)
    )


def decoded(code: bytes, rip: int, mode: Mode = Mode.LONG) -> Instruction | None:
    """Return the instruction at a linear address, None where it is none that vetrace knows."""
    from tracer.x86.decode import decode  # capstone: a trace without blocks does not wait for it

    try:
        return decode(code, rip, mode)
    except EmulationError:
        return None


def of_accesses(rows: bytes) -> bytes:
    """Return the records that are of accesses. Raises ValueError as :func:`kinds`."""
    pieces = (rows[at : at + SLOT_SIZE] for at in range(0, len(rows), SLOT_SIZE))
    wanted = (None, Kind.MMIO)
    return b"".join(row for row, kind in zip(pieces, kinds(rows), strict=True) if kind in wanted)


class AskedSites:
    """Number the sites of one guest as they come, from ``first`` on."""

    def __init__(self, first: int = FIRST) -> None:
        self._first = first
        self._known: dict[_Place, int] = {}
        self._sites: dict[_Place, AskedSite] = {}

    def name(self, rows: bytes) -> tuple[bytes, list[AskedSite]]:
        """Return the records with the number of its site in each, and the sites that are new.

        Thunks' records stay as they are. Raises ValueError at what the guest code does not leave.
        """
        named = bytearray(rows)
        new: list[AskedSite] = []
        places = _PLACE.iter_unpack(rows)
        for at, (kind, place) in enumerate(zip(kinds(rows), places, strict=True)):
            if kind is not Kind.MMIO:
                continue
            number = self._known.get(place)
            if number is None:
                number = self._known[place] = self._number(place, new)
            _SITE.pack_into(named, SLOT_SIZE * at + RECORD_FIELDS["SITE"], number)
        return bytes(named), new

    def _number(self, place: _Place, new: list[AskedSite]) -> int:
        rip, code, width, write = place
        if width not in (1, 2, 4, 8) or write > 1:
            raise ValueError(f"{width} bytes in direction {write}")
        insn = decoded(code, rip)
        # Code behind it may have been patched.
        code = code if insn is None else insn.code
        key = rip, code, width, write
        site = self._sites.get(key)
        if site is None:
            site = AskedSite(self._first + len(self._sites), rip, code, insn, bool(write), width)
            self._sites[key] = site
            new.append(site)
        return site.number


@dataclass(frozen=True, slots=True)
class Asked:
    """Hold what a record says of the hypercall: R12, R13, R14, R15, RCX; and R11 of a read."""

    width: int
    write: bool
    gpa: int
    value: int
    mask: int
    answer: int

    @property
    def written(self) -> int:
        """Return what the device got, or would have got."""
        return self.value & (1 << 8 * self.width) - 1


def asked(raw: Raw) -> Asked:
    """Return what a record of :data:`Kind.MMIO` says of its hypercall."""
    value, gpa, width, write, mask = _CALL.unpack(raw.written)
    return Asked(width, bool(write), gpa, value, mask, int.from_bytes(raw.read[:8], "little"))


def rip_of(raw: Raw) -> int:
    """Return the address of the instruction of a record that is no thunk's."""
    return int.from_bytes(raw.read[8:16], "little")


@dataclass(frozen=True, slots=True)
class SharedPage:
    """Hold ``size`` bytes of RAM at ``physical``, which the guest has shared, at ``linear``.

    ``touched`` is the physical address of the first byte that was accessed there.
    """

    linear: int
    physical: int
    size: int
    touched: int


def touched(raw: Raw, window: int) -> SharedPage:
    """Return what a record of :data:`Kind.TOUCH` says."""
    size = int.from_bytes(raw.written[16:24], "little")
    physical = raw.alias - window
    return SharedPage(raw.linear & -size, physical & -size, size, physical)


def agreed(insn: Instruction, raw: Raw) -> CpuState | None:
    """Return what the instruction leaves behind, if it makes just the access that was asked for.

    The address is that of the fault: a hypercall for another one is not paired with it.
    """
    from tracer.x86.emulate import execute  # for those who ask what it left behind

    call = asked(raw)
    made = 0
    try:
        emulation = execute(insn, state_before(insn, raw))
        for access in emulation:
            made += 1
            match access:
                case Load(linear, width):
                    alike = not call.write
                case Store(linear, width, value):
                    alike = call.write and value == call.written
                case _:
                    return None
            if not alike or (linear, width) != (raw.linear, call.width):
                return None
            emulation.answer = None if call.write else call.answer
    except EmulationError:
        return None
    return emulation.after if made == 1 else None
