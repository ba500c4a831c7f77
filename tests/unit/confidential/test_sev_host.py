"""The host of an SEV-ES guest says what KVM says: arch/x86/kvm/svm/sev.c.

Each row names what says so: a function of KVM, a section of the GHCB specification 2.03, or
vetrace where it is a decision.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from tracer.confidential import sev_host
from tracer.confidential.ghcb import patch, unpack
from tracer.confidential.request import (
    Cpuid,
    FatalError,
    Give,
    Mmio,
    Msr,
    Other,
    PortIo,
    Refuse,
    Reply,
    Request,
    Retry,
)
from tracer.confidential.sev_exit import EXITS, PROTOCOLS, GhcbError, reason_text
from tracer.confidential.sev_host import exit, msr, reply, usual
from tracer.confidential.sev_state import SevState, Vmgexit, describe_exit, patched

STATE = SevState()
TOP = (1 << 64) - 1
ADDRESS = 0x12_3000
BUFFER = ADDRESS + 0x800
KVM_ENOSYS = TOP - 999

# --- the MSR protocol


@dataclass(frozen=True)
class Asked:
    """One request of the MSR protocol, and the MSR afterwards, or what has to be asked."""

    value: int
    after: int | Request
    source: str

    def __str__(self) -> str:
        return f"{self.value:#x}"


PROTOCOL = (
    Asked(0x002, 2 << 48 | 1 << 32 | 38 << 24 | 0x001, "sev-common.h GHCB_MSR_SEV_INFO"),
    Asked(0x8000_001F << 32 | 2 << 30 | 0x004, Cpuid(0x8000_001F, 0, 2), "GHCB_CPUID_REQ"),
    Asked(0x006, Other("AP reset hold", 0x006), "sev_handle_vmgexit_msr_protocol"),
    Asked(0x010, 0xFFFF_FFFF_FFFF_F011, "sev-common.h GHCB_MSR_PREF_GPA_NONE"),
    Asked(0x12_3012, 0x12_3013, "GHCB 2.3.1: the same address"),
    Asked(1 << 52 | 0x12_3014, 1 << 63 | 0x015, "sev-common.h GHCB_MSR_PSC_RESP_ERROR"),
    Asked(0x080, 0x081, "GHCB 2.3.1: no features without SEV-SNP"),
    Asked(0x100, FatalError(0, "general termination request"), "sev-common.h GHCB_SEV_ES_GEN_REQ"),
    Asked(1 << 16 | 0x100, FatalError(1, "the host's version of the protocol is not supported"),
          "sev-common.h GHCB_SEV_ES_PROT_UNSUPPORTED"),
    Asked(3 << 16 | 1 << 12 | 0x100, FatalError(0x103, "not at VMPL 0"),
          "sev-common.h GHCB_TERM_NOT_VMPL0"),
    Asked(0x77 << 16 | 9 << 12 | 0x100, FatalError(0x977, "reason 0x77 of set 0x9"),
          "sev-common.h GHCB_MSR_TERM_REASON_SET_MASK"),
    *(Asked(0xABC_D000 | code, 0xABC_D000 | code, "sev_handle_vmgexit_msr_protocol: default")
      for code in (0x001, 0x003, 0x016, 0x0FF, 0xFFF)),
)  # fmt: skip


@pytest.mark.parametrize("row", PROTOCOL, ids=str)
def test_the_msr_protocol(row: Asked) -> None:
    answered = msr(STATE, 0, row.value)
    if isinstance(row.after, int):
        assert answered.changes == {"msr": row.after} == answered.event.returned, row.source
    else:
        assert answered.event.waits and answered.event.request == row.after, row.source
    assert answered.event.given == {"msr": row.value} and answered.event.protocol


def test_every_request_has_a_row() -> None:
    assert {row.value & 0xFFF for row in PROTOCOL} >= set(PROTOCOLS)


def test_a_registered_page_is_remembered_for_its_vcpu() -> None:
    first = msr(STATE, 1, 0x12_3012).state
    assert msr(first, 0, 0x45_6012).state.registered == ((0, 0x45_6000), (1, 0x12_3000))


PROTOCOL_REPLIES = (
    (0x8000_001F << 32 | 2 << 30 | 0x004, Give(0x1_0000_000A), 0xA << 32 | 2 << 30 | 0x005),
    (0x8000_001F << 32 | 0x004, Refuse(), 0x8000_001F << 32 | 0x004),
    (0x006, Give(1), 1 << 12 | 0x007),
    (0x006, Give(0), 0x007),
    (0x100, Give(0), 0x100),
)  # fmt: skip


@pytest.mark.parametrize(("value", "said", "after"), PROTOCOL_REPLIES)
def test_a_reply_in_the_msr(value: int, said: Reply, after: int) -> None:
    event = msr(STATE, 0, value).event
    assert reply(STATE, event, said).changes == {"msr": after}


# --- exits with a GHCB


@dataclass(frozen=True)
class Row:
    """One exit: the valid fields, and what the host sets, or what it asks for."""

    fields: dict[str, int]
    after: dict[str, int] | Request
    source: str
    state: SevState = field(default_factory=SevState)
    data: bytes = b""

    def __str__(self) -> str:
        return " ".join(f"{name}={value:#x}" for name, value in self.fields.items())


def exits(code: int, first: int = 0, second: int = 0, **more: int) -> dict[str, int]:
    return {"sw_exit_code": code, "sw_exit_info_1": first, "sw_exit_info_2": second} | more


def done(second: int = 0, **more: int) -> dict[str, int]:
    return {"sw_exit_info_1": 0, "sw_exit_info_2": second} | more


def wrong(error: int) -> dict[str, int]:
    return {"sw_exit_info_1": 2, "sw_exit_info_2": error}


IO_IN, IO_OUT = 0x3F8 << 16 | 1, 0x3F8 << 16
TABLE = (
    # An access to a device: address, width, and its data in the page's buffer.
    *(Row(exits(0x8000_0001, 0xFEBD_401C, width, sw_scratch=BUFFER),
          Mmio("read", width, 0xFEBD_401C, None), "GHCB 4.1.6") for width in (1, 2, 4, 8)),
    Row(exits(0x8000_0002, 0xFEBD_401C, 4, sw_scratch=BUFFER),
        Mmio("write", 4, 0xFEBD_401C, 0x0403_0201), "GHCB 4.1.6", data=b"\1\2\3\4\5"),
    Row(exits(0x8000_0002, 0xFEBD_401C, 2, sw_scratch=BUFFER + 2),
        Mmio("write", 2, 0xFEBD_401C, 0x0403), "setup_vmgexit_scratch", data=b"\1\2\3\4\5"),
    Row(exits(0x8000_0001, 1 << 51 | 0xFEBD_401C, 4, sw_scratch=BUFFER),
        Mmio("read", 4, 0xFEBD_401C, None), "Linux vc-handle.c vc_slow_virt_to_phys: of the leaf",
        SevState(poison=1 << 51)),
    Row(exits(0x8000_0001, 1 << 38 | 0xFEBD_401C, 4, sw_scratch=BUFFER),
        Mmio("read", 4, 0xFEBD_401C, None, shared=False), "vetrace: an encrypted device"),
    Row(exits(0x8000_0001, 0xFEBD_401C, 0, sw_scratch=BUFFER), done(), "sev_handle_vmgexit: !len"),
    Row(exits(0x8000_0001, 0xFEBD_401C, 9, sw_scratch=BUFFER), wrong(5),
        "sev_handle_vmgexit: len > 8 of version 2"),
    Row(exits(0x8000_0001, 0xFEBD_401C, TOP, sw_scratch=BUFFER), wrong(5), "sev_handle_vmgexit"),
    Row(exits(0x8000_0001, 0xFEBD_401C, 4), wrong(4), "sev_es_are_required_ghcb_fields_valid"),
    Row(exits(0x8000_0001, 0xFEBD_401C, 4, sw_scratch=0x5000), wrong(3),
        "setup_vmgexit_scratch: version 2 wants it in the GHCB"),
    Row(exits(0x8000_0001, 0xFEBD_401C, 4, sw_scratch=ADDRESS), wrong(3),
        "setup_vmgexit_scratch: before the buffer"),
    Row(exits(0x8000_0001, 0xFEBD_401C, 4, sw_scratch=ADDRESS + 0xFED), wrong(3),
        "setup_vmgexit_scratch: beyond the buffer"),
    Row(exits(0x8000_0001, 0xFEBD_401C, 4, sw_scratch=ADDRESS + 0xFEC),
        Mmio("read", 4, 0xFEBD_401C, None), "setup_vmgexit_scratch: its end"),
    Row(exits(0x8000_0001, 0xFEBD_401C, 4, sw_scratch=TOP), wrong(3), "setup_vmgexit_scratch"),
    # A boot asks these besides.
    Row(exits(0x8000_0003), done(), "SVM_VMGEXIT_NMI_COMPLETE"),
    Row(exits(0x8000_0004), Other("AP reset hold", 0x8000_0004), "SVM_VMGEXIT_AP_HLT_LOOP"),
    Row(exits(0x8000_0005, 1), done(0), "SVM_VMGEXIT_AP_JUMP_TABLE: get"),
    Row(exits(0x8000_0005, 1), done(0x9000), "SVM_VMGEXIT_AP_JUMP_TABLE: get",
        SevState(jump_table=0x9000)),
    Row(exits(0x8000_0005, 0, 0x9000), done(), "SVM_VMGEXIT_AP_JUMP_TABLE: set"),
    Row(exits(0x8000_0005, 2), wrong(5), "SVM_VMGEXIT_AP_JUMP_TABLE: default"),
    Row(exits(0x8000_FFFD), done(0), "GHCB 4.1: no features without SEV-SNP"),
    Row(exits(0x8000_FFFE, 0x12), FatalError(0x201, "reason 0x1 of set 0x2"),
        "SVM_VMGEXIT_TERM_REASON"),
    Row(exits(0x8000_FFFF, 0x8D), FatalError(0x8D, "its handler knows no #VC of exit code 0x8d"),
        "SVM_VMGEXIT_UNSUPPORTED_EVENT"),
    # No boot here asks these, as nothing of the kind is intercepted.
    Row(exits(0x27), done(), "vetrace"),
    Row(exits(0x37, rax=0x400), done(), "vetrace"),
    Row(exits(0x37), wrong(4), "sev_es_are_required_ghcb_fields_valid"),
    Row(exits(0x6E), Other("RDTSC", 0x6E), "sev_handle_vmgexit"),
    Row(exits(0x87), Other("RDTSCP", 0x87), "sev_handle_vmgexit"),
    Row(exits(0x6F, rcx=5), Other("RDPMC", 0x6F, (5,)), "sev_handle_vmgexit"),
    Row(exits(0x6F), wrong(4), "sev_es_are_required_ghcb_fields_valid"),
    Row(exits(0x72, rax=TOP, rcx=2), Cpuid(0xFFFF_FFFF, 2), "sev_handle_vmgexit"),
    Row(exits(0x72, rax=1), wrong(4), "sev_es_are_required_ghcb_fields_valid"),
    Row(exits(0x72, rax=0xD, rcx=0), wrong(4), "sev_es_are_required_ghcb_fields_valid: XCR0"),
    Row(exits(0x72, rax=0xD, rcx=0, xcr0=7), Cpuid(0xD, 0), "sev_handle_vmgexit"),
    *(Row(exits(code), done(), "vetrace") for code in (0x76, 0x89)),
    Row(exits(0x7B, IO_IN | 1 << 4), PortIo("read", 1, 0x3F8, None), "APM vol. 2, 15.10.2"),
    Row(exits(0x7B, IO_OUT | 1 << 5, rax=0x1_2345), PortIo("write", 2, 0x3F8, 0x2345),
        "APM vol. 2, 15.10.2"),
    Row(exits(0x7B, IO_OUT | 1 << 6), wrong(4), "sev_es_are_required_ghcb_fields_valid"),
    Row(exits(0x7B, IO_IN | 1 << 2 | 1 << 4), wrong(4), "SVM_IOIO_STR_MASK: scratch"),
    Row(exits(0x7B, IO_IN | 1 << 2 | 1 << 4, sw_scratch=BUFFER),
        PortIo("read", 1, 0x3F8, None, string=True), "SVM_IOIO_STR_MASK"),
    Row(exits(0x7B, IO_IN), done(), "sev_handle_vmgexit: SVM_IOIO_SIZE_MASK is 0"),
    Row(exits(0x7C, 0, rcx=0x10), Msr("read", 0x10, None), "sev_handle_vmgexit"),
    Row(exits(0x7C, 1, rcx=0x10, rax=1, rdx=2), Msr("write", 0x10, 2 << 32 | 1),
        "sev_handle_vmgexit"),
    Row(exits(0x7C, 1, rcx=0x10), wrong(4), "sev_es_are_required_ghcb_fields_valid"),
    Row(exits(0x7C), wrong(4), "sev_es_are_required_ghcb_fields_valid"),
    Row(exits(0x81, rax=5, cpl=0), Other("VMMCALL", 0x81, (5, 0)), "sev_handle_vmgexit"),
    Row(exits(0x81, rax=5), wrong(4), "sev_es_are_required_ghcb_fields_valid: CPL"),
    Row(exits(0x8A, rax=1, rcx=0, rdx=0), done(), "vetrace"),
    Row(exits(0x8A, rax=1, rcx=0), wrong(4), "sev_es_are_required_ghcb_fields_valid"),
    Row(exits(0x8B, rax=1, rcx=0), done(), "vetrace"),
    # Only an SEV-SNP guest may ask the first, nobody the rest.
    *(Row(exits(0x8000_0010 + n), wrong(6), "is_snp_only_vmgexit") for n in range(4)),
    *(Row(exits(code), wrong(6), "sev_handle_vmgexit: default")
      for code in (0, 0x78, 0x400, 0x8000_0000, 0x8000_0006, 0x8000_0018, TOP)),
    Row({}, wrong(4), "sev_es_are_required_ghcb_fields_valid"),
    Row({"sw_exit_code": 0x8000_0003}, wrong(4), "sev_es_are_required_ghcb_fields_valid"),
)  # fmt: skip


def paged(fields: dict[str, int], data: bytes = b"") -> bytes:
    """Return a GHCB with valid fields, as a guest writes it."""
    wide = {name: value for name, value in fields.items() if name != "cpl"}
    page = bytearray(patch(bytes(4096), wide, data, 0x800))
    if "cpl" in fields:
        page[0xCB] = fields["cpl"]
        page[0x3F0 + 25 // 8] |= 1 << 25 % 8
    return bytes(page)


@pytest.mark.parametrize("row", TABLE, ids=str)
def test_an_exit_is_understood_and_answered_as_kvm_does(row: Row) -> None:
    page = paged(row.fields, row.data)
    answered = exit(row.state, 0, ADDRESS, page)
    assert answered.event.given == row.fields
    if isinstance(row.after, dict):
        assert answered.changes == row.after == answered.event.returned, row.source
        assert unpack(patched(page, answered)).fields == row.after
    else:
        assert answered.event.waits and answered.event.request == row.after, row.source


def test_every_event_has_a_row() -> None:
    assert {row.fields.get("sw_exit_code") for row in TABLE} >= set(EXITS)


def test_a_layout_that_is_not_known() -> None:
    page = bytearray(paged(exits(0x8000_0003)))
    page[0xFFC] = 1
    answered = exit(STATE, 0, ADDRESS, bytes(page))
    assert answered.changes == wrong(GhcbError.INVALID_USAGE)


def test_a_jump_table_is_remembered() -> None:
    after = exit(STATE, 0, ADDRESS, paged(exits(0x8000_0005, 0, 0x9000))).state
    assert exit(after, 1, ADDRESS, paged(exits(0x8000_0005, 1))).changes == done(0x9000)


def event_of(fields: dict[str, int]) -> Vmgexit:
    return exit(STATE, 0, ADDRESS, paged(fields)).event


READ = exits(0x8000_0001, 0xFEBD_401C, 4, sw_scratch=BUFFER + 8)
REPLIES = (
    (READ, Give(0x1_0403_0201), done(), b"\1\2\3\4", "GHCB 4.1.6"),
    (READ, Refuse(), wrong(6), b"", "svm_vmgexit_bad_input"),
    (READ, Refuse(5), wrong(5), b"", "svm_vmgexit_bad_input"),
    (exits(0x8000_0002, 0x1000, 4, sw_scratch=BUFFER), Give(), done(), b"", "GHCB 4.1.6"),
    (exits(0x7B, IO_IN | 1 << 4), Give(0x141), done(rax=0x41), b"", "sev_es_sync_to_ghcb"),
    (exits(0x7B, IO_OUT | 1 << 4, rax=1), Give(), done(), b"", "sev_es_sync_to_ghcb"),
    (exits(0x7C, rcx=1), Give(2 << 32 | 1), done(rax=1, rdx=2), b"", "sev_es_sync_to_ghcb"),
    (exits(0x7C, 1, rcx=1, rax=0, rdx=0), Give(), done(), b"", "svm_complete_emulated_msr"),
    (exits(0x7C, rcx=1), Refuse(), {"sw_exit_info_1": 1, "sw_exit_info_2": 0x8000_030D}, b"",
     "svm_vmgexit_inject_exception"),
    (exits(0x72, rax=0, rcx=0), Give(1, (2, 3, 4)), done(rax=1, rbx=2, rcx=3, rdx=4), b"",
     "sev_es_sync_to_ghcb"),
    (exits(0x81, rax=5, cpl=0), Give(KVM_ENOSYS), done(rax=KVM_ENOSYS), b"",
     "x86.c kvm_emulate_hypercall"),
    (exits(0x6E), Give(2 << 32 | 1), done(rax=1, rdx=2), b"", "sev_es_sync_to_ghcb"),
    (exits(0x8000_0004), Give(1), done(1), b"", "sev_vcpu_deliver_sipi_vector"),
)  # fmt: skip


@pytest.mark.parametrize(("fields", "said", "after", "data", "source"), REPLIES)
def test_a_reply_is_told_in_the_page(
    fields: dict[str, int], said: Reply, after: dict[str, int], data: bytes, source: str
) -> None:
    page = paged(fields)
    answered = reply(STATE, event_of(fields), said)
    assert answered.changes == after and answered.data == data, source
    told = unpack(patched(page, answered))
    assert told.fields == after
    begin = fields.get("sw_scratch", BUFFER) - BUFFER
    assert told.buffer[begin : begin + len(data)] == data
    with pytest.raises(ValueError, match="waits for no reply"):
        reply(STATE, answered.event, said)


def test_nothing_but_map_gpa_is_asked_again() -> None:
    with pytest.raises(ValueError, match="MapGPA"):
        reply(STATE, event_of(READ), Retry(0))


USUAL = (
    (Mmio("read", 4, 0x1000, None), None),
    (Mmio("read", 3, 0x1000, None), Refuse(5)),
    (Mmio("read", 4, 0x1000, None, shared=False), Refuse(5)),
    (PortIo("read", 1, 0x60, None), None),
    (PortIo("read", 1, 0x60, None, string=True), Refuse(5)),
    (PortIo("read", 7, 0x60, None), Refuse(5)),
    (FatalError(0, ""), None),
    (Other("AP reset hold", 6), Refuse()),
    (Other("VMMCALL", 0x81, (5, 0)), Give(KVM_ENOSYS)),
    (Other("RDTSC", 0x6E), Refuse()),
    (Msr("read", 0x10, None), Refuse()),
    (Cpuid(0, 0), Refuse()),
)  # fmt: skip


@pytest.mark.parametrize(("request_", "said"), USUAL)
def test_what_an_honest_host_says(request_: Request, said: Reply | None) -> None:
    assert usual(STATE, request_) == said


# --- words


def test_an_exit_in_words() -> None:
    assert describe_exit(event_of(READ)) == "MMIO read 0xfebd401c, 4 bytes"
    assert describe_exit(event_of(exits(0x8000_0003))) == "NMI complete"
    missing = event_of(exits(0x7C))
    assert describe_exit(missing) == "MSR -> MISSING_INPUT" and missing.note == "without rcx"
    refused = reply(STATE, event_of(exits(0x7C, rcx=0x10)), Refuse()).event
    assert describe_exit(refused) == "RDMSR 0x10 -> exception 13"
    refused = reply(STATE, event_of(exits(0x6F, rcx=5)), Refuse()).event
    assert describe_exit(refused) == "RDPMC 0x5 -> exception 13"
    strange = reply(STATE, event_of(READ), Refuse(77)).event
    assert describe_exit(strange) == "MMIO read 0xfebd401c, 4 bytes -> 0x4d"


def test_each_reason_that_linux_has_is_known() -> None:
    # sev-common.h: GHCB_TERM_REGISTER, 0, to GHCB_TERM_SECURE_TSC_KVMCLOCK, 11.
    assert all("reason" not in reason_text(1, code) for code in range(12))
    assert reason_text(1, 12) == "reason 0xc of set 0x1"


def test_both_versions_are_told() -> None:
    assert sev_host.VERSIONS == (1, 2)
