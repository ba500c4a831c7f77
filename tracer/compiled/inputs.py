"""What a guest is given beside memory: the records that its monitor leaves, and their sites.

A guest that runs inside the monitor leaves for it at each IN and OUT, RDMSR and WRMSR, CPUID, and
where that is wanted RDTSC; and before it takes an external interrupt. ``source/monitor.S`` carries
the instruction out, or takes the interrupt for the guest, and leaves a record in the ring of
compiled sites. That has the address of the instruction, and a program's bytes, which may be over
before the record is taken: who takes it reads those of the kernel, and gives it the number of a
site here. The site of an interrupt is where it came.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from tracer.compiled.layout import CODE_SIZE, RECORD_FIELDS, SLOT_SIZE
from tracer.compiled.ring import Raw
from tracer.x86.bus import Direction, Out, PortAccess
from tracer.x86.instruction import Instruction
from tracer.x86.state import RAX, RBX, RCX, RDI, RDX, RSI, CpuState, Flag, Mode

FIRST = 0xC000_0000
"""The number of the first site of inputs: those of memory are below."""


class Input(IntEnum):
    """Say what a record of the monitor's is about, in place of the number of a site."""

    PORT = 0xFFFF_FE01
    MSR = 0xFFFF_FE02
    CPUID = 0xFFFF_FE03
    TSC = 0xFFFF_FE04
    IRQ = 0xFFFF_FE05


INPUT_FIELDS = {
    "ADDRESS": RECORD_FIELDS["LINEAR"], "CPL": RECORD_FIELDS["ERROR"],
    "VALUE": RECORD_FIELDS["READ"], "RIP": 208, "NEXT": 216, "MANNER": 224, "CR3": 232,
    "CODE": 240,
}  # fmt: skip
"""Offsets in a record of the monitor's. ``ADDRESS`` is the port, the index of the MSR, the vector
of an interrupt, or the leaf of CPUID and from bit 32 on the subleaf; ``VALUE`` what was read or
written: of CPUID the four registers EAX to EDX, 4 bytes each. ``MANNER`` is :class:`Manner`.
``NEXT`` is RIP behind the instruction, and RIP itself while a string instruction repeats. ``CODE``
are :data:`CODE_SIZE` bytes of a program's from RIP on, zeros from a page that is not mapped, and
zeros of other code."""

_PROGRAM = 3
"""The privilege level of programs."""
_MANNER = struct.Struct("<4B")
_REST = struct.Struct("<QQ4B4xQ")
_PLACE = struct.Struct(
    f"<{RECORD_FIELDS['SITE']}xI4xI{INPUT_FIELDS['RIP'] - RECORD_FIELDS['ERROR'] - 4}xQ8x4s4xQ"
    f"{CODE_SIZE}s"
)
_NO_CODE = bytes(CODE_SIZE)
assert _PLACE.size == SLOT_SIZE
_SITE = struct.Struct("<I")


class Manner(NamedTuple):
    """Say how the access was made: its bytes, whether it writes, in code of 16, 32 or 64 bits.

    ``raised`` tells that the CPU has raised an exception in its place.
    """

    width: int
    write: int
    mode: int
    raised: int

    @property
    def direction(self) -> Direction:
        """Return the way of the access."""
        return "write" if self.write else "read"


class InputPlace(NamedTuple):
    """Name the code of an input: its linear address, its mode, and CR3.

    A ``program`` has addresses of its own, and ``code`` are its bytes where its record has them.
    """

    rip: int
    mode: Mode
    tables: int
    program: bool
    code: bytes = b""


@dataclass(frozen=True, slots=True)
class InputSite:
    """Hold an instruction that left the guest, and the access that it makes of ``kind``.

    ``insn`` is None where its bytes could not be read, or are another instruction's by now, and
    where an interrupt came before it.
    """

    number: int
    kind: Input
    place: InputPlace
    manner: Manner
    insn: Instruction | None


_KINDS = frozenset(Input)

_MNEMONICS = {
    Input.PORT: ("in", "insb", "insw", "insd", "out", "outsb", "outsw", "outsd"),
    Input.MSR: ("rdmsr", "wrmsr"),
    Input.CPUID: ("cpuid",),
    Input.TSC: ("rdtsc", "rdtscp"),
}


def of_kinds(rows: bytes, wanted: Collection[Input]) -> bytes:
    """Return rows without those of inputs that are not wanted."""
    unwanted = _KINDS.difference(wanted)
    numbers = [number for (number, *_) in _PLACE.iter_unpack(rows)]
    if unwanted.isdisjoint(numbers):
        return rows
    return b"".join(
        rows[SLOT_SIZE * at : SLOT_SIZE * (at + 1)]
        for at, number in enumerate(numbers)
        if number not in unwanted
    )


class InputSites:
    """Number the sites of one guest's inputs as they come, from ``first`` on.

    ``look`` returns the instruction at a place, None where there is none that vetrace knows: it is
    the one that a place has the code of.
    """

    def __init__(
        self, look: Callable[[InputPlace], Instruction | None], first: int = FIRST
    ) -> None:
        self._look = look
        self._first = first
        self._known: dict[tuple[int, int, int, bytes, int, bytes], int] = {}
        self._count = 0

    def name(self, rows: bytes) -> tuple[bytes, list[InputSite]]:
        """Return the records with the number of its site in each, and the sites that are new.

        The site has the code from then on, the record no more. Other records stay as they are.
        Raises ValueError at what the monitor does not leave.
        """
        named = bytearray(rows)
        new: list[InputSite] = []
        for at, key in enumerate(_PLACE.iter_unpack(rows)):
            if key[0] not in _KINDS:
                continue
            kind, cpl, rip, manner, tables, code = key
            own = cpl == _PROGRAM and kind != Input.IRQ  # code that is looked at is a program's own
            code = code if own and code != _NO_CODE else b""
            key = kind, cpl, rip, manner, tables if own else 0, code
            number = self._known.get(key)
            if number is None:
                site = self._site(Input(kind), cpl, rip, manner, tables, code)
                new.append(site)
                number = self._known[key] = site.number
            _SITE.pack_into(named, SLOT_SIZE * at + RECORD_FIELDS["SITE"], number)
            end = SLOT_SIZE * (at + 1)
            named[end - CODE_SIZE : end] = _NO_CODE
        return bytes(named), new

    def _site(
        self, kind: Input, cpl: int, rip: int, how: bytes, tables: int, code: bytes
    ) -> InputSite:
        manner = Manner._make(_MANNER.unpack(how))
        if cpl > _PROGRAM or manner.write > 1 or manner.mode not in (16, 32, 64):
            raise ValueError(f"an input made in the manner {how.hex()} at level {cpl}")
        place = InputPlace(rip, Mode(manner.mode), tables, cpl == _PROGRAM, code)
        insn = None if kind is Input.IRQ else self._look(place)
        if insn is not None and not is_input(insn, kind):
            insn = None  # the code has been changed since
        self._count += 1
        return InputSite(self._first + self._count - 1, kind, place, manner, insn)


def is_input(insn: Instruction, kind: Input) -> bool:
    """Tell whether an instruction is one by which a guest is given an input of a kind."""
    # A prefix may stand before the name.
    return any(word in _MNEMONICS[kind] for word in insn.text.split())


@dataclass(frozen=True, slots=True)
class Given:
    """Hold what a record of the monitor's says.

    ``address`` is as in :data:`INPUT_FIELDS`, ``values`` are what each access had: of CPUID four.
    ``following`` is RIP afterwards.
    """

    address: int
    values: tuple[int, ...]
    manner: Manner
    following: int
    cpl: int

    @property
    def direction(self) -> Direction:
        """Return the way of the access."""
        return self.manner.direction


def given(raw: Raw, kind: Input) -> Given:
    """Return what a record of the monitor's says, of that kind."""
    _, following, *how, _ = _REST.unpack_from(raw.read[16:] + raw.written)
    manner = Manner._make(how)
    data = raw.read[:16]
    values: tuple[int, ...] = struct.unpack("<4I", data)
    if kind is not Input.CPUID:
        values = (int.from_bytes(data[: manner.width], "little"),)
    return Given(raw.linear, values, manner, following, raw.error)


def port_row(
    access: PortAccess, value: int, insn: Instruction, before: CpuState, tables: int, vcpu: int,
    counter: int,
) -> bytes:  # fmt: skip
    """Return the record that the monitor would leave of one element of INS or OUTS.

    It had ``value``, with the registers ``before``. ``tables`` are CR3, as in
    :data:`INPUT_FIELDS`, ``counter`` is the time-stamp counter.
    """
    row = bytearray(SLOT_SIZE)
    writes = isinstance(access, Out)
    manner = Manner(access.width, writes, before.mode.value, 0)
    told = Given(access.port, (value,), manner, insn.next_rip, before.cpl)
    following = _behind_string(insn, told, before).rip
    for name, form, words in (
        ("TSC", "Q", (counter,)),
        ("LINEAR", "Q", (access.port,)),
        ("SITE", "IH", (Input.PORT, vcpu)),
        ("ERROR", "I", (before.cpl,)),
        ("RFLAGS", "Q", (before.rflags,)),
        ("GPR", "16Q", before.gpr),
        ("READ", "Q", (value,)),
    ):
        struct.pack_into(f"<{form}", row, RECORD_FIELDS[name], *words)
    _REST.pack_into(row, INPUT_FIELDS["RIP"], before.rip, following, *manner, tables)
    return bytes(row)


# One element of INS or OUTS has been moved (SDM vol. 2A, INS; REP).
def _behind_string(insn: Instruction, told: Given, before: CpuState) -> CpuState:
    gpr = list(before.gpr)
    bits = 8 * insn.address_size
    index = RSI if told.manner.write else RDI
    step = -told.manner.width if before.rflags & Flag.DF else told.manner.width
    gpr[index] = _advanced(gpr[index], step, bits)
    rip = insn.next_rip
    if insn.rep is not None:
        gpr[RCX] = _advanced(gpr[RCX], -1, bits)
        rip = before.rip if gpr[RCX] & (1 << bits) - 1 else rip
    return CpuState(tuple(gpr), rip, before.rflags, mode=before.mode)


def _advanced(value: int, step: int, bits: int) -> int:
    low = (1 << bits) - 1
    kept = 0 if bits == 32 else value & ~low & (1 << 64) - 1
    return kept | value + step & low


def rip_of_input(raw: Raw) -> int:
    """Return the linear address of the instruction of a record of the monitor's."""
    return int.from_bytes(raw.read[16:24], "little")


def state_behind(
    kind: Input, told: Given, before: CpuState, insn: Instruction | None = None
) -> CpuState:
    """Return the registers behind an instruction, or behind one iteration of it.

    An interrupt comes before one: what its delivery changes is not told.
    """
    gpr = list(before.gpr)
    if told.manner.raised or kind is Input.IRQ:
        return before
    if insn is not None and insn.address_size:
        return _behind_string(insn, told, before)
    if kind is Input.CPUID:
        for register, value in zip((RAX, RBX, RCX, RDX), told.values, strict=True):
            gpr[register] = value
    elif not told.manner.write:
        (value,) = told.values
        if kind is Input.PORT:
            width = told.manner.width
            kept = 0 if width == 4 else gpr[RAX] >> 8 * width << 8 * width
            gpr[RAX] = kept | value
        else:
            gpr[RAX], gpr[RDX] = value & 0xFFFF_FFFF, value >> 32
    return CpuState(tuple(gpr), told.following, before.rflags, mode=before.mode)
