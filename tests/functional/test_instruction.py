"""Instructions on device memory, in a bare-metal guest: the trace, QEMU and the guest agree."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from bare_guest import DEVICE, DEVICE_LINEAR, NOTHING, REGION, Access, Case, assemble, initial, slot
from vetrace_run import Run, Trace, boot, read_trace

pytestmark = pytest.mark.qemu

ONES = 0xFFFF_FFFF_FFFF_FFFF
A = 0x8877_6655_4433_2211
I1, I2, I4, I8 = (initial(0, width) for width in (1, 2, 4, 8))
NEXT8 = initial(8, 8)
NEGATIVE = initial(32, 1)  # 0x81: the first byte with its sign bit set
OF_ZERO = 0x4000_0FFE  # the last two bytes of the window's RAM page
OVER = {"rdi": OF_ZERO}


def rmw(width: int, new: int) -> list[Access]:
    """One read and one write of the same place."""
    return [("R", 0, width, initial(0, width)), ("W", 0, width, new)]


CASES = [
    # mov to the device
    Case("mov [rdi], al", [("W", 0, 1, 0x11)], {"rax": A}),
    Case("mov [rdi], ax", [("W", 0, 2, 0x2211)], {"rax": A}),
    Case("mov [rdi], eax", [("W", 0, 4, 0x44332211)], {"rax": A}),
    Case("mov [rdi], rax", [("W", 0, 8, A)], {"rax": A}),
    Case("mov [rdi + 3], ah", [("W", 3, 1, 0x22)], {"rax": A}),
    Case("mov [rdi + 3], ch", [("W", 3, 1, 0x22)], {"rcx": A}),
    Case("mov [rdi + 3], dh", [("W", 3, 1, 0x22)], {"rdx": A}),
    Case("mov [rdi + 3], bh", [("W", 3, 1, 0x22)], {"rbx": A}),
    Case("mov [rdi], sil", [("W", 0, 1, 0x11)], {"rsi": A}),
    Case("mov [rdi + rcx * 4 + 4], r9w", [("W", 12, 2, 0x2211)], {"r9": A, "rcx": 2}),
    Case("mov byte ptr [rdi], 0x80", [("W", 0, 1, 0x80)]),
    Case("mov word ptr [rdi], 0x8001", [("W", 0, 2, 0x8001)]),
    Case("mov dword ptr [rdi], 0x80000001", [("W", 0, 4, 0x80000001)]),
    Case("mov qword ptr [rdi], -2", [("W", 0, 8, ONES - 1)]),
    Case("movnti [rdi], rax", [("W", 0, 8, A)], {"rax": A}),
    Case("movbe [rdi], eax", [("W", 0, 4, 0x11223344)], {"rax": A}),
    # mov from the device: what is left of the register
    Case("mov al, [rdi]", [("R", 0, 1, I1)], {"rax": A}, {"rax": A & ~0xFF | I1}),
    Case("mov ah, [rdi]", [("R", 0, 1, I1)], {"rax": A}, {"rax": A & ~0xFF00 | I1 << 8}),
    Case("mov bh, [rdi]", [("R", 0, 1, I1)], {"rbx": A}, {"rbx": A & ~0xFF00 | I1 << 8}),
    Case("mov ax, [rdi]", [("R", 0, 2, I2)], {"rax": A}, {"rax": A & ~0xFFFF | I2}),
    Case("mov eax, [rdi]", [("R", 0, 4, I4)], {"rax": A}, {"rax": I4}),
    Case("mov rax, [rdi]", [("R", 0, 8, I8)], {"rax": A}, {"rax": I8}),
    Case("mov r10d, [rdi + 1]", [("R", 1, 4, initial(1, 4))], {}, {"r10": initial(1, 4)}),
    # an address without registers
    Case("movabs eax, [0x40001000]", [("R", 0, 4, 0x55AA55AA)], {}, {"rax": 0x55AA55AA}, at=0),
    # widening
    Case("movzx eax, byte ptr [rdi + 32]", [("R", 32, 1, NEGATIVE)], {"rax": A}, {"rax": NEGATIVE}),
    Case("movzx eax, word ptr [rdi]", [("R", 0, 2, I2)], {"rax": A}, {"rax": I2}),
    Case("movzx ax, byte ptr [rdi]", [("R", 0, 1, I1)], {"rax": A}, {"rax": A & ~0xFFFF | I1}),
    Case(
        "movsx eax, byte ptr [rdi + 32]",
        [("R", 32, 1, NEGATIVE)],
        {},
        {"rax": 0xFFFFFF00 | NEGATIVE},
    ),
    Case(
        "movsx rax, byte ptr [rdi + 32]",
        [("R", 32, 1, NEGATIVE)],
        {},
        {"rax": ONES - 0xFF + NEGATIVE},
    ),
    Case(
        "movsx rax, word ptr [rdi + 32]",
        [("R", 32, 2, initial(32, 2))],
        {},
        {"rax": ONES - 0xFFFF + initial(32, 2)},
    ),
    Case(
        "movsxd rax, dword ptr [rdi + 32]",
        [("R", 32, 4, initial(32, 4))],
        {},
        {"rax": ONES - 0xFFFFFFFF + initial(32, 4)},
    ),
    # strings
    Case("stosb", [("W", 0, 1, 0x11)], {"rax": A}),
    Case("std; stosd; cld", [("W", 0, 4, 0x44332211)], {"rax": A}),
    Case(
        "rep stosw",
        [("W", 2 * n, 2, 0x2211) for n in range(5)],
        {"rax": A, "rcx": 5},
        {"rcx": 0},
    ),
    Case("rep stosd", [], {"rcx": 0}, {"rcx": 0}),
    Case(
        "mov rsi, rdi; lea rdi, [rip + buffer]; rep movsq; mov rax, [rip + buffer + 8]",
        [("R", 0, 8, I8), ("R", 8, 8, NEXT8)],
        {"rcx": 2},
        {"rax": NEXT8, "rcx": 0},
    ),
    Case(
        "lea rsi, [rdi + 16]; rep movsd",
        [access for n in range(3) for access in (
            ("R", 16 + 4 * n, 4, initial(16 + 4 * n, 4)),
            ("W", 4 * n, 4, initial(16 + 4 * n, 4)),
        )],
        {"rcx": 3},
        {"rcx": 0},
    ),
    Case("mov rsi, rdi; lodsd", [("R", 0, 4, I4)], {"rax": A}, {"rax": I4}),
    Case(
        "mov rsi, rdi; rep lodsb",
        [("R", n, 1, initial(n, 1)) for n in range(3)],
        {"rax": 0, "rcx": 3},
        {"rax": initial(2, 1), "rcx": 0},
    ),
    Case(
        "repne scasb",
        [("R", n, 1, initial(n, 1)) for n in range(4)],
        {"rax": initial(3, 1), "rcx": 9},
        {"rcx": 5},
    ),
    # read, change, write
    Case("or dword ptr [rdi], 0x80000000", rmw(4, I4 | 0x80000000)),
    Case("and [rdi], ax", rmw(2, I2 & 0x2211), {"rax": A}),
    Case("xor [rdi], rax", rmw(8, I8 ^ A), {"rax": A}),
    Case("add byte ptr [rdi], 0xff", rmw(1, (I1 + 0xFF) & 0xFF)),
    Case("sub dword ptr [rdi], 1", rmw(4, I4 - 1)),
    Case("inc word ptr [rdi]", rmw(2, I2 + 1)),
    Case("dec word ptr [rdi]", rmw(2, I2 - 1)),
    Case("not dword ptr [rdi]", rmw(4, ~I4 & 0xFFFFFFFF)),
    Case("neg qword ptr [rdi]", rmw(8, -I8 & ONES)),
    Case("shl dword ptr [rdi], 4", rmw(4, I4 << 4 & 0xFFFFFFFF)),
    Case("bts dword ptr [rdi], 31; setc al", rmw(4, I4 | 1 << 31), {"rax": 9}, {"rax": 0}),
    Case("lock btr dword ptr [rdi], 0; setc al", rmw(4, I4 & ~1), {"rax": 0}, {"rax": 1}),
    Case("xchg [rdi], eax", rmw(4, 0x44332211), {"rax": A}, {"rax": I4}),
    Case("lock xadd [rdi], eax", rmw(4, I4 + 2), {"rax": 2}, {"rax": I4}),
    Case("lock cmpxchg [rdi], ecx", rmw(4, 7), {"rax": I4, "rcx": 7}, {"rax": I4}),
    Case(
        "cmpxchg [rdi], ecx; setz cl",
        rmw(4, I4),  # a failed comparison writes back what it read
        {"rax": 0, "rcx": 7},
        {"rax": I4, "rcx": 0},
    ),
    # read only
    Case("cmp dword ptr [rdi], 0; setne al", [("R", 0, 4, I4)], {"rax": 0}, {"rax": 1}),
    Case("test byte ptr [rdi], 1; setnz al", [("R", 0, 1, I1)], {"rax": 0}, {"rax": 1}),
    Case("add rax, [rdi]", [("R", 0, 8, I8)], {"rax": A}, {"rax": (A + I8) & ONES}),
    # a stack frame
    Case(
        "mov r12, rsp; mov rbp, rdi; leave; mov rax, rsp; mov rsp, r12; sub rax, rdi; xor rax, rbp",
        [("R", 0, 8, I8)],
        {},
        {"rax": 8 ^ I8},
    ),
    # RSP in the device: the frame of the fault is in the page of RAM before it
    Case(
        "mov r11, rsp; mov rsp, rdi; pop r9; push r9; mov rsp, r11; mov rax, r9",
        [("R", 4, 8, initial(4, 8)), ("W", 4, 8, initial(4, 8))],
        {"rdi": DEVICE_LINEAR + 4},
        {"rax": initial(4, 8)},
        at=0,
    ),
    # beside the fault's own frame, which is on another stack
    Case("push [rdi]; pop rax", [("R", 0, 8, I8)], {}, {"rax": I8}),
    # SSE
    Case("movq xmm0, [rdi]; movq rax, xmm0", [("R", 0, 8, I8)], {}, {"rax": I8}),
    Case(
        "movdqu xmm1, [rdi]; movhlps xmm1, xmm1; movq rax, xmm1",
        [("R", 0, 8, I8), ("R", 8, 8, NEXT8)],
        {},
        {"rax": NEXT8},
    ),
    Case(
        "pxor xmm2, xmm2; paddd xmm2, [rdi]; movq rax, xmm2",
        [("R", 0, 8, I8), ("R", 8, 8, NEXT8)],
        {},
        {"rax": I8},
    ),
    Case(
        "pxor xmm3, xmm3; ptest xmm3, [rdi]; setc al; setz ah",
        [("R", 0, 8, I8), ("R", 8, 8, NEXT8)],
        {"rax": 0},
        {"rax": 0x100},
    ),
    # and what it does not know
    Case(
        "pxor xmm2, xmm2; addpd xmm2, [rdi]; movq rax, xmm2",
        [("R", 0, 8, None), ("R", 8, 8, None)],
        {},
        {"rax": I8},
        via="stepped",
    ),
    # over the end of a page: two bytes of RAM, then two of the device
    Case("mov [rdi], eax; mov ax, [rdi]", [("W", 0, 2, 0x4433)], {"rax": A, **OVER},
         {"rax": A}, at=0),
    Case("movzx eax, word ptr [rdi]; mov eax, [rdi]", [("R", 0, 2, 0x4433)], OVER,
         {"rax": 0x44332211}, at=0),
    # half of the frame pointer goes into the page of RAM
    Case(
        "mov r11, rsp; mov r12, rbp; mov rsp, rdi; enter 0, 0; mov rbp, r12; mov rsp, r11",
        [("W", 0, 4, 0x1122_3344)],
        {"rdi": DEVICE_LINEAR + 4, "rbp": 0x1122_3344_5566_7788},
        {"rbp": 0x1122_3344_5566_7788},
        at=0,
    ),
    # the next page is not mapped: the guest's own page fault, and the device is left alone
    Case("mov eax, [rdi]", [], {"rdi": NOTHING - 2}, fault=(0, NOTHING)),
    Case("mov [rdi], rax", [], {"rdi": NOTHING - 4}, fault=(2, NOTHING)),
    # the other side is not mapped
    Case("movsd", [], {"rsi": DEVICE_LINEAR, "rdi": NOTHING}, fault=(2, NOTHING)),
]  # fmt: skip
# The slot of page ends holds this for the moffs case.
CASES.insert(0, Case("mov dword ptr [rdi], 0x55aa55aa", [("W", 0, 4, 0x55AA55AA)],
                     {"rdi": DEVICE_LINEAR}, at=0))  # fmt: skip


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("bare")
    guest = assemble(folder, CASES)
    return boot(
        folder,
        "--kernel", guest, "--check", "--quiet", "--region", REGION,
        "--", *DEVICE,
    )  # fmt: skip


@pytest.fixture(scope="module")
def trace(traced: Run) -> Trace:
    return read_trace(traced.trace)


def test_qemu_saw_the_same(traced: Run) -> None:
    assert traced.status == 0, traced.err + traced.out
    total = sum(len(case.accesses) for case in CASES)
    assert f"0 missing, 0 extra, 0 different over {total} accesses in 1 region" in traced.out


def test_nested_traps_see_the_same(tmp_path: Path) -> None:
    guest = assemble(tmp_path, CASES, room=True)
    options = "--trap", "nested", "--check", "--quiet", "--region", REGION
    done = boot(tmp_path, "--kernel", guest, *options, "--", *DEVICE)
    total = sum(len(case.accesses) for case in CASES)
    assert f"0 missing, 0 extra, 0 different over {total} accesses in 1 region" in done.out
    assert sum(line.endswith(" ok") for line in done.serial) == len(CASES)


@pytest.mark.parametrize("number", range(len(CASES)), ids=[case.text for case in CASES])
def test_case(number: int, traced: Run, trace: Trace) -> None:
    case = CASES[number]
    base = slot(number) if case.at is None else case.at
    records = [
        r for r in trace.intercepts if (r.symbol or "").partition("+")[0] == f"case_{number}"
    ]
    actual = [
        (
            access.direction[0].upper(),
            (access.offset or 0) - base,
            access.width,
            access.value,
        )
        for record in records
        for _, access in record.device_accesses()
    ]
    assert actual == list(case.accesses)
    assert {record.via for record in records} <= {case.via}
    # The guest compared the registers itself.
    assert f"case {number:04d} ok" in traced.serial


def test_instructions_are_shown_as_written(trace: Trace) -> None:
    texts = {(r.symbol or "").partition("+")[0]: r.text for r in trace.intercepts}
    assert texts["case_1"] == "mov byte ptr [rdi], al"
    assert texts["case_5"] == "mov byte ptr [rdi + 3], ah"


def test_nothing_failed_in_the_guest(traced: Run, trace: Trace) -> None:
    said = [line for line in traced.serial if re.match(r"case \d{4} ", line)]
    assert said == [f"case {number:04d} ok" for number in range(len(CASES))]
    assert trace.end.outcome == "poweroff"
    assert trace.end.counts["delivered"] == sum(case.fault is not None for case in CASES)
    stepped = [record for record in trace.intercepts if record.via == "stepped"]
    assert [record.code.hex() for record in stepped] == ["660f5817"]
    assert all(record.note for record in stepped)
