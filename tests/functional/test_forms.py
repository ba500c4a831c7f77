"""Every form of the table on device memory and on RAM, in one boot of a bare-metal guest.

The guest runs each instruction twice from the same registers, flags and bytes: on RAM, where
QEMU's CPU carries it out, and on the traced memory of a device, where vetrace does. It compares
registers, the flags that are defined, and the bytes.
"""

from __future__ import annotations

import pytest
from bare_guest import DEVICE, DEVICE_LINEAR, REGION, Case, assemble
from form_guest import COUNTED, LACKED, Variant, variants
from vetrace_run import Run, boot, read_trace

from tracer.look.explanation import stepped_live
from tracer.x86.decode import decode
from tracer.x86.emulate import undefined_flags
from tracer.x86.forms import Unit
from tracer.x86.state import STATUS_FLAGS, CpuState, Mode

pytestmark = pytest.mark.qemu

# QEMU 7.2 has the carry of BLSI wrong, and that of ADCX and ADOX on registers with a dirty upper
# half: there the host CPU is the oracle, in tests/diff.
_WRONG = ("blsi", "adcx", "adox")
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


def _case(number: int, variant: Variant) -> Case:
    form = variant.form
    counted = form.repeat is not None or form.name in COUNTED or "string" in form.operation
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


# GDB cannot write x87 and MMX registers, so those are stepped.
VARIANTS = list(variants((*LACKED, *_WRONG), set(Unit) - {Unit.X87, Unit.MMX}))
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
