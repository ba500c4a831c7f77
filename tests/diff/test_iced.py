"""The table against iced-x86, an unrelated decoder: lengths, widths, directions and flags."""

from __future__ import annotations

from random import Random

import iced_x86 as iced
import pytest

from tests.diff.case import cases
from tests.diff.native import CODE
from tracer.errors import InvalidInstruction, NotEnoughBytes
from tracer.x86.decode import decode
from tracer.x86.emulate import mask, plan
from tracer.x86.forms import FORMS, Access, Form
from tracer.x86.instruction import Memory
from tracer.x86.state import Flag, Mode

_FLAGS = {
    iced.RflagsBits.OF: Flag.OF, iced.RflagsBits.SF: Flag.SF, iced.RflagsBits.ZF: Flag.ZF,
    iced.RflagsBits.AF: Flag.AF, iced.RflagsBits.CF: Flag.CF, iced.RflagsBits.PF: Flag.PF,
}  # fmt: skip
_ACCESS = {
    iced.OpAccess.READ: "r", iced.OpAccess.WRITE: "w", iced.OpAccess.READ_WRITE: "rw",
    # With a condition for iced, but the CPU stores back what it read.
    iced.OpAccess.READ_COND_WRITE: "rw",
}  # fmt: skip
_CONDITIONAL = (
    (iced.OpAccess.READ, iced.OpAccess.COND_READ),
    (iced.OpAccess.WRITE, iced.OpAccess.COND_WRITE),
)
_SHIFTS = ("shl", "shr", "sar", "rol", "ror", "rcl", "rcr", "shld", "shrd")
_LONG = [form for form in FORMS if form.only != "i64"]


def _flags(bits: int) -> Flag:
    return Flag(sum(int(flag) for bit, flag in _FLAGS.items() if bits & bit))


@pytest.mark.parametrize("form", _LONG, ids=lambda form: f"{form.name} {form.opcode.text}")
def test_form(form: Form) -> None:
    factory = iced.InstructionInfoFactory()
    for case in cases(form, Mode.LONG, 3, 1):
        insn = decode(case.code, CODE, Mode.LONG)
        theirs = iced.Decoder(64, case.code, ip=CODE).decode()
        assert theirs.code != iced.Code.INVALID
        assert insn.length == theirs.len == len(case.code)
        if form.operation in mask.SIZES:
            (used,) = factory.info(theirs).used_memory()
            assert insn.width == iced.MemorySizeExt.size(used.memory_size)
            stores = isinstance(insn.operands[0], Memory)
            assert used.access in _CONDITIONAL[stores]
            assert all(o.write == stores != o.read for o in plan(insn, case.cpu))
        elif insn.rep is None and form.access is not Access.NONE:
            ours = sorted((o.width, "r" * o.read + "w" * o.write) for o in plan(insn, case.cpu))
            assert ours == sorted(
                (iced.MemorySizeExt.size(memory.memory_size), _ACCESS[memory.access])
                for memory in factory.info(theirs).used_memory()
            )
        # Iced decides about the flags of a shift by its immediate, the table by the form.
        if form.operation not in _SHIFTS or form.opcode.byte in (0xD0, 0xD1):
            written = theirs.rflags_written | theirs.rflags_cleared | theirs.rflags_set
            assert form.flags == _flags(written)
            assert form.undefined == _flags(theirs.rflags_undefined)


def _random_code(random: Random) -> bytes:
    prefixes = bytes(
        random.choice(b"\x66\x67\xf2\xf3\xf0\x2e\x64\x65\x36")
        for _ in range(random.choice((0, 0, 0, 0, 1, 1, 2, 3)))
    )
    rex = bytes([random.randrange(0x40, 0x50)]) if random.random() < 0.4 else b""
    form = random.choice([form for form in FORMS if random.random() < 0.9])
    escape = (b"", b"\x0f", b"\x0f\x38", b"\x0f\x3a")[form.opcode.map]
    if form.opcode.vex:
        high = random.choice((0xE0, 0xE0, 0x60, 0x40, 0xA0)) | form.opcode.map
        payload = random.randrange(256)
        if random.random() < 0.7:
            payload = payload & ~3 | ("NP", "66", "F3", "F2").index(form.opcode.prefix)
        if random.random() < 0.5:
            payload |= 0x78
        escape = bytes([0xC4, high, payload])
    return (prefixes + rex + escape + bytes([form.opcode.byte]) + random.randbytes(15))[:15]


@pytest.mark.parametrize(
    ("mode", "bits"), [(Mode.LONG, 64), (Mode.COMPAT32, 32), (Mode.COMPAT16, 16)]
)
def test_random_bytes(mode: Mode, bits: int) -> None:
    """What has a form here is the same instruction there: validity, length, width, address."""
    random = Random(bits)
    known = 0
    for _ in range(4000):
        code = _random_code(random)
        theirs = iced.Decoder(bits, code, ip=CODE).decode()
        try:
            ours = decode(code, CODE, mode)
        except (InvalidInstruction, NotEnoughBytes):
            continue
        if ours.form is None:
            continue
        known += 1
        shown = f"{code.hex(' ')}: {ours.text} / {theirs}"
        assert theirs.code != iced.Code.INVALID, shown
        assert ours.length == theirs.len, shown
        memory = next((o for o in ours.operands if isinstance(o, Memory)), None)
        if memory is None:
            continue  # but the stack
        if ours.form.access is not Access.NONE and ours.form.name != "movdir64b":
            assert memory.width == iced.MemorySizeExt.size(theirs.memory_size), shown
        if ours.form.modrm and not memory.rip_relative:
            displacement = theirs.memory_displacement & memory.mask
            assert memory.displacement & memory.mask == displacement, shown
            assert memory.scale == theirs.memory_index_scale or memory.index is None, shown
    assert known > 900
