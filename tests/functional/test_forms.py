"""Every form of the table on device memory and on RAM, in one boot of a bare-metal guest.

The guest runs each instruction twice from the same registers, flags and bytes: on RAM, where
QEMU's CPU carries it out, and on the traced memory of a device, where vetrace does. It compares
registers, the flags that are defined, and the bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from bare_guest import DEVICE, DEVICE_LINEAR, REGION, Case, assemble
from vetrace_run import Run, boot, read_trace

from tracer.look.explanation import stepped_live
from tracer.x86.decode import decode
from tracer.x86.emulate import undefined_flags
from tracer.x86.forms import FORMS, Form, Unit
from tracer.x86.forms.stack import STACK
from tracer.x86.state import STATUS_FLAGS, CpuState, Mode

pytestmark = pytest.mark.qemu

# QEMU 7.2 has the carry of BLSI wrong, and that of ADCX and ADOX on registers with a dirty upper
# half: there the host CPU is the oracle, in tests/diff. It lacks TEST by /1, MOVDIRI, MOVDIR64B,
# CMPccXADD, SHA, GF(2^8) and AVX-VNNI; CMPXCHG16B is switched off there. Of 256 bits it lacks
# PCLMULQDQ, and it reads 32 bytes for the 16 that have the count of a shift.
_NOT_QEMU = ("blsi", "adcx", "adox", "movdiri", "movdir64b", "cmpxchg16b")
_NOT_QEMU_FAMILIES = ("sha1", "sha256", "gf2p8", "vgf2p8", "vpdp")
_NOT_QEMU_ROWS = ("F6 /1", "F7 /1")
# These need other operands: test_instruction has them.
_ELSEWHERE = ("xlat", *{form.name for form in STACK})
_COUNTED = ("rol", "ror", "rcl", "rcr", "shl", "shr", "sar", "shld", "shrd")
_MAPS = ("", "0f", "0f38", "0f3a")
_PP = {"NP": 0, "66": 1, "F3": 2, "F2": 3}
_TARGET = DEVICE_LINEAR + 64
_MANY = 0x8877_6655_4433_2211

_RUN_BOTH = """jmp forms_begin
    .pushsection .bss
    .balign 16
on_ram: .skip 192
on_device: .skip 192
target: .skip 8
    .popsection
# r13: the instruction and RET; r12: flags to compare, r10: flags before; rcx, rdx: before.
# Returns in rax what differs.
compare:
    mov [rip + given_rcx], rcx
    mov [rip + given_rdx], rdx
    lea r11, [rip + on_device]
    call run
    lea rdi, [rip + buffer]
    lea r11, [rip + on_ram]
    call run
    xor eax, eax
    xor ecx, ecx
7:  mov rdx, [r11 + rcx]
    lea r9, [rip + on_device]
    xor rdx, [r9 + rcx]
    or rax, rdx
    add ecx, 8
    cmp ecx, 184
    jne 7b
    ret
run:
    mov [rip + target], rdi
    movabs rax, 0x0123456789abcd81
    mov [rdi], rax
    movabs rax, 0x7edcba9876543213
    mov [rdi + 8], rax
    vmovdqu ymm0, [rip + vectors]
    vmovdqu [rdi + 16], xmm0
    vmovdqu ymm1, [rip + vectors + 32]
    vmovdqu ymm2, [rip + vectors + 64]
    lea rsi, [rdi + 8]
    movabs rbx, 0x5a5a5a5aa5a5a5a5
    mov rcx, [rip + given_rcx]
    mov rdx, [rip + given_rdx]
    mov eax, 5
    push r10
    popfq
    call r13
    pushfq
    pop r8
    and r8, r12
    mov [r11], rax
    mov [r11 + 8], rcx
    mov [r11 + 16], rdx
    mov [r11 + 24], rbx
    mov [r11 + 32], r8
    mov rax, [rip + target]
    sub rdi, rax
    mov [r11 + 40], rdi
    sub rsi, rax
    mov [r11 + 48], rsi
    mov rdx, [rax]
    mov [r11 + 56], rdx
    mov rdx, [rax + 8]
    mov [r11 + 64], rdx
    mov rdx, [rax + 16]
    mov [r11 + 72], rdx
    mov rdx, [rax + 24]
    mov [r11 + 80], rdx
    vmovdqu [r11 + 88], ymm1
    vmovdqu [r11 + 120], ymm2
    vmovdqu [r11 + 152], ymm0
    ret
    .pushsection .bss
given_rcx: .skip 8
given_rdx: .skip 8
    .popsection
    .pushsection .rodata
    .balign 32
vectors:
    .quad 0x8001807f00ff0102, 0x7f80ffff00000003, 0xf0e0d0c0b0a09080, 0x0123456789abcdef
    .quad 0xcdab896745230181, 0x131276985432dc7e, 0x8000000080000000, 0x00000000ffffffff
    .quad 0x0000000000000007, 0x00ff8081027f0e0f, 0x1122334480556677, 0x8899aabbccddeeff
    .popsection
forms_begin:
    xor eax, eax"""


@dataclass(frozen=True)
class _Variant:
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


def _variants() -> Iterator[_Variant]:
    for form in FORMS:
        moffs = any(slot[0] == "O" for slot in form.operands)
        if form.only == "i64" or moffs or form.name in _ELSEWHERE:
            continue
        if form.name in _NOT_QEMU or form.opcode.text in _NOT_QEMU_ROWS:
            continue
        if form.name.startswith("cmp") and form.name.endswith("xadd"):
            continue
        if form.name.startswith(_NOT_QEMU_FAMILIES):
            continue
        # GDB cannot write x87 and MMX registers, so those are stepped.
        if form.unit in (Unit.X87, Unit.MMX):
            continue
        for size in _sizes(form):
            for long in {"256": (True,), "128/256": (False, True)}.get(form.opcode.vex, (False,)):
                if not _is_left_out(form, long):
                    yield _Variant(_encode(form, size, long=long), form)
        if form.lock == "lockable" and form.operands[0][0] in "EM":
            yield _Variant(_encode(form, _sizes(form)[-1], b"\xf0"), form)
        if form.repeat is not None:
            for repeat in (b"\xf2", b"\xf3"):
                yield _Variant(_encode(form, _sizes(form)[0], repeat), form)


def _is_left_out(form: Form, long: bool) -> bool:
    counted = form.operation.startswith(("psll", "psrl", "psra"))
    # Of a masked move that is stepped the trace has the bytes that it may touch, QEMU's log those
    # that it does.
    masked = form.operation.startswith("maskmov") and (long or form.operands[0] == "Vx")
    return masked or (long and (counted or form.name == "vpclmulqdq"))


def _case(number: int, variant: _Variant) -> Case:
    form = variant.form
    counted = form.repeat is not None or form.name in _COUNTED or "string" in form.operation
    before = {
        "rdi": _TARGET,
        "rcx": 2 if counted else _MANY,
        "rdx": 0 if form.name in ("div", "idiv") else 0x0FED_CBA9_8765_4321,
        "r10": 2 | (int(STATUS_FLAGS) if number % 2 else 0),
    }
    insn = decode(variant.code, 0, Mode.LONG)
    cpu = CpuState(gpr=tuple(before.get(name, 0) for name in ("rax", "rcx")) + (0,) * 14)
    defined = int(STATUS_FLAGS) & ~undefined_flags(insn, cpu)
    body = ", ".join(f"{byte:#x}" for byte in variant.code)
    text = (
        f"lea r13, [rip + form_{number}]\n    mov r12d, {defined}\n    call compare\n"
        f"    jmp form_{number}_end\nform_{number}: .byte {body}\n    ret\nform_{number}_end:"
    )
    return Case(text, [], before, {"rax": 0})


VARIANTS = list(_variants())
CASES = [Case(_RUN_BOTH, [], {}, {"rax": 0})] + [
    _case(number, variant) for number, variant in enumerate(VARIANTS)
]


def test_every_variant_is_the_form_it_was_made_from() -> None:
    for variant in VARIANTS:
        insn = decode(variant.code, 0, Mode.LONG)
        assert insn.form is variant.form and insn.code == variant.code, variant.code.hex(" ")
    assert len({variant.form for variant in VARIANTS}) > 600


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("forms")
    guest = assemble(folder, CASES)
    return boot(
        folder,
        "--kernel", guest, "--symbols", guest, "--check", "--quiet", "--region", REGION,
        "--", *DEVICE,
    )  # fmt: skip


def test_a_device_and_ram_give_the_same_result(traced: Run) -> None:
    assert traced.status == 0, traced.err + traced.out
    said = set(traced.serial)
    failed = [
        decode(variant.code, 0, Mode.LONG).text + f" [{variant.code.hex(' ')}]"
        for number, variant in enumerate(VARIANTS, 1)
        if f"case {number:04d} ok" not in said
    ]
    assert failed == []


def test_every_one_was_emulated_but_for_what_needs_the_upper_half_of_ymm(traced: Run) -> None:
    trace = read_trace(traced.trace)
    stepped = {record.code for record in trace.intercepts if record.via == "stepped"}
    instructions = [decode(variant.code, 0, Mode.LONG) for variant in VARIANTS]
    assert stepped == {insn.code for insn in instructions if stepped_live(insn)}
    assert "0 missing, 0 extra, 0 different" in traced.out
