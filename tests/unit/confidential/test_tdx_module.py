"""The TDX module, leaf by leaf, against the module's own source: intel/tdx-module at 1666adc494db.

Each row names the file below src/td_dispatcher/vm_exits (or what else it is from) that says so.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from tracer.confidential.request import FatalError, Give, MapGpa, Mmio, Refuse, Retry
from tracer.confidential.tdx_leaf import LEAVES
from tracer.confidential.tdx_module import (
    Inject,
    Nested,
    Outcome,
    PrivateDevice,
    Strip,
    answer,
    describe_call,
    fault,
    reply,
    usual,
)
from tracer.confidential.tdx_state import TdxState, VeInfo
from tracer.x86.state import GPR

NONE = (1 << 64) - 1
INVALID = 0xC000_0100_0000_0000
RAX, RCX, RDX, R8 = 0, 1, 2, 8
SHARED = 1 << 47
FIELD = 0x9110_0003_0000_0000
NOTIFY_ENABLES, CONFIG_FLAGS, TD_CTLS = FIELD | 0x10, FIELD | 0x16, FIELD | 0x17
NO_FIELD, NOT_WRITABLE, NOT_READABLE, NOT_VALID = (
    0xC000_0C00_0000_0000 + (n << 32) for n in range(4)
)  # fmt: skip
PENDING = VeInfo(48, 2, 0xFFFF_C900_0000_0010, 0xFE00_1010 | SHARED)
WAITS = TdxState(pending=(None, PENDING))
CONVERTED = TdxState().converted(0x20_0000, 0x40_0000, shared=True)
BACK = CONVERTED.converted(0x20_0000, 0x40_0000, shared=False)


@dataclass(frozen=True)
class Row:
    """One TDCALL: the registers before, those that change, and the source of that."""

    leaf: int
    given: dict[str, int]
    changes: dict[str, int]
    source: str
    state: TdxState = field(default_factory=TdxState)
    vcpu: int = 0

    def __str__(self) -> str:
        named = LEAVES[self.leaf].name if self.leaf in LEAVES else hex(self.leaf)
        return " ".join([named, *(f"{name}={value:#x}" for name, value in self.given.items())])


def refused(operand: int, **others: int) -> dict[str, int]:
    return {"rax": INVALID | operand, **others}


TABLE = (
    # TDG.VP.VMCALL: the rest is the host's.
    Row(0, {"rcx": 1}, refused(RCX), "tdg_vp_vmcall.c: bits 0, 1, 4 and 63:32 must be 0"),
    Row(0, {"rcx": 2}, refused(RCX), "tdg_vp_vmcall.c"),
    Row(0, {"rcx": 0xFC10}, refused(RCX), "tdg_vp_vmcall.c"),
    Row(0, {"rcx": 1 << 32 | 0xFC00}, refused(RCX), "tdg_vp_vmcall.c"),
    # TDG.VP.INFO
    Row(1, {}, {"rax": 0, "rcx": 48, "rdx": 1 << 28, "r8": 1 | 1 << 32, "r9": 0, "r10": 1,
                "r11": 0}, "tdg_vp_info.c"),
    Row(1, {}, {"rax": 0, "rcx": 52, "rdx": 1 << 28, "r8": 2 | 2 << 32, "r9": 1, "r10": 1,
                "r11": 0}, "tdg_vp_info.c", TdxState(pending=(None, None), gpaw=52), 1),
    # TDG.MR.RTMR.EXTEND
    Row(2, {"rcx": 0x1020}, refused(RCX), "tdg_mr_rtmr_extend.c: aligned to 64"),
    Row(2, {"rcx": 0x1000 | SHARED}, refused(RCX), "tdg_mr_rtmr_extend.c: PRIVATE_ONLY"),
    Row(2, {"rcx": 1 << 48}, refused(RCX), "helpers.c check_gpa_validity"),
    Row(2, {"rcx": 0x1000, "rdx": 4}, refused(RDX), "tdg_mr_rtmr_extend.c: NUM_RTMRS"),
    Row(2, {"rcx": 0x1000, "rdx": 3}, refused(RAX), "vetrace: nothing is measured"),
    # TDG.VP.VEINFO.GET
    Row(3, {}, {"rax": 0xC000_0704_0000_0000, "rcx": 0, "rdx": 0, "r8": 0, "r9": 0, "r10": 0},
        "tdg_vp_veinfo_get.c: TDX_NO_VALID_VE_INFO, outputs 0"),
    Row(3, {}, {"rax": 0, "rcx": 48, "rdx": 2, "r8": PENDING.gla, "r9": PENDING.gpa, "r10": 0},
        "tdg_vp_veinfo_get.c", WAITS, 1),
    Row(3 | 1 << 16, {}, {"rax": 0, "rcx": 48, "rdx": 2, "r8": PENDING.gla, "r9": PENDING.gpa,
                          "r10": 0}, "tdg_vp_veinfo_get.c: version 1", WAITS, 1),
    Row(3, {}, {"rax": 0xC000_0704_0000_0000, "rcx": 0, "rdx": 0, "r8": 0, "r9": 0, "r10": 0},
        "tdx_tdvps.h: VE_INFO is of one vCPU", WAITS, 0),
    # TDG.MR.REPORT
    Row(4, {"rcx": 0x1200}, refused(RCX), "tdg_mr_report.c: aligned to 1024"),
    Row(4, {"rcx": 0x1400, "rdx": 0x20}, refused(RDX), "tdg_mr_report.c: aligned to 64"),
    Row(4, {"rcx": 0x1400, "rdx": 1 << 50}, refused(RDX), "helpers.c check_gpa_validity"),
    Row(4, {"rcx": 0x1400, "rdx": SHARED, "r8": 1}, refused(R8), "tdg_mr_report.c: subtype"),
    Row(4, {"rcx": 1 << 50, "rdx": 0}, refused(RCX), "helpers.c check_gpa_validity"),
    Row(4, {"rcx": 0x1400, "rdx": 0x40}, refused(RAX), "vetrace: nothing is attested"),
    # TDG.VP.CPUIDVE.SET
    Row(5, {"rcx": 3}, {"rax": 0}, "tdg_vp_cpuidve_set.c"),
    Row(5, {"rcx": 4}, refused(RCX), "tdg_vp_cpuidve_set.c: bits 63:2 are reserved"),
    Row(5, {"rcx": 1}, refused(RCX), "tdg_vp_cpuidve_set.c: TD_CTLS.LOCK",
        TdxState(fields=((TD_CTLS, 1 << 63),))),
    Row(5, {"rcx": 0}, {"rax": 0}, "tdg_vp_cpuidve_set.c: TD_CTLS.LOCK",
        TdxState(fields=((TD_CTLS, 1 << 63),))),
    # TDG.MEM.PAGE.ACCEPT
    Row(6, {"rcx": 0x20_0000}, {"rax": 0}, "tdg_mem_page_accept.c", BACK),
    Row(6, {"rcx": 0x20_0001}, {"rax": 0}, "tdg_mem_page_accept.c: 2 MiB", BACK),
    Row(6, {"rcx": 0x20_0000}, {"rax": 0x0B0A_0000_0000},
        "tdg_mem_page_accept.c: TDX_PAGE_ALREADY_ACCEPTED"),
    Row(6, {"rcx": 0x20_0001}, {"rax": 0x0B0A_0000_0001},
        "tdg_mem_page_accept.c: with the level"),
    Row(6, {"rcx": 0x20_0000}, {"rax": 0x0B0A_0000_0000},
        "vetrace: shared memory has a private page beneath that is accepted", CONVERTED),
    Row(6, {"rcx": 0x20_0001}, {"rax": 0xC000_0B0B_0000_0000},
        "tdg_mem_page_accept.c: TDX_PAGE_SIZE_MISMATCH",
        BACK.converted(0x20_0000, 0x20_1000, shared=True)),
    Row(6, {"rcx": 0x20_0002}, refused(RCX), "tdg_mem_page_accept.c: LVL_PT to LVL_PD"),
    Row(6, {"rcx": 0x20_0100}, refused(RCX), "helpers.c verify_page_info_input: reserved bits"),
    Row(6, {"rcx": 0x20_1001}, refused(RCX), "helpers.c verify_page_info_input: alignment"),
    Row(6, {"rcx": 0x20_0000 | SHARED}, refused(RCX), "tdg_mem_page_accept.c: PRIVATE_ONLY"),
    Row(6, {"rcx": 1 << 52}, refused(RCX), "helpers.c verify_page_info_input: reserved bits"),
    # TDG.VM.RD
    Row(7, {"rdx": CONFIG_FLAGS}, {"rax": 0, "r8": 0}, "tdg_vm_rd_wr.c"),
    Row(7, {"rdx": CONFIG_FLAGS}, {"rax": 0, "r8": 1},
        "tdx_api_defs.h config_flags_t: bit 0 is GPAW", TdxState(gpaw=52)),
    Row(7, {"rdx": CONFIG_FLAGS & ~(1 << 63)}, {"rax": 0, "r8": 0},
        "metadata_generic.c: bit 63, size and context are ignored"),
    Row(7, {"rdx": TD_CTLS}, {"rax": 0, "r8": 0xE}, "metadata_td.c: TD_CTLS",
        TdxState(fields=((TD_CTLS, 0xE),))),
    Row(7, {"rdx": 0x1110_0003_0000_0000}, {"rax": 0, "r8": 1 << 28},
        "tdr_tdcs_fields_lookup.c: ATTRIBUTES"),
    Row(7, {"rdx": 0x9010_0002_0000_0001}, {"rax": 0, "r8": 2},
        "tdr_tdcs_fields_lookup.c: NUM_VCPUS", WAITS),
    Row(7, {"rdx": 0x1110_0003_0000_0004}, {"rax": NOT_READABLE, "r8": 0},
        "tdr_tdcs_fields_lookup.c: EPTP, guest_rd_mask 0"),
    Row(7, {"rdx": 0x1110_0003_0000_0DAD}, {"rax": NO_FIELD, "r8": 0}, "metadata_generic.c"),
    Row(7, {"rdx": CONFIG_FLAGS | 1 << 34}, {"rax": NO_FIELD, "r8": 0},
        "metadata_generic.c md_check_as_single_element_id: LAST_ELEMENT_IN_FIELD"),
    Row(7, {"rdx": CONFIG_FLAGS | 1 << 55}, {"rax": NO_FIELD, "r8": 0},
        "metadata_generic.c md_check_as_single_element_id: reserved bits"),
    Row(7, {"rcx": 1, "rdx": CONFIG_FLAGS}, refused(RCX, r8=0), "tdg_vm_rd_wr.c: VM id"),
    Row(7 | 1 << 16, {"rdx": CONFIG_FLAGS}, {"rax": 0, "r8": 0, "rdx": TD_CTLS},
        "tdg_vm_rd_wr.c: version 1 tells the next field"),
    Row(7 | 1 << 16, {"rdx": 0x9110_0000_0000_0019}, {"rax": 0, "r8": 1, "rdx": NONE},
        "tdg_vm_rd_wr.c: MD_FIELD_ID_NA"),
    Row(7 | 1 << 16, {"rdx": NONE}, {"rax": 0x0C0B_0000_0000, "r8": 0,
                                     "rdx": 0x9010_0002_0000_0001},
        "tdg_vm_rd_wr.c: TDX_METADATA_FIRST_FIELD_ID_IN_CONTEXT"),
    Row(7 | 1 << 16, {"rdx": 0x0DAD}, {"rax": NO_FIELD, "r8": 0, "rdx": NONE}, "tdg_vm_rd_wr.c"),
    Row(7, {"rdx": NONE}, {"rax": NO_FIELD, "r8": 0}, "tdg_vm_rd_wr.c: only in version 1"),
    # TDG.VM.WR
    Row(8, {"rdx": NOTIFY_ENABLES, "r9": NONE}, {"rax": 0, "r8": 0},
        "Linux arch/x86/coco/tdx/tdx.c tdx_setup"),
    Row(8, {"rdx": NOTIFY_ENABLES, "r8": 2, "r9": NONE}, {"rax": NOT_VALID, "r8": 0},
        "metadata_generic.h md_check_forbidden_bits_unchanged"),
    Row(8, {"rdx": TD_CTLS, "r8": 8, "r9": 8}, {"rax": 0, "r8": 0},
        "Linux arch/x86/coco/tdx/tdx.c reduce_unnecessary_ve"),
    Row(8, {"rdx": TD_CTLS, "r8": 2, "r9": 2}, {"rax": 0, "r8": 0xE}, "metadata_td.c: old value",
        TdxState(fields=((TD_CTLS, 0xE),))),
    Row(8, {"rdx": TD_CTLS, "r8": 1, "r9": 1}, {"rax": NOT_VALID, "r8": 0},
        "metadata_td.c: PENDING_VE_DISABLE without FLEXIBLE_PENDING_VE"),
    Row(8, {"rdx": TD_CTLS, "r8": 8, "r9": 8}, {"rax": NOT_VALID, "r8": 0},
        "metadata_td.c: LOCK", TdxState(fields=((TD_CTLS, 1 << 63),))),
    Row(8, {"rdx": CONFIG_FLAGS, "r8": 2, "r9": 2}, {"rax": NOT_WRITABLE, "r8": 0},
        "metadata_td.c: no bit that may be written"),
    Row(8, {"rdx": TD_CTLS, "r8": 8, "r9": 0}, {"rax": NOT_WRITABLE, "r8": 0}, "metadata_td.c"),
    Row(8, {"rdx": 0x0DAD, "r9": 1}, {"rax": NO_FIELD, "r8": 0}, "metadata_generic.c"),
    Row(8, {"rcx": 1, "rdx": TD_CTLS}, refused(RCX, r8=0), "tdg_vm_rd_wr.c: VM id"),
    # Metadata that is not kept.
    Row(9, {}, {"rax": NO_FIELD, "rdx": NONE, "r8": 0}, "tdg_vp_rd_wr.c"),
    Row(9, {"rcx": 1}, refused(RCX, rdx=NONE, r8=0), "tdg_vp_rd_wr.c: RCX must be 0"),
    Row(10, {}, {"rax": NO_FIELD, "r8": 0}, "tdg_vp_rd_wr.c"),
    Row(10, {"rcx": 1}, refused(RCX, r8=0), "tdg_vp_rd_wr.c: RCX must be 0"),
    Row(11, {}, {"rax": NO_FIELD, "rdx": NONE, "r8": 0}, "tdg_sys_rd.c"),
    Row(12, {"rdx": 0x800}, refused(RDX, r8=NONE), "tdg_sys_rdall.c: aligned to 4096"),
    Row(12, {"rdx": SHARED}, refused(RDX, r8=NONE), "tdg_sys_rdall.c: PRIVATE_ONLY"),
    Row(12, {"rdx": 0x1000}, refused(RAX, r8=NONE), "vetrace: no field is kept"),
    # Service TDs, attestation, the secure EPT, inner guests, assigned devices.
    Row(18, {}, refused(RCX, rdx=NONE, r8=0), "tdg_servtd_rd_wr.c: the binding handle"),
    Row(20, {}, refused(RCX, r8=0), "tdg_servtd_rd_wr.c: the binding handle"),
    Row(22, {}, refused(RAX), "tdg_mr_verifyreport.c: a CPU without SEAMVERIFYREPORT"),
    Row(23, {"rcx": SHARED}, refused(RCX) | {"rcx": 0, "rdx": 0}, "tdg_mem_page_attr_rd.c"),
    Row(23, {"rcx": 0x1000}, refused(RAX) | {"rcx": 0, "rdx": 0}, "vetrace: no secure EPT"),
    Row(24, {"rcx": 0x1000, "rdx": 1 << 16}, refused(RDX) | {"rcx": 0, "rdx": 0},
        "tdg_mem_page_attr_wr.c: attributes for a VM that is not there"),
    Row(24, {"rcx": 0x1000, "r8": 1}, refused(R8) | {"rcx": 0, "rdx": 0},
        "tdg_mem_page_attr_wr.c: flags for this VM"),
    Row(24, {"rcx": 0x1000, "rdx": 1 << 16, "r8": 1}, refused(R8) | {"rcx": 0, "rdx": 0},
        "tdg_mem_page_attr_wr.c: VM after VM"),
    Row(24, {"rcx": 0x1003}, refused(RCX) | {"rcx": 0, "rdx": 0},
        "tdg_mem_page_attr_wr.c: LVL_PT to LVL_PDPT"),
    Row(24, {"rcx": 0x4000_0002}, refused(RAX) | {"rcx": 0, "rdx": 0}, "vetrace: no secure EPT"),
    Row(25, {"rcx": 1 << 52, "rdx": 0x80}, refused(RDX), "tdg_vp_enter.c: aligned to 256"),
    Row(25, {"rcx": 1 << 52, "rdx": 0x100}, refused(RCX), "tdg_vp_enter.c: no such VM"),
    Row(26, {"rcx": 0}, {"rax": 0}, "tdg_vp_invept.c: no VM named"),
    Row(26, {"rcx": 1}, refused(RCX), "tdg_vp_invept.c: this VM itself"),
    Row(26, {"rcx": 2}, refused(RCX), "tdg_vp_invept.c: a VM that is not there"),
    Row(27, {"rcx": 1 << 52}, refused(RCX), "tdg_vp_invvpid.c: a VM that is not there"),
    *(Row(leaf, {}, refused(RAX), "tdx_td_dispatcher.c: TDX-IO not supported")
      for leaf in range(64, 73)),
    # No leaf at all, versions and reserved bits.
    *(Row(leaf, {}, refused(RAX), "tdx_td_dispatcher.c td_call: default")
      for leaf in (13, 17, 19, 21, 28, 63, 73, 254, 0xFFFF)),
    Row(1 << 16, {}, refused(RAX), "tdx_td_dispatcher.c td_call: version 1 of TDG.VP.VMCALL"),
    Row(6 | 1 << 16, {}, refused(RAX), "tdx_td_dispatcher.c td_call: version 1"),
    Row(7 | 2 << 16, {}, refused(RAX), "tdg_vm_rd_wr.c: version 2"),
    Row(1 | 1 << 24, {}, refused(RAX), "tdx_td_dispatcher.c td_call: RESERVED0"),
    Row(1 | 1 << 63, {}, refused(RAX), "tdx_td_dispatcher.c td_call: RESERVED1"),
)  # fmt: skip


def registers(**given: int) -> dict[str, int]:
    return dict.fromkeys(GPR, 0) | given


@pytest.mark.parametrize("row", TABLE, ids=str)
def test_a_leaf_answers_as_its_source_says(row: Row) -> None:
    answered = answer(row.state, row.vcpu, registers(rax=row.leaf, **row.given))
    assert answered.changes == row.changes, row.source
    assert answered.event.returned == row.changes and not answered.event.waits
    assert answered.event.leaf == row.leaf & 0xFFFF and answered.event.vcpu == row.vcpu


def test_every_leaf_has_a_row() -> None:
    assert {row.leaf for row in TABLE} >= set(LEAVES)


def test_what_is_said_to_be_served_can_succeed() -> None:
    succeeded = {row.leaf & 0xFFFF for row in TABLE if row.changes["rax"] == 0}
    assert succeeded == {leaf.number for leaf in LEAVES.values() if leaf.served} - {0}


def test_a_leaf_changes_only_what_it_gives() -> None:
    for row in TABLE:
        if row.leaf in LEAVES:
            assert set(row.changes) <= {"rax", *LEAVES[row.leaf].gives}, str(row)


def test_a_leaf_tells_what_it_was_given() -> None:
    event = answer(TdxState(), 0, registers(rax=8, rdx=TD_CTLS, r8=8, r9=8, r15=7)).event
    assert event.name == "TDG.VM.WR"
    assert event.given == {"rax": 8, "rcx": 0, "rdx": TD_CTLS, "r8": 8, "r9": 8}


def test_an_unknown_leaf_is_told() -> None:
    event = answer(TdxState(), 0, registers(rax=77)).event
    assert (event.leaf, event.name, event.note) == (77, "TDCALL 0x4d", "no such leaf")
    assert describe_call(event) == "TDCALL 0x4d -> TDX_OPERAND_INVALID, RAX"


# --- what is remembered


def test_a_ve_is_told_once() -> None:
    first = answer(WAITS, 1, registers(rax=3))
    assert first.changes["rax"] == 0 and first.state.pending == (None, None)
    again = answer(first.state, 1, registers(rax=3))
    assert again.changes["rax"] == 0xC000_0704_0000_0000


def test_a_field_that_was_written_is_read() -> None:
    after = answer(TdxState(), 0, registers(rax=8, rdx=TD_CTLS, r8=8, r9=8)).state
    # REDUCE_VE turns ENUM_TOPOLOGY and VIRT_CPUID2 on: metadata_td.c.
    assert answer(after, 0, registers(rax=7, rdx=TD_CTLS)).changes["r8"] == 0xE


def test_what_is_accepted_is_accepted() -> None:
    after = answer(BACK, 0, registers(rax=6, rcx=0x20_0000)).state
    assert answer(after, 0, registers(rax=6, rcx=0x20_0000)).changes["rax"] == 0x0B0A_0000_0000
    assert answer(after, 0, registers(rax=6, rcx=0x20_0001)).changes["rax"] == 0xC000_0B0B << 32
    assert answer(after, 0, registers(rax=6, rcx=0x20_1000)).changes["rax"] == 0


# --- TDG.VP.VMCALL, in its two steps


def call(number: int, *, mask: int = 0xFFCC, **given: int) -> dict[str, int]:
    return registers(rax=0, rcx=mask, r10=0, r11=number, **given)


def test_a_hypercall_waits_for_the_host() -> None:
    state = TdxState()
    asked = answer(state, 0, call(48, r12=4, r13=0, r14=0xFE00_1010 | SHARED))
    assert asked.event.waits and asked.changes == {} and asked.state == state
    assert asked.event.request == Mmio("read", 4, 0xFE00_1010, None)
    assert usual(state, asked.event.request) is None
    done = reply(state, asked.event, Give(0x1_2345_6789))
    assert done.changes == {"rax": 0, "r10": 0, "r11": 0x2345_6789} == done.event.returned
    assert not done.event.waits
    with pytest.raises(ValueError, match="waits for no reply"):
        reply(state, done.event, Give(0))


def test_a_hidden_register_is_0_to_the_host_and_stays_as_it_was() -> None:
    given = call(48, mask=0xFFCC & ~(1 << 12) & ~(1 << 11), r12=4, r14=0x1000 | SHARED)
    asked = answer(TdxState(), 0, given)
    assert asked.event.note == "R11, R12 not exposed: the host sees 0"
    done = reply(TdxState(), asked.event, Give(5))
    assert done.changes == {"rax": 0, "r10": 0}


def test_a_reply_goes_to_exposed_registers_alone() -> None:
    given = call(48, mask=0xFFCC & ~(1 << 10), r12=4, r14=0x1000 | SHARED)
    asked = answer(TdxState(), 0, given)
    assert asked.event.request == Mmio("read", 4, 0x1000, None)
    assert reply(TdxState(), asked.event, Give(5)).changes == {"rax": 0, "r11": 5}
    assert reply(TdxState(), asked.event, Refuse()).changes == {"rax": 0}


def test_a_write_that_tells_more_than_its_width() -> None:
    given = call(48, r12=1, r13=1, r14=0x1000 | SHARED, r15=0xFFFF_FFFF_FFFF_FF80)
    event = answer(TdxState(), 0, given).event
    assert event.request == Mmio("write", 1, 0x1000, 0x80)
    assert event.note == "R15 holds more than the access needs: 0xffffffffffffff00"


def test_map_gpa_is_noted_when_the_host_grants_it() -> None:
    state = TdxState()
    asked = answer(state, 0, call(0x10001, r12=0x100_0000 | SHARED, r13=0x100_0000))
    assert asked.event.request == MapGpa(0x100_0000, 0x100_0000, True)
    assert describe_call(asked.event) == "MapGPA 0x1000000-0x1ffffff to shared"
    assert not asked.state.is_shared(0x100_0000)
    refused = reply(state, asked.event, Refuse())
    assert refused.state == state
    assert refused.changes == {"rax": 0, "r10": 1 << 63, "r11": 0x100_0000 | SHARED}
    assert describe_call(refused.event).endswith("to shared -> INVALID_OPERAND")
    half = reply(state, asked.event, Retry(0x180_0000))
    assert half.changes == {"rax": 0, "r10": 1, "r11": 0x180_0000 | SHARED}
    assert half.state.is_shared(0x17F_FFFF) and not half.state.is_shared(0x180_0000)
    granted = reply(state, asked.event, Give())
    assert granted.changes == {"rax": 0, "r10": 0}
    assert granted.state.is_shared(0x100_0000) and granted.state.is_shared(0x1FF_FFFF)


@pytest.mark.parametrize("beyond", [0, 0xFF_F000, 0x200_0000, 1 << 63, NONE])
def test_a_retry_from_elsewhere_converts_nothing_else(beyond: int) -> None:
    asked = answer(TdxState(), 0, call(0x10001, r12=0x100_0000 | SHARED, r13=0x1000))
    after = reply(TdxState(), asked.event, Retry(beyond)).state
    assert after.shared in ((), ((0x100_0000, 0x100_1000),))


def test_a_fatal_error_has_the_guests_words() -> None:
    words = b"TD misconfiguration: SEPT_VE_DISABLE\n".ljust(64, b"\0")
    names = ("r14", "r15", "rbx", "rdi", "rsi", "r8", "r9", "rdx")
    given = {
        name: int.from_bytes(words[8 * n : 8 * n + 8], "little") for n, name in enumerate(names)
    }
    event = answer(TdxState(), 0, call(0x10003, r12=0, **given)).event
    assert event.request == FatalError(0, r"TD misconfiguration: SEPT_VE_DISABLE\n")
    assert event.request is not None and usual(TdxState(), event.request) is None


# --- faults


def at(
    state: TdxState, gpa: int, *, write: bool = False, is_ram: bool = False, vcpu: int = 0
) -> tuple[TdxState, Outcome]:
    return fault(state, vcpu, gla=0xFFFF_C900_0000_0000, gpa=gpa, write=write, is_ram=is_ram)


def test_a_device_raises_ve() -> None:
    after, outcome = at(TdxState(), 0xFE00_1010 | SHARED, write=True)
    info = VeInfo(48, 2, 0xFFFF_C900_0000_0000, 0xFE00_1010 | SHARED, 0)
    assert outcome == Inject(info) and after.pending == (info,)
    _, read = at(TdxState(), 0xFE00_1010 | SHARED)
    assert isinstance(read, Inject) and read.info.qualification == 1


def test_pitfall_83_a_ve_before_the_last_is_fetched_ends_the_run() -> None:
    after, first = at(TdxState(), 0xFE00_1010 | SHARED)
    assert isinstance(first, Inject)
    again, outcome = at(after, 0xFE00_2000 | SHARED)
    assert isinstance(outcome, Nested) and outcome.pending == first.info and again == after
    fetched = answer(after, 0, registers(rax=3)).state
    assert isinstance(at(fetched, 0xFE00_2000 | SHARED)[1], Inject)


def test_another_vcpus_ve_is_its_own() -> None:
    after, _ = at(TdxState(pending=(None, None)), 0xFE00_1010 | SHARED)
    assert isinstance(at(after, 0xFE00_2000 | SHARED, vcpu=1)[1], Inject)


def test_shared_memory_is_reached_and_told() -> None:
    assert at(TdxState(), 0x20_0000 | SHARED, is_ram=True)[1] == Strip(0x20_0000, converted=False)
    assert at(CONVERTED, 0x20_0000 | SHARED, is_ram=True)[1] == Strip(0x20_0000, converted=True)
    assert at(BACK, 0x20_0000 | SHARED, is_ram=True)[1] == Strip(0x20_0000, converted=False)


def test_a_device_that_is_mapped_private() -> None:
    assert at(TdxState(), 0xFEE0_0020)[1] == PrivateDevice(0xFEE0_0020)
