"""Hazards of an instruction that was compiled, in a bare-metal guest.

Each case makes a site run by itself, and then changes something under it: its bytes, its page, what
its address leads to, where its operand ends. The guest checks what it gets; the trace says that the
site was compiled, and QEMU's log that each access was recorded once.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from bare_guest import (
    DEVICE,
    DEVICE_LINEAR,
    DEVICE_SLOT,
    GATE,
    NOTHING,
    REGION,
    WINDOW,
    Case,
    assemble,
    initial,
)
from vetrace_run import Run, Trace, agreed, boot, read_trace

pytestmark = pytest.mark.qemu

ECAM = 0xB000_0000
"""QEMU's firmware puts PCI configuration space here on a q35."""
BAR = ECAM + DEVICE_SLOT * 0x8000 + 0x18
ELSEWHERE = 0xD000_0000
ALIAS = WINDOW + 0x5000
CODE = WINDOW + 0x8000
PERIOD = 29
"""Ticks of the PIT between two interrupts, of 838 ns each."""
TURNS = 4000

_PARTS = f"""jmp parts_end
load4: mov eax, [rdi]
    ret
store4: mov [rdi], eax
    ret
# What is patched: 8 bytes, the end of a longer instruction.
patched: .byte 0x8b, 0x07, 0xc3, 0x90, 0x90, 0x90, 0x90, 0x90
longer: .byte 0xc7, 0x87, 8, 0, 0, 0, 0x44, 0x33, 0x22, 0x11
    ret
    .pushsection .data
    .balign 4096
page_a: mov eax, [rdi]
    ret
    .balign 4096
page_b: mov eax, [rdi + 4]
    ret
    .balign 4096
    .popsection
    .pushsection .bss
    .balign 8
nmis: .skip 8
wrong: .skip 8
debugs: .skip 8
places: .skip 8
    .popsection
# As Linux' does, the handler of NMIs keeps CR2.
nmi: push rax
    push rdi
    mov rax, cr2
    push rax
    inc qword ptr [rip + nmis]
    movabs rdi, {DEVICE_LINEAR + 0x800:#x}
nmi_load: mov eax, [rdi]
    cmp eax, {initial(0x800, 4):#x}
    je 1f
    inc qword ptr [rip + wrong]
1:  pop rax
    mov cr2, rax
    pop rdi
    pop rax
    iretq
# A debug exception: how many, and where.
debug: push rax
    inc qword ptr [rip + debugs]
    mov rax, [rsp + 8]
    rol qword ptr [rip + places], 1
    add [rip + places], rax
    mov rax, dr6
    test al, 15
    jz 2f
    or dword ptr [rsp + 24], 0x10000
    xor eax, eax
    mov dr6, rax
2:  pop rax
    iretq
{GATE}# Single-steps over an access at rdi; the counts of before go.
step: mov qword ptr [rip + debugs], 0
    mov qword ptr [rip + places], 0
    pushfq
    or dword ptr [rsp], 0x100
    popfq
    nop
    call stepped
    nop
    pushfq
    and dword ptr [rsp], ~0x100
    popfq
    ret
stepped: mov eax, [rdi]
    ret
parts_end:
    lea rax, [rip + nmi]
    lea rdi, [rip + idt + 2 * 16]
    call gate
    lea rax, [rip + debug]
    lea rdi, [rip + idt + 16]
    call gate
    xor eax, eax"""

# The PIT's interrupts are NMIs, by the IOAPIC.
_NMIS = f"""movabs r8, 0xfee00000
    mov dword ptr [r8 + 0xf0], 0x1ff
    movabs r8, 0xfec00000
    mov dword ptr [r8], 0x15
    mov dword ptr [r8 + 16], 0
    mov dword ptr [r8], 0x14
    mov dword ptr [r8 + 16], 0x400
    mov al, 0x34
    out 0x43, al
    mov al, {PERIOD}
    out 0x40, al
    xor eax, eax
    out 0x40, al
    mov ecx, {TURNS}
    movabs rdx, 0x1122334455667788
    mov rsi, rsp
1:  mov [rdi], ecx
nmi_turn: mov ebx, [rdi]
    cmp ebx, ecx
    jne 2f
    add dword ptr [rdi + 4], 1
    cmp rsp, rsi
    jne 2f
    dec ecx
    jnz 1b
2:  mov dword ptr [r8 + 16], 0x10400
    mov rax, [rip + wrong]
    or rax, rcx
    mov rbx, [rip + nmis]
    cmp rbx, 100
    adc rax, 0"""


def _own_fault(text: str) -> str:
    # A page fault of the guest's own within a call is no return.
    return f"lea rax, [rip + 9f]; mov [rip + resume_at], rax; {text}; 9: add rsp, 8"


def _both(text: str) -> str:
    """On the device, thrice, and on RAM; what is counted must be the same."""
    return (
        f"{text}; {text}; {text}; mov rbx, [rip + debugs]; mov rcx, [rip + places]; "
        f"movabs rdi, {WINDOW:#x}; {text}; mov rax, [rip + debugs]; mov rdx, rax; sub rax, rbx; "
        "sub rcx, [rip + places]; or rax, rcx"
    )


def _breaks(bits: int, *places: str) -> str:
    # Debug registers for the places, which DR7 switches on.
    lines = [f"lea rax, {place}; mov dr{number}, rax" for number, place in enumerate(places)]
    return "; ".join([*lines, f"mov eax, {bits:#x}; mov dr7, rax"])


def _again(text: str) -> str:
    return f"mov qword ptr [rip + debugs], 0; mov qword ptr [rip + places], 0; {text}"


_WARM = "call load4; call load4"
_PAGE = (
    "mov rax, offset {page} - LINK + PRESENT; mov [rip + window + 8 * 8], rax; "
    f"invlpg [{CODE:#x}]; mov r8d, {CODE:#x}; "
)
CASES = {
    "parts": Case(_PARTS, [], {}, {"rax": 0}),
    "warm": Case(_WARM, [], {}, {"rax": initial(0, 4)}),
    "crosses two pages of the device": Case(
        f"{_WARM}; mov edi, {DEVICE_LINEAR + 0xFFD:#x}; call load4",
        [], {}, {"rax": initial(0xFFD, 4)},
    ),
    "store that crosses": Case(
        "call store4; call store4; add rax, 1; "
        f"mov edi, {DEVICE_LINEAR + 0xFFE:#x}; call store4; call load4",
        [], {"rax": 0x11223344}, {"rax": 0x11223345},
    ),
    "begins in RAM": Case(
        f"{_WARM}; mov edi, {DEVICE_LINEAR - 2:#x}; mov word ptr [rdi], 0x1234; call load4",
        [], {}, {"rax": initial(0, 2) << 16 | 0x1234},
    ),
    "ends in nothing": Case(
        f"{_WARM}; " + _own_fault(f"mov edi, {NOTHING - 2:#x}; call load4") + "; mov rax, cr2",
        [], {}, {"rax": NOTHING},
    ),
    "patched": Case(
        "call patched; call patched; mov ebx, eax; "
        "mov dword ptr [rip + patched], 0xc304478b; call patched; call patched; mov ecx, eax; "
        "mov dword ptr [rip + patched], 0x90c3078b; call patched; call patched; mov edx, eax; "
        "mov byte ptr [rip + patched + 5], 0xcc; call patched; call patched",
        [], {}, {"rbx": initial(0, 4), "rcx": initial(4, 4), "rdx": initial(0, 4),
                 "rax": initial(0, 4)},
    ),
    "patched into what accesses nothing": Case(
        "call patched; call patched; mov word ptr [rip + patched], 0x9090; call patched; "
        "mov ebx, eax; mov word ptr [rip + patched], 0x078b; call patched; call patched",
        [], {"rax": 7}, {"rbx": initial(0, 4), "rax": initial(0, 4)},
    ),
    "patched beyond its eighth byte": Case(
        "call longer; call longer; mov ebx, [rdi + 8]; mov byte ptr [rip + longer + 9], 0x99; "
        "call longer; call longer; mov eax, [rdi + 8]",
        [], {}, {"rbx": 0x11223344, "rax": 0x99223344},
    ),
    "another page of code at its address": Case(
        "; ".join(
            _PAGE.format(page=page) + f"call r8; call r8; mov {register}, eax"
            for page, register in (("page_a", "ebx"), ("page_b", "ecx"), ("page_a", "edx"))
        ),
        [], {}, {"rbx": initial(0, 4), "rcx": initial(4, 4), "rdx": initial(0, 4)},
    ),
    "two mappings of one page": Case(
        f"mov r8, rdi; lea r9, [rdi + {ALIAS - DEVICE_LINEAR:#x}]; mov ecx, 3; xor ebx, ebx; "
        "1: mov rdi, r8; call load4; add ebx, eax; mov eax, ecx; mov rdi, r9; call store4; "
        "dec ecx; jnz 1b; mov rdi, r8; call load4",
        [], {}, {"rbx": initial(0, 4) + 3 + 2, "rax": 1},
    ),
    "its page becomes another one of the device": Case(
        f"mov edi, {ALIAS + 0x40:#x}; call load4; call load4; mov ebx, eax; "
        "add qword ptr [rip + window + 5 * 8], 4096; "
        f"invlpg [{ALIAS:#x}]; mov dword ptr [0x40002040], 0x13572468; call load4; mov ecx, eax; "
        f"sub qword ptr [rip + window + 5 * 8], 4096; invlpg [{ALIAS:#x}]; call load4",
        [], {}, {"rbx": initial(0, 4), "rcx": 0x13572468, "rax": initial(0, 4)},
    ),
    "single-stepped": Case(
        "call stepped; call stepped; " + _both("call step") + "; cmp rdx, 6; adc rax, 0",
        [], {}, {"rax": 0},
    ),
    "an instruction breakpoint, and one behind it": Case(
        _breaks(0x405, "[rip + load4]", "[rip + load4 + 2]") + "; "
        + _both(_again("call load4")) + "; xor ebx, ebx; mov dr7, rbx",
        [], {}, {"rax": 0, "rdx": 2},
    ),
    "CR2 behind an access by a stop, and by itself": Case(
        f"{_WARM}; " + _own_fault(f"mov edi, {NOTHING:#x}; call load4") + "; "
        f"mov edi, {DEVICE_LINEAR + 0xFFD:#x}; call load4; mov rbx, cr2; "
        f"mov edi, {DEVICE_LINEAR + 0x44:#x}; call load4; mov rcx, cr2",
        [], {}, {"rbx": NOTHING, "rcx": DEVICE_LINEAR + 0x44},
    ),
    "a data breakpoint of its own, which does not come": Case(
        "xor eax, eax; mov dr6, rax; "
        + _breaks(0xF0401, "[rdi]") + "; " + _again("call load4; call load4")
        + f"; mov rbx, [rip + debugs]; mov edi, {WINDOW:#x}; "
        + _breaks(0xF0401, "[rdi]") + "; " + _again("call load4; call load4")
        + "; mov rcx, [rip + debugs]; xor eax, eax; mov dr7, rax",
        [], {}, {"rbx": 0, "rcx": 2},
    ),
}  # fmt: skip


def run(folder: Path, *cases: Case, chosen: tuple[str, ...] = ()) -> Run:
    guest = assemble(folder, cases, room=True)
    return boot(
        folder,
        "--kernel", guest, "--symbols", guest, "--check", "--quiet", "--region",
        REGION, *chosen, "--", *DEVICE,
    )  # fmt: skip


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run(tmp_path_factory.mktemp("hazards"), *CASES.values())


@pytest.fixture(scope="module")
def trace(traced: Run) -> Trace:
    return read_trace(traced.trace)


@pytest.mark.parametrize("name", CASES)
def test_the_guest_gets_what_it_should(name: str, traced: Run) -> None:
    assert f"case {list(CASES).index(name):04d} ok" in traced.serial, traced.err


def test_each_access_is_recorded_once(traced: Run, trace: Trace) -> None:
    agreed(traced)
    assert trace.end.outcome == "poweroff" and not trace.end.counts.get("disagreements")


def test_each_was_compiled_and_went_the_slow_way_for_its_reason(trace: Trace) -> None:
    counts = trace.end.counts
    for reason in ("crossing", "tail", "changed", "refused", "traced"):
        assert counts[f"slow: {reason}"], reason
    compiled = {r.symbol for r in trace.intercepts if r.via == "compiled"}
    names = {(symbol or "").partition("+")[0] for symbol in compiled}
    assert names >= {"load4", "store4", "patched", "longer", "stepped"}


def test_an_nmi_whose_handler_makes_an_access_comes_in_the_middle_of_another(
    tmp_path: Path,
) -> None:
    done = run(tmp_path, CASES["parts"], Case(_NMIS, [], {}, {"rax": 0}))
    assert "case 0001 ok" in done.serial, done.out + done.err
    trace = read_trace(done.trace)
    counts = trace.end.counts
    handlers = [record for record in trace.intercepts if record.symbol == "nmi_load+0x0"]
    assert len(handlers) > 100 and counts["slow: nested"] > 1
    assert sum(record.via == "emulated" for record in handlers) > counts["slow: nested"]
    # Which of the two the device saw first, the guest does not tell; both are there.
    (line,) = re.findall(r"(\d+) missing, (\d+) extra, (\d+) different over", done.out)
    missing, extra, different = map(int, line)
    assert missing == extra <= counts["slow: nested"] and not different
    told = [record for record in trace.intercepts if "NMI" in (record.note or "")]
    assert len(told) == counts["slow: nested"] and all(record in handlers for record in told)


def test_a_device_that_is_moved_by_a_write_to_configuration(tmp_path: Path) -> None:
    moved = Case(
        f"{_WARM}; mov r8, rdi; mov r9d, {BAR:#x}; mov r10, rdi; and r10d, 0xfff; "
        # Read and written by code that is compiled by now.
        "mov rdi, r9; call load4; mov r11d, eax; call store4; mov rdi, r8; call load4; "
        f"mov eax, {ELSEWHERE:#x}; mov rdi, r9; call store4; mov rdi, r8; call load4; "
        f"mov ebx, eax; mov edi, {ELSEWHERE:#x}; add rdi, r10; call load4; mov ecx, eax; "
        "mov eax, r11d; mov rdi, r9; call store4; mov rdi, r8; call load4",
        [], {}, {"rbx": 0, "rcx": initial(0, 4), "rax": initial(0, 4)},
    )  # fmt: skip
    cases = CASES["parts"], CASES["warm"], CASES["store that crosses"], moved
    done = run(tmp_path, *cases, chosen=("--region", "ecam"))
    assert "case 0003 ok" in done.serial, done.out + done.err
    agreed(done)
    made = [
        (access.region, access.direction, access.physical & -4096, record.via)
        for record in read_trace(done.trace).intercepts for access in record.accesses
    ]  # fmt: skip
    # A write to configuration takes a stop, what comes behind it does not.
    last = made[-7:]
    bar = BAR & -4096
    here = made[0][2]
    assert last == [
        ("ecam", "read", bar, "compiled"),
        ("ecam", "write", bar, "emulated"),
        (REGION, "read", here, "compiled"),
        ("ecam", "write", bar, "emulated"),
        (REGION, "read", ELSEWHERE, "compiled"),
        ("ecam", "write", bar, "emulated"),
        (REGION, "read", here, "compiled"),
    ]
