"""Every form of the instruction table as code for the bare-metal guest, as far as QEMU has it.

QEMU 7.2 lacks TEST by /1, MOVDIRI, MOVDIR64B, CMPccXADD, SHA, GF(2^8) and AVX-VNNI; CMPXCHG16B is
switched off there. Of 256 bits it lacks PCLMULQDQ, and it reads 32 bytes for the 16 that have the
count of a shift.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from bare_guest import DEVICE_LINEAR, SLOT_SIZE, Case

from tracer.x86.forms import FORMS, Form, Unit
from tracer.x86.forms.stack import STACK
from tracer.x86.state import STATUS_FLAGS

LACKED = ("movdiri", "movdir64b", "cmpxchg16b")
_NOT_QEMU_FAMILIES = ("sha1", "sha256", "gf2p8", "vgf2p8", "vpdp")
_NOT_QEMU_ROWS = ("F6 /1", "F7 /1")
# These need other operands.
_ELSEWHERE = ("xlat", *{form.name for form in STACK})
# Shifts: RCX is to be small, so that the flags are defined.
_COUNTED = ("rol", "ror", "rcl", "rcr", "shl", "shr", "sar", "shld", "shrd")
TARGET = DEVICE_LINEAR + SLOT_SIZE
"""The instructions find the device here: `on_the_device` of ``forms.S``."""
_MANY = 0x8877_6655_4433_2211
_MAPS = ("", "0f", "0f38", "0f3a")
_PP = {"NP": 0, "66": 1, "F3": 2, "F2": 3}


@dataclass(frozen=True)
class Variant:
    """An instruction of a form; ``code`` is all of it."""

    code: bytes
    form: Form


def _sizes(form: Form) -> tuple[int, ...]:
    types = {slot[1:] for slot in form.operands}
    if form.opcode.w and not form.opcode.vex:
        return (8,)
    if types & {"v", "z"} or "rAX" in form.operands:
        return (2, 4, 8)
    return (4, 8) if "y" in types else (4,)


def _encode(form: Form, size: int, before: bytes = b"", *, long: bool = False) -> bytes:
    # Memory at [rdi], register ECX or XMM1; VEX.vvvv is EDX or XMM2.
    opcode = form.opcode
    digit = 1 if opcode.digit is None else opcode.digit
    modrm = bytes([digit << 3 | 7]) if form.modrm else b""
    immediate = b""
    for slot in form.operands:
        if slot[0] == "I":
            immediate += b"\x03" + bytes(min(size, 4) - 1 if slot == "Iz" else 0)
        elif slot[0] == "L":
            immediate += b"\0"
    wide = size == 8
    if opcode.vex:
        vvvv = 0b1101 if any(slot[0] in "BH" for slot in form.operands) else 0b1111
        w = wide if opcode.w is None else opcode.w
        payload = bytes([w << 7 | vvvv << 3 | long << 2 | _PP[opcode.prefix]])
        return (
            b"\xc4"
            + bytes([0xE0 | opcode.map])
            + payload
            + bytes([opcode.byte])
            + modrm
            + immediate
        )
    prefix = before + (b"\x66" if size == 2 else b"")
    if opcode.prefix in ("66", "F2", "F3"):
        prefix += bytes.fromhex(opcode.prefix)
    rex = b"\x48" if wide else b""
    return (
        prefix + rex + bytes.fromhex(_MAPS[opcode.map]) + bytes([opcode.byte]) + modrm + immediate
    )


def variants(left_out: Collection[str], units: Collection[Unit]) -> Iterator[Variant]:
    """Each form of the table that QEMU has, but for names left out, of some units."""
    for form in FORMS:
        moffs = any(slot[0] == "O" for slot in form.operands)
        if form.only == "i64" or moffs or form.name in _ELSEWHERE:
            continue
        if form.name in left_out or form.opcode.text in _NOT_QEMU_ROWS:
            continue
        if form.name.startswith("cmp") and form.name.endswith("xadd"):
            continue
        if form.name.startswith(_NOT_QEMU_FAMILIES):
            continue
        if form.unit not in units:
            continue
        for size in _sizes(form):
            for long in {"256": (True,), "128/256": (False, True)}.get(form.opcode.vex, (False,)):
                if not _is_left_out(form, long):
                    yield Variant(_encode(form, size, long=long), form)
        if form.lock == "lockable" and form.operands[0][0] in "EM":
            yield Variant(_encode(form, _sizes(form)[-1], b"\xf0"), form)
        if form.repeat is not None:
            for repeat in (b"\xf2", b"\xf3"):
                yield Variant(_encode(form, _sizes(form)[0], repeat), form)


def _is_left_out(form: Form, long: bool) -> bool:
    counted = form.operation.startswith(("psll", "psrl", "psra"))
    # Of a masked move that is stepped the trace has the bytes that it may touch, QEMU's log those
    # that it does.
    masked = form.operation.startswith("maskmov") and (long or form.operands[0] == "Vx")
    return masked or (long and (counted or form.name == "vpclmulqdq"))


def form_registers(variant: Variant) -> dict[str, int]:
    """RCX and RDX before an instruction: a count, and a dividend's upper half."""
    form = variant.form
    counted = form.repeat is not None or form.name in _COUNTED or "string" in form.operation
    return _registers(counted=counted, zero=form.name in ("div", "idiv"))


def _registers(*, counted: bool, zero: bool) -> dict[str, int]:
    return {"rcx": 2 if counted else _MANY, "rdx": 0 if zero else 0x0FED_CBA9_8765_4321}


def form_case(number: int, variant: Variant, flags: int = -1) -> Case:
    """A case of ``forms.S`` that compares what an instruction does; its label is form_NUMBER."""
    text = ".byte " + ", ".join(f"{byte:#x}" for byte in variant.code)
    label = f"form_{number}"
    return _compared(label, f"{label}: {text}", number, form_registers(variant), flags)


def compared(label: str, text: str, number: int, *, counted: bool) -> Case:
    """The same of assembler around one instruction, at the label that ``{at}`` stands for."""
    registers = _registers(counted=counted, zero=False)
    return _compared(label, text.replace("{at}", label), number, registers, -1)


def _compared(label: str, text: str, number: int, registers: dict[str, int], flags: int) -> Case:
    before = {
        **registers,
        "r10": 2 | (int(STATUS_FLAGS) if number % 2 else 0),
        "r12": flags & (1 << 64) - 1,
    }
    return Case(
        f"lea r13, [rip + run_{label}]\n    call compare\n    jmp end_{label}\n"
        f"run_{label}: {text}\n    ret\nend_{label}:",
        [], before, {"rax": 0},
    )  # fmt: skip
