"""The host of a TDX guest says what KVM says: arch/x86/kvm/vmx/tdx.c, of Linux 6.16 and later.

Each row names the function, or QEMU's source, that says so.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tracer.confidential.request import (
    KVM_ENOSYS,
    Cpuid,
    EventNotify,
    FatalError,
    GetQuote,
    Give,
    Halt,
    MapGpa,
    Mmio,
    Msr,
    Other,
    PortIo,
    Refuse,
    Reply,
    Request,
    Retry,
)
from tracer.confidential.tdx_host import CALLS, Number, decode, returned, usual
from tracer.x86.state import GPR

SHARED = 1 << 47
TOP = (1 << 64) - 1
INVALID, ALIGN, UNSUPPORTED = (1 << 63 | n for n in (0, 2, 3))


@dataclass(frozen=True)
class Row:
    """One hypercall: its registers, what it means, and the host's R10 (None: carried out)."""

    number: int
    given: dict[str, int]
    request: Request
    r10: int | None
    source: str

    def __str__(self) -> str:
        return " ".join(
            [f"{self.number:#x}", *(f"{name}={value:#x}" for name, value in self.given.items())]
        )


MMIO, IO, MAP = Number.MMIO, Number.IO, Number.MAP_GPA
TABLE = (
    # An access: width in R12, direction in R13, address in R14, value in R15.
    *(Row(MMIO, {"r12": width, "r14": 0xFE00_1000 | SHARED}, Mmio("read", width, 0xFE00_1000, None),
          None, "tdx_emulate_mmio") for width in (1, 2, 4, 8)),
    *(Row(MMIO, {"r12": width, "r13": 1, "r14": 0x1000 | SHARED, "r15": TOP},
          Mmio("write", width, 0x1000, (1 << 8 * width) - 1), None, "tdx_emulate_mmio")
      for width in (1, 2, 4, 8)),
    *(Row(MMIO, {"r12": width, "r14": 0x1000 | SHARED}, Mmio("read", width, 0x1000, None), INVALID,
          "tdx_emulate_mmio: size") for width in (0, 3, 5, 6, 7, 9, 16, 0xFFFF_FFFF)),
    Row(MMIO, {"r12": 1 << 32 | 4, "r14": 0x1000 | SHARED}, Mmio("read", 4, 0x1000, None), None,
        "tdx_emulate_mmio: int size"),
    Row(MMIO, {"r12": 4, "r13": 2, "r14": 0x1000 | SHARED}, Mmio(None, 4, 0x1000, None), INVALID,
        "tdx_emulate_mmio: write"),
    Row(MMIO, {"r12": 4, "r14": 0xFE00_1000}, Mmio("read", 4, 0xFE00_1000, None, False), INVALID,
        "tdx_emulate_mmio: private"),
    Row(MMIO, {"r12": 4, "r14": SHARED - 2}, Mmio("read", 4, SHARED - 2, None, False), INVALID,
        "tdx_emulate_mmio: private, its first byte"),
    Row(MMIO, {"r12": 4, "r14": 2 * SHARED - 2}, Mmio("read", 4, SHARED - 2, None), INVALID,
        "tdx_emulate_mmio: private, its last byte"),
    Row(MMIO, {"r12": 4, "r14": 1 << 63 | SHARED}, Mmio("read", 4, 1 << 63, None), INVALID,
        "vetrace: nothing is beyond the guest's width"),
    # A port.
    *(Row(IO, {"r12": width, "r14": 0x3F8}, PortIo("read", width, 0x3F8, None), None,
          "tdx_emulate_io") for width in (1, 2, 4)),
    Row(IO, {"r12": 1, "r13": 1, "r14": 0x3F8, "r15": 0x141}, PortIo("write", 1, 0x3F8, 0x41), None,
        "tdx_emulate_io"),
    Row(IO, {"r12": 8, "r14": 0x3F8}, PortIo("read", 8, 0x3F8, None), INVALID, "tdx_emulate_io"),
    Row(IO, {"r12": 1, "r13": 2, "r14": 0x3F8}, PortIo(None, 1, 0x3F8, None), INVALID,
        "tdx_emulate_io"),
    Row(IO, {"r12": 1 << 60, "r13": 1, "r15": TOP}, PortIo("write", 1 << 60, 0, TOP), INVALID,
        "tdx_emulate_io: u64 size"),
    # Memory that is to be shared, or private.
    Row(MAP, {"r12": 0x1000 | SHARED, "r13": 0x3000}, MapGpa(0x1000, 0x3000, True), 0,
        "tdx_map_gpa"),
    Row(MAP, {"r12": 0x1000, "r13": 0x1000}, MapGpa(0x1000, 0x1000, False), 0, "tdx_map_gpa"),
    Row(MAP, {"r12": 0x1000 | SHARED}, MapGpa(0x1000, 0, True), INVALID, "tdx_map_gpa: size 0"),
    Row(MAP, {"r12": 0x1800 | SHARED, "r13": 0x1000}, MapGpa(0x1800, 0x1000, True), ALIGN,
        "tdx_map_gpa: PAGE_ALIGNED(gpa)"),
    Row(MAP, {"r12": 0x1000 | SHARED, "r13": 0x800}, MapGpa(0x1000, 0x800, True), ALIGN,
        "tdx_map_gpa: PAGE_ALIGNED(size)"),
    Row(MAP, {"r12": 2 * SHARED - 0x1000, "r13": 0x2000}, MapGpa(SHARED - 0x1000, 0x2000, True),
        INVALID, "tdx_map_gpa: kvm_vcpu_is_legal_gpa of its end"),
    Row(MAP, {"r12": 2 * SHARED, "r13": 0x1000}, MapGpa(2 * SHARED, 0x1000, False), INVALID,
        "tdx_map_gpa: kvm_vcpu_is_legal_gpa of its begin"),
    Row(MAP, {"r12": SHARED - 0x1000, "r13": 0x2000}, MapGpa(SHARED - 0x1000, 0x2000, False),
        INVALID, "tdx_map_gpa: begins private, ends shared"),
    Row(MAP, {"r12": 0x1000, "r13": TOP}, MapGpa(0x1000, TOP, False), INVALID,
        "tdx_map_gpa: gpa + size wraps"),
    Row(MAP, {"r12": 0x1001, "r13": TOP}, MapGpa(0x1001, TOP, False), INVALID,
        "tdx_map_gpa: the width is checked before the alignment"),
    # Boots of Linux ask some of these, and others not.
    Row(Number.HLT, {"r12": 1}, Halt(blocked=True), None, "tdx_handle_exit"),
    Row(Number.HLT, {}, Halt(blocked=False), None, "tdx_handle_exit"),
    Row(Number.RDMSR, {"r12": 0xC000_0080}, Msr("read", 0xC000_0080, None), INVALID,
        "tdx_complete_emulated_msr: an MSR that KVM does not emulate"),
    Row(Number.WRMSR, {"r12": 0x10, "r13": TOP}, Msr("write", 0x10, TOP), INVALID,
        "tdx_complete_emulated_msr: an MSR that KVM does not emulate"),
    Row(Number.CPUID, {"r12": 0x8000_0001, "r13": 2}, Cpuid(0x8000_0001, 2), INVALID,
        "vetrace: CPUID raises no #VE"),
    Row(Number.GET_TD_VM_CALL_INFO, {}, Other("GetTdVmCallInfo", 0x10000, (0,)), 0,
        "tdx_get_td_vm_call_info"),
    Row(Number.GET_TD_VM_CALL_INFO, {"r12": 2}, Other("GetTdVmCallInfo", 0x10000, (2,)), INVALID,
        "tdx_get_td_vm_call_info"),
    Row(Number.GET_QUOTE, {"r12": 0x5000 | SHARED, "r13": 0x4000}, GetQuote(0x5000, 0x4000),
        UNSUPPORTED, "tdx_get_quote: without user space's help"),
    Row(Number.GET_QUOTE, {"r12": 0x5000, "r13": 0x4000}, GetQuote(0x5000, 0x4000, False), INVALID,
        "tdx_get_quote: private"),
    Row(Number.REPORT_FATAL_ERROR, {"r12": 1, "r14": 0x4F4E}, FatalError(1, "NO"), None,
        "tdx_report_fatal_error"),
    Row(Number.SETUP_EVENT_NOTIFY_INTERRUPT, {"r12": 32}, EventNotify(32), UNSUPPORTED,
        "tdx_setup_event_notify_interrupt: without user space's help"),
    *(Row(Number.SETUP_EVENT_NOTIFY_INTERRUPT, {"r12": vector}, EventNotify(vector), INVALID,
          "tdx_setup_event_notify_interrupt") for vector in (0, 31, 256, TOP)),
    *(Row(number, {"r12": 1}, Other(f"hypercall {number:#x}", number, (1, 0, 0, 0), known=False),
          UNSUPPORTED, "handle_tdvmcall: default")
      for number in (0, 36, 39, 54, 65, 0x10005, 0x10006, TOP)),
    Row(48, {"r10": 5, "r12": 1}, Other("hypercall of a vendor", 5, (48, 1, 0, 0), known=False),
        KVM_ENOSYS, "x86.c __kvm_emulate_hypercall"),
)  # fmt: skip


def seen(number: int, given: dict[str, int]) -> dict[str, int]:
    return dict.fromkeys(GPR, 0) | {"r11": number} | given


@pytest.mark.parametrize("row", TABLE, ids=str)
def test_a_hypercall_is_understood_and_answered_as_kvm_does(row: Row) -> None:
    assert decode(SHARED, seen(row.number, row.given)) == row.request, row.source
    said = usual(SHARED, row.request)
    if row.r10 is None:
        assert said is None, row.source
    else:
        assert said is not None
        assert returned(SHARED, row.request, said)["r10"] == row.r10, row.source


def test_every_call_that_is_named_has_a_row() -> None:
    assert {row.number for row in TABLE} >= set(CALLS) == set(Number)


def test_a_wider_guest_has_its_bit_elsewhere() -> None:
    wide = 1 << 51
    assert decode(wide, seen(48, {"r12": 4, "r14": 0x1000 | wide})) == Mmio("read", 4, 0x1000, None)
    assert usual(wide, MapGpa(SHARED, 0x1000, True)) == Give()


REPLIES = (
    (Mmio("read", 2, 0x1000, None), Give(0x1_FFFF), {"r10": 0, "r11": 0xFFFF},
     "tdx_complete_mmio_read"),
    (Mmio("write", 2, 0x1000, 5), Give(), {"r10": 0}, "tdx_emulate_mmio: R11 as it was"),
    (Mmio("read", 2, 0x1000, None), Refuse(), {"r10": INVALID}, "tdx_emulate_mmio: error"),
    (Mmio("read", 2, 0x1000, None), Refuse(ALIGN), {"r10": ALIGN}, "a host that is told to"),
    (PortIo("read", 1, 0x60, None), Give(0x1F0), {"r10": 0, "r11": 0xF0}, "tdx_complete_pio_in"),
    (PortIo("write", 1, 0x60, 1), Give(), {"r10": 0}, "tdx_complete_pio_out"),
    (Halt(False), Give(), {"r10": 0}, "tdx_handle_exit"),
    (MapGpa(0x1000, 0x1000, True), Give(), {"r10": 0}, "tdx_complete_vmcall_map_gpa"),
    (MapGpa(0x1000, 0x2000, True), Retry(0x2000), {"r10": 1, "r11": 0x2000 | SHARED},
     "tdx_complete_vmcall_map_gpa: map_gpa_next"),
    (MapGpa(0x1000, 0x2000, False), Retry(0x2000), {"r10": 1, "r11": 0x2000},
     "tdx_complete_vmcall_map_gpa"),
    (MapGpa(0x1800, 0x1000, False), Refuse(ALIGN), {"r10": ALIGN, "r11": 0x1800},
     "tdx_map_gpa: R11 is the address"),
    (Msr("read", 0x10, None), Give(TOP), {"r10": 0, "r11": TOP}, "tdx_complete_emulated_msr"),
    (Msr("write", 0x10, 1), Give(), {"r10": 0}, "tdx_complete_emulated_msr"),
    (Cpuid(0, 0), Give(0x20, (0x756E_6547, 0x6C65_746E, 0x4965_6E69)),
     {"r10": 0, "r12": 0x20, "r13": 0x756E_6547, "r14": 0x6C65_746E, "r15": 0x4965_6E69},
     "tdx_emulate_cpuid"),
    (Cpuid(0, 0), Give(1), {"r10": 0, "r12": 1, "r13": 0, "r14": 0, "r15": 0},
     "tdx_emulate_cpuid"),
    (Other("GetTdVmCallInfo", 0x10000, (0,)), Give(),
     {"r10": 0, "r11": 0, "r12": 0, "r13": 0, "r14": 0}, "tdx_get_td_vm_call_info"),
    (Other("hypercall of a vendor", 5, (), False), Give(7), {"r10": 7},
     "tdx_emulate_vmcall: complete_hypercall_exit"),
    (Other("hypercall 0x36", 0x36, (), False), Retry(0), {"r10": 1}, "a host that is told to"),
)  # fmt: skip


@pytest.mark.parametrize(("request_", "said", "registers", "source"), REPLIES)
def test_a_reply_is_told_in_registers(
    request_: Request, said: Reply, registers: dict[str, int], source: str
) -> None:
    assert returned(SHARED, request_, said) == registers, source


def test_a_text_of_a_hostile_guest_is_one_line() -> None:
    given = {"r12": 0, "r14": int.from_bytes(b"a\n\x1b[31m\xff", "little")}
    request = decode(SHARED, seen(Number.REPORT_FATAL_ERROR, given))
    assert isinstance(request, FatalError)
    assert request.text.isprintable() and request.text.startswith("a\\n\\x1b[31m")
