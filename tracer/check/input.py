"""Whether a record of the monitor's is what its instruction does, as far as that is known.

The instruction says which port, MSR or leaf is meant, how wide the access is, and what is written.
What was read says which registers changed. The record's own access says which others it has, in
which places.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from tracer.check.divergence import Contrast
from tracer.compiled.inputs import Given, Input, Manner, is_input, state_behind
from tracer.compiled.message import Message
from tracer.errors import EmulationError
from tracer.trace.configuration import REGION
from tracer.trace.inputs import (
    CHANGED,
    INPUT_SPACES,
    LEFT_OUT,
    RAISED,
    accesses_made,
    accesses_of,
    interrupt_of,
    message_access,
)
from tracer.trace.member import Space
from tracer.trace.record import Intercept, MemoryAccess
from tracer.trace.registers import Deferred, changed_values
from tracer.x86.decode import decode
from tracer.x86.instruction import Instruction
from tracer.x86.state import GPR, CpuState, Mode

_KINDS = {space: kind for kind, space in INPUT_SPACES.items()}
_WIDTHS: dict[Space, int] = {"cpuid": 4, "irq": 1}  # 8 elsewhere
_NEEDED = ("rip", "rflags", *GPR)
_PREFIXES = frozenset(b"\x66\x67\x2e\x36\x3e\x26\x64\x65\xf2\xf3")
_LOW = 0xFFFF_FFFF
_MESSAGES = 0xFEE
"""Bits 20 and above of an address that is a message's."""


def is_known(record: Intercept) -> bool:
    """Tell whether a record has the bytes and the registers that say what it is."""
    if interrupt_of(record.accesses) is not None:
        return True
    return bool(record.code) and {"rax", "rcx", "rdx"} <= record.before.keys()


def contrasts_of_input(record: Intercept) -> list[Contrast]:
    """Return how a record of an input differs from what its instruction does."""
    before, access = record.before, _own(record)
    match access.space:
        case "port":
            return [*_of_port(record, access)]
        case "msr":
            wrong = [*_same("index", before["rcx"] & _LOW, access.physical)]
            if access.direction == "write":
                written = before["rdx"] << 32 & _LOW << 32 | before["rax"] & _LOW
                wrong += _same("value", written, access.value)
            return wrong
        case "cpuid":
            leaf = (before["rcx"] & _LOW) << 32 | before["rax"] & _LOW
            return [*_same("leaf", leaf, access.physical)]
        case "irq":
            return [*_same("vector", access.physical & 0xFF, access.value)]
        case _:
            return []


# Ref: Intel SDM vol. 2A and 2B, IN, OUT, INS, OUTS: E4 to E7, EC to EF, 6C to 6F.
def _of_port(record: Intercept, access: MemoryAccess) -> Iterator[Contrast]:
    code, wide = record.code, record.mode != 16
    at = 0
    while code[at] in _PREFIXES or (record.mode == 64 and code[at] >> 4 == 4):
        wide ^= code[at] == 0x66
        at += 1
    opcode = code[at]
    known = opcode & ~3 in (0xE4, 0xEC, 0x6C)
    if not known:
        yield Contrast("code", "IN, OUT, INS or OUTS", code.hex(" "))
        return
    width = (4 if wide else 2) if opcode & 1 else 1
    direction = "write" if opcode & 2 else "read"
    port = code[at + 1] if opcode & ~3 == 0xE4 else record.before["rdx"] & 0xFFFF
    yield from _same("port", port, access.physical)
    yield from _same("width", width, access.width)
    if direction != access.direction:
        yield Contrast("direction", direction, access.direction)
    elif direction == "write" and opcode & ~3 != 0x6C:
        yield from _same("value", record.before["rax"] & (1 << 8 * width) - 1, access.value)
    elif access.value is not None and access.value >> 8 * width:
        yield Contrast("value", f"{width} bytes", hex(access.value))


def contrasts_of_accesses(record: Intercept) -> list[Contrast]:
    """Return how the accesses of a record are not those that its first one comes with."""
    kind = _KINDS.get(_own(record).space) if record.accesses else None
    if kind is None:
        return [Contrast("accesses", "an input", str(len(record.accesses)))]
    first, made = _own(record), record.accesses
    wrong: list[Contrast] = []
    if kind is Input.IRQ and made[0].space == "msi":
        message, *made = made
        wrong += _of_message(message, first)
    count = accesses_of(kind, first.physical)
    if len(made) != count:
        return [*wrong, Contrast("accesses", str(count), str(len(made)))]
    region, offset = first.region or "", first.offset or 0
    found = None if region == "port" else (region, offset)
    due = accesses_made(kind, _given(record, first), lambda port, direction: found)
    if len(due) < count:
        due.append(_configuration(first, made[-1]))
    for number, (expected, actual) in enumerate(zip(due, made, strict=True)):
        if _says(record, CHANGED):
            expected = replace(expected, device=actual.device)
        if _says(record, LEFT_OUT):
            expected = replace(expected, skipped=True)
        if expected != actual:
            wrong.append(Contrast(f"access {number}", _told(expected), _told(actual)))
        elif actual.value is None and not actual.skipped:
            wrong.append(Contrast(f"access {number}", "a value", _told(actual)))
    return wrong


def contrasts_of_code(record: Intercept) -> list[Contrast]:
    """Return how a record of an input differs from what its code and its values make of it."""
    kind = _KINDS[_own(record).space]
    if kind is Input.IRQ:
        return [*contrasts_of_input(record), *_of_registers(record, kind, None)]
    try:
        insn = decode(record.code, record.rip, Mode(record.mode))
    except EmulationError as error:
        return [Contrast("outcome", "decoded", str(error))]
    wrong = []
    if record.text != insn.text:
        wrong.append(Contrast("text", insn.text, record.text))
    if insn.length != len(record.code):
        wrong.append(Contrast("length", str(insn.length), str(len(record.code))))
    if not is_input(insn, kind):
        return [*wrong, Contrast("code", f"an access of {record.accesses[0].space}", insn.text)]
    writes = any(word.startswith(("out", "wrmsr")) for word in insn.text.split())
    direction = record.accesses[0].direction
    if kind is not Input.PORT and writes != (direction == "write"):
        wrong.append(Contrast("direction", "write" if writes else "read", direction))
    return [*wrong, *contrasts_of_input(record), *_of_registers(record, kind, insn)]


# The message of an interrupt comes before it.
def _own(record: Intercept) -> MemoryAccess:
    return interrupt_of(record.accesses) or record.accesses[0]


# Ref: Intel SDM vol. 3A, 10.11.1 and 10.11.2: where messages go, and which vector one tells.
def _of_message(message: MemoryAccess, interrupt: MemoryAccess) -> Iterator[Contrast]:
    expected = message_access(Message(message.physical or None, message.value))
    if expected != message:
        yield Contrast("message", _told(expected), _told(message))
    if message.physical and message.physical >> 20 != _MESSAGES:
        yield Contrast("message", "an address from 0xfee00000 on", hex(message.physical))
    if message.value is not None and (message.value ^ interrupt.physical) & 0xFF:
        yield Contrast("message", f"vector {interrupt.physical:#x}", hex(message.value))


# A reader works out what lies in a block by what is held to the record here.
def _of_registers(record: Intercept, kind: Input, insn: Instruction | None) -> Iterator[Contrast]:
    told = record.before
    missing = [name for name in _NEEDED[1:] if name not in told]
    if missing:
        yield Contrast("before", "rflags and 16 registers", f"no {', '.join(missing)}")
    elif not isinstance(record.after, Deferred):
        gpr = tuple([told[name] for name in GPR])
        before = CpuState(gpr, record.rip, told["rflags"], mode=Mode(record.mode))
        following = record.after.get("rip", record.rip)
        # A segment's base may stand between RIP and the linear address in other modes.
        if insn is not None and insn.mode is Mode.LONG:
            following = insn.next_rip
        says = _given(record, _own(record), following)
        after = changed_values(before, state_behind(kind, says, before, insn))
        for name in _NEEDED:
            was = told.get(name)
            yield from _same(name, after.get(name, was), record.after.get(name, was))


# The monitor would have said this of a record.
def _given(record: Intercept, first: MemoryAccess, following: int = 0) -> Given:
    values = tuple([access.value or 0 for access in record.accesses if access.space == first.space])
    width = first.width if first.space == "port" else _WIDTHS.get(first.space, 8)
    writes = first.direction == "write" and first.space in ("port", "msr")
    raised = _says(record, RAISED) or not _says(record, LEFT_OUT)
    raised = raised and first.skipped and first.space != "irq"
    manner = Manner(width, writes, record.mode, raised)
    address = 0 if first.space == "tsc" else first.physical
    return Given(address, values, manner, following, record.cpl)


# Somebody who was asked has stepped in.
def _says(record: Intercept, note: str) -> bool:
    return note in (record.note or "").split("; ")


# Accesses before it tell where the port leads.
def _configuration(port: MemoryAccess, made: MemoryAccess) -> MemoryAccess:
    address = made.physical | port.physical & 3
    return replace(
        port,
        physical=address,
        region=REGION,
        offset=address,
        skipped=port.skipped or made.skipped,
        space="config",
    )


def _told(access: MemoryAccess) -> str:
    value = "" if access.value is None else f" = {access.value:#x}"
    offset = "" if access.offset is None else f"+{access.offset:#x}"
    return (
        f"{access.direction} {access.width} at {access.space} {access.physical:#x},"
        f" {access.region}{offset}{value}{', skipped' if access.skipped else ''}"
    )


def _same(name: str, expected: int | None, actual: int | None) -> Iterator[Contrast]:
    if expected != actual:
        yield Contrast(name, _text(expected), _text(actual))


def _text(number: int | None) -> str | None:
    return None if number is None else hex(number)
