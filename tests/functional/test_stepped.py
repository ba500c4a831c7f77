"""Native steps on device memory: what the trace says of them is what QEMU saw, by page and lane."""

from __future__ import annotations

from pathlib import Path

import pytest
from bare_guest import DEVICE, DEVICE_LINEAR, REGION, Case, assemble, initial, slot
from vetrace_run import Run, Trace, boot, read_trace

from tracer.cli import main
from tracer.trace.record import Intercept, MemoryAccess

pytestmark = pytest.mark.qemu

START = DEVICE_LINEAR
SECOND = START + 0x1000
I8 = initial(0, 8)
INDICES = "mov r8, {}; movq xmm1, r8; pcmpeqd xmm2, xmm2; "


def pair(low: int, high: int) -> int:
    """Two signed indices of 32 bits in one number."""
    return low & 0xFFFFFFFF | (high & 0xFFFFFFFF) << 32


Made = tuple[str, int | str, int | str] | tuple[str, int | str, int | str, int]

# Offsets are from the start of the device, unless they are of the case's own slot ("slot").
CASES: list[tuple[Case, list[Made]]] = [
    (Case("addps xmm2, [rdi]", []), [("R", "slot", 8), ("R", "slot+8", 8)]),
    (
        Case("vmovdqu ymm0, [rdi]; vextracti128 xmm0, ymm0, 1; movq rax, xmm0", [],
             {"rdi": START - 16}, {"rax": I8}),
        [("R", 0, 8), ("R", 8, 8)],
    ),
    # Both pages are poisoned: neither is read twice.
    (
        Case("vmovdqu ymm0, [rdi]", [], {"rdi": SECOND - 16}),
        [("R", 0xFF0, 8, initial(0xFF0, 8)), ("R", 0xFF8, 8, initial(0xFF8, 8)),
         ("R", 0x1000, 8), ("R", 0x1008, 8)],
    ),
    (
        Case("vmovdqu [rdi], ymm0", [], {"rdi": SECOND - 8}),
        [("W", 0xFF8, 8, initial(0xFF0, 8)), ("W", 0x1000, 8, initial(0xFF8, 8)),
         ("W", 0x1008, 8), ("W", 0x1010, 8)],
    ),
    # All that a VEX load of 128 bits reads is in the register.
    (
        Case("vmovdqu xmm0, [rdi]; vpextrd eax, xmm0, 3", [], {"rdi": START + 0xC},
             {"rax": initial(0x18, 4)}),
        [("R", 0xC, 8, initial(0xC, 8)), ("R", 0x14, 8, initial(0x14, 8))],
    ),
    (Case("vpinsrw xmm0, xmm0, [rdi], 5", []), [("R", "slot", 2, initial(0, 2))]),
    (Case("vpaddd xmm0, xmm0, [rdi]", []), [("R", "slot", 8), ("R", "slot+8", 8)]),
    # Lanes at 0, 3 and twice at 0 again; then one in RAM before the device, and one a page on.
    (
        Case(INDICES.format(pair(0, 3)) + "vpgatherdd xmm0, [rdi + xmm1 * 4], xmm2; movd eax, xmm0",
             [], {"rdi": START + 0x40}, {"rax": initial(0, 4)}),
        [("R", 0x40, 4), ("R", 0x4C, 4), ("R", 0x40, 4), ("R", 0x40, 4)],
    ),
    (
        Case(INDICES.format(pair(-1, 0x400)) + "vpgatherdd xmm0, [rdi + xmm1 * 4], xmm2", [],
             {"rdi": START}),
        [("R", 0x1000, 4), ("R", 0, 4), ("R", 0, 4)],
    ),
    # Of YMM registers GDB shows the lower half alone.
    (
        Case("vpcmpeqd ymm2, ymm2, ymm2; vpxor ymm1, ymm1, ymm1; "
             "vpgatherdd ymm0, [rdi + ymm1 * 4], ymm2", [], {"rdi": START + 0x80}),
        [("R", 0, "..4096")],
    ),
    (
        Case("vpcmpeqd ymm2, ymm2, ymm2; vpmaskmovd [rdi], ymm2, ymm0", [], {"rdi": START + 0xE00}),
        [("W", 0xE00, "..32")],
    ),
    (
        Case("pxor xmm1, xmm1; pcmpeqb xmm1, xmm1; maskmovdqu xmm0, xmm1", [],
             {"rdi": START + 0xE40}),
        [("W", 0xE40, "..16")],
    ),
    (Case("fxsave [rdi]", [], {"rdi": SECOND + 0x800}), [("W", 0x1800, "..512")]),
    (
        Case("fxsave [rdi]", [], {"rdi": SECOND - 0x100}),
        [("W", 0xF00, "..256"), ("W", 0x1000, "..256")],
    ),
    (Case("fxrstor [rdi]", [], {"rdi": SECOND + 0x800}), [("R", 0x1800, "..512")]),
    (Case("fnsave [rdi]", [], {"rdi": SECOND + 0xA00}), [("W", 0x1A00, "..108")]),
    (
        Case("mov eax, 3; xor edx, edx; xsave [rdi]", [], {"rdi": SECOND + 0xC00}),
        [("?", 0x1000, "..4096")],
    ),
]  # fmt: skip

# In 64-bit mode a CS override has no effect (SDM vol. 1, 3.3.7.1). With QEMU 7.2 it takes the FS
# override before it away, so that the first page is read and not the second.
PREFIXES = Case(
    "mov ecx, 0xc0000100; mov eax, 0x1000; xor edx, edx; wrmsr; .byte 0x64, 0x2e, 0x8b, 0x07", [],
    {}, {"rax": initial(0, 4), "rcx": 0xC0000100, "rdx": 0},
)  # fmt: skip


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("stepped")
    guest = assemble(folder, [*(case for case, _ in CASES), PREFIXES])
    return boot(folder, "--kernel", guest, "--quiet", "--region", REGION, "--", *DEVICE)


@pytest.fixture(scope="module")
def trace(traced: Run) -> Trace:
    return read_trace(traced.trace)


def told(access: MemoryAccess) -> Made:
    letter = {"read": "R", "write": "W", "unknown": "?"}[access.direction]
    assert (access.width > 0) is (access.extent is None)
    place = letter, access.offset or 0, access.width or f"..{access.extent}"
    return place if access.value is None else (*place, access.value)


def of_case(number: int, trace: Trace) -> list[Intercept]:
    name = f"case_{number}"
    return [r for r in trace.intercepts if (r.symbol or "").partition("+")[0] == name]


@pytest.mark.parametrize("number", range(len(CASES)), ids=[case.text for case, _ in CASES])
def test_case(number: int, traced: Run, trace: Trace) -> None:
    _, expected = CASES[number]
    records = of_case(number, trace)
    assert {record.via for record in records} == {"stepped"}
    made = [told(access) for record in records for _, access in record.device_accesses()]
    own = slot(number)
    assert made == [(letter, _offset(at, own), *rest) for letter, at, *rest in expected]
    assert f"case {number:04d} ok" in traced.serial


def test_prefixes_are_taken_as_qemu_takes_them(traced: Run, trace: Trace) -> None:
    number = len(CASES)
    (record,) = of_case(number, trace)
    (made,) = [told(access) for _, access in record.device_accesses()]
    assert (record.via, made) in (
        ("stepped", ("?", 0, "..4096")),
        ("emulated", ("R", 0x1000 + slot(number), 4, initial(0, 4))),
    )
    assert f"case {number:04d} ok" in traced.serial


def _offset(at: int | str, own: int) -> int:
    return at if isinstance(at, int) else own + int(at.partition("+")[2] or 0)


def test_none_of_it_is_lost_in_a_log(traced: Run, tmp_path: Path) -> None:
    log, back = tmp_path / "log", tmp_path / "back.vtrace"
    trace = str(traced.trace)
    assert main.main(["export", trace, "--format", "mmiotrace", "-o", str(log)]) == 0
    assert main.main(["import", str(log), "-o", str(back)]) == 0
    assert main.main(["diff", "--exact", trace, str(back)]) == 0
    counts = [sum(len(r.device_accesses()) for r in read_trace(path).intercepts)
              for path in (traced.trace, back)]  # fmt: skip
    assert counts[0] == counts[1] > 20
