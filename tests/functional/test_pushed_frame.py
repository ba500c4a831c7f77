"""Frames that the CPU pushes to a traced device, as a bare-metal guest's stack is in one.

With nested traps the CPU comes upon the device while it delivers an exception or an interrupt,
which it has to deliver again then: the guest counts its handlers' runs, QEMU's log the pushes.
"""

from __future__ import annotations

import pytest
from bare_guest import DEVICE, DEVICE_LINEAR, GATE, NOTHING, REGION, Case, assemble
from vetrace_run import Run, agreed, boot, read_trace

pytestmark = pytest.mark.qemu

LAPIC = 0xFEE0_0000
VECTOR = 0x41
STACK = DEVICE_LINEAR + 0x800
FAR = NOTHING + 0x158

_PARTS = f"""jmp parts_end
interrupt: inc qword ptr [rip + interrupts]
    mov dword ptr [r9 + 0xb0], 0
    iretq
nmi: inc qword ptr [rip + nmis]
    iretq
{GATE}    .pushsection .bss
    .balign 16
table: .skip 16 * {VECTOR + 1}
interrupts: .skip 8
nmis: .skip 8
    .popsection
    .pushsection .data
table_pointer: .word 16 * {VECTOR + 1} - 1
    .quad table
    .popsection
parts_end:
    lea rsi, [rip + idt]
    lea rdi, [rip + table]
    mov ecx, 15 * 16
    rep movsb
    lea rax, [rip + interrupt]
    lea rdi, [rip + table + 16 * {VECTOR}]
    call gate
    lea rax, [rip + nmi]
    lea rdi, [rip + table + 16 * 2]
    call gate
    lidt [rip + table_pointer]
    movabs r9, {LAPIC:#x}
    mov dword ptr [r9 + 0xf0], 0x1ff
    mov al, 0xff
    out 0x21, al
    out 0xa1, al
    xor eax, eax"""


def _there(text: str, rsp: int = STACK, **after: int) -> Case:
    """Instructions with RSP in the device."""
    return Case(
        f"mov r8, rsp; mov rsp, rdi; {text}; mov rsp, r8", [], {"rdi": rsp, "r9": LAPIC}, after
    )


def _caught(text: str) -> str:
    """An exception, and the error code that its handler has found."""
    return (
        f"lea rax, [rip + 1f]; mov [rip + resume_at], rax; {text}; 1: mov rax, [rip + fault_code]"
    )


CASES = [
    Case(_PARTS, [], {}, {"rax": 0}),
    _there(_caught("ud2"), rax=6),
    # Of two pages of the device; of the device and of RAM.
    _there(_caught("ud2"), DEVICE_LINEAR + 0x1010, rax=6),
    _there(_caught("ud2"), DEVICE_LINEAR + 0x10, rax=6),
    # The monitor's own #GP.
    _there(f"mov ecx, 0xc0010117; {_caught('rdmsr')}", rax=0),
    _there("int 1; int 1; mov rax, [rip + traps]", rax=2),
    _there(
        f"sti; mov dword ptr [r9 + 0x300], {0x40000 | VECTOR:#x}; nop; cli; "
        "mov rax, [rip + interrupts]",
        rax=1,
    ),
    _there("mov dword ptr [r9 + 0x300], 0x40400; nop; mov rax, [rip + nmis]", rax=1),
    # By the task state, whose stack is in the device.
    Case(f"mov [rip + tss + 36], rdi; {_caught('mov eax, [rbx]')}", [],
         {"rdi": STACK, "rbx": FAR}, {"rax": 0}),
]  # fmt: skip
FRAMES = [[], [5], [5], [2], [6], [5, 5], [5], [5], [6]]
"""The quadwords of the device that each frame of a case takes."""


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("frames")
    guest = assemble(folder, CASES, own_stack=True, room=True)
    options = "--trap", "nested", "--check", "--quiet", "--region", REGION
    return boot(folder, "--kernel", guest, *options, "--", *DEVICE)


def test_qemu_saw_the_same(traced: Run) -> None:
    assert agreed(traced) > sum(map(sum, FRAMES))


def test_each_is_delivered_once(traced: Run) -> None:
    said = [line for line in traced.serial if line.startswith("case ")]
    assert said == [f"case {number:04d} ok" for number in range(len(CASES))]


@pytest.mark.parametrize("number", range(1, len(CASES)))
def test_its_pushes_are_those_of_the_interrupted_instruction(number: int, traced: Run) -> None:
    records = [
        record
        for record in read_trace(traced.trace).intercepts
        if (record.symbol or "").partition("+")[0] == f"case_{number}"
        and "frame" in (record.note or "")
    ]
    assert [len(list(record.device_accesses())) for record in records] == FRAMES[number]
    for record in records:
        made = [access for _, access in record.device_accesses()]
        assert {(access.direction, access.width) for access in made} == {("write", 8)}
        assert made == sorted(made, key=lambda access: -access.physical)
