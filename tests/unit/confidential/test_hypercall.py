"""The hypercalls' constants, each held against a guest's source and a host's, unrelated ones.

TDX: the guest side is EDK2 (MdePkg/Include/IndustryStandard/Tdx.h, IoLibInternalTdx.c,
TdVmcall.nasm), the host side KVM (arch/x86/kvm/vmx/tdx.c `tdx_emulate_mmio`, and the names that
its selftests give to what that accepts, tools/testing/selftests/kvm). SEV-ES: the guest side is
EDK2 (MdePkg/Include/Register/Amd/Ghcb.h), the host side KVM (arch/x86/include/asm/svm.h `struct
ghcb_save_area`, arch/x86/include/uapi/asm/svm.h, arch/x86/kvm/svm/sev.c).
"""

from __future__ import annotations

import json
from itertools import accumulate
from pathlib import Path

import msgspec
import pytest
import trace_sample as sample

from tracer.cli import main
from tracer.confidential import hypercall
from tracer.confidential.hypercall import (
    ghcb_exit,
    ghcb_object,
    hypercalls,
    tdvmcall,
    tdvmcall_object,
)
from tracer.trace.reader import TraceReader
from tracer.trace.record import MemoryAccess
from tracer.x86.bus import Direction

PHYSICAL = 0xFEBD_401C

# --- TDX


EDK2_TDX = {
    "TDVMCALL": 0x0, "TDVMCALL_EXPOSE_REGS_MASK": 0xFFCC, "TDVMCALL_MMIO": 0x00030,
    "TDVMCALL_ACCESS_READ": 0, "TDVMCALL_ACCESS_WRITE": 1,
}  # fmt: skip
KVM_TDX = {
    "TDG_VP_VMCALL_VE_REQUEST_MMIO": 48, "TDG_VP_VMCALL_VE_REQUEST_MMIO_READ": 0,
    "TDG_VP_VMCALL_VE_REQUEST_MMIO_WRITE": 1, "TDG_VP_VMCALL_SUCCESS": 0,
    "TDX_HYPERCALL_STANDARD": 0,
}  # fmt: skip


def test_tdx_constants_are_those_of_the_guest() -> None:
    assert EDK2_TDX == {
        "TDVMCALL": hypercall.TDG_VP_VMCALL,
        "TDVMCALL_EXPOSE_REGS_MASK": hypercall.EXPOSED_REGISTERS,
        "TDVMCALL_MMIO": hypercall.REQUEST_MMIO,
        "TDVMCALL_ACCESS_READ": hypercall.READ,
        "TDVMCALL_ACCESS_WRITE": hypercall.WRITE,
    }


def test_tdx_constants_are_those_of_the_host() -> None:
    assert KVM_TDX == {
        "TDG_VP_VMCALL_VE_REQUEST_MMIO": hypercall.REQUEST_MMIO,
        "TDG_VP_VMCALL_VE_REQUEST_MMIO_READ": hypercall.READ,
        "TDG_VP_VMCALL_VE_REQUEST_MMIO_WRITE": hypercall.WRITE,
        "TDG_VP_VMCALL_SUCCESS": hypercall.SUCCESS,
        "TDX_HYPERCALL_STANDARD": hypercall.STANDARD,
    }


def test_exposed_registers_are_those_that_linux_names() -> None:
    """arch/x86/include/asm/shared/tdx.h: RDX, RBX, RSI, RDI and R8 to R15, by register number."""
    assert sum(1 << n for n in (2, 3, 6, 7, *range(8, 16))) == hypercall.EXPOSED_REGISTERS


def kvm_emulates(registers: dict[str, int]) -> tuple[int, int, str, int | None]:
    """Read a call as `tdx_emulate_mmio` does; refuse it as that does."""
    size, write, gpa = registers["r12"], registers["r13"], registers["r14"]
    assert registers["r10"] == 0 and registers["r11"] == 48
    assert size in (1, 2, 4, 8) and write in (0, 1)
    assert gpa & 1 << 51, "KVM refuses a private address"
    return gpa & ~(1 << 51), size, ("read", "write")[write], registers["r15"] if write else None


@pytest.mark.parametrize("width", [1, 2, 4, 8])
@pytest.mark.parametrize("direction", ["read", "write"])
def test_the_host_understands_the_call(direction: Direction, width: int) -> None:
    value = 0xF1 << 8 * (width - 1)
    call = tdvmcall(direction, width, PHYSICAL, value)
    told = value if direction == "write" else None
    assert kvm_emulates(call.given) == (PHYSICAL, width, direction, told)
    assert call.returned["rax"] == call.returned["r10"] == 0
    assert call.returned.get("r11") == (None if direction == "write" else value)


def test_a_read_tells_the_host_nothing_in_r15() -> None:
    assert tdvmcall("read", 4, PHYSICAL, 0xDEAD).given["r15"] == 0


def test_an_unknown_value_is_left_out() -> None:
    read = tdvmcall_object(tdvmcall("read", 4, PHYSICAL, None))
    assert "r11" not in read["out"] and read["in"]["r15"] == "0x0"
    write = tdvmcall_object(tdvmcall("write", 4, PHYSICAL, None))
    assert "r15" not in write["in"]
    assert "buffer" not in ghcb_object(ghcb_exit("write", 4, PHYSICAL, None))


# --- SEV-ES

# Ghcb.h, GHCB_SAVE_AREA and GHCB: each field with its size in bytes, in order.
EDK2_GHCB = (
    ("Reserved1", 203), ("Cpl", 1), ("Reserved8", 300), ("Rax", 8), ("Reserved4", 264), ("Rcx", 8),
    ("Rdx", 8), ("Rbx", 8), ("Reserved5", 112), ("SwExitCode", 8), ("SwExitInfo1", 8),
    ("SwExitInfo2", 8), ("SwScratch", 8), ("Reserved6", 56), ("XCr0", 8), ("ValidBitmap", 16),
    ("X87StateGpa", 8), ("Reserved7", 1016), ("SharedBuffer", 2032),
)  # fmt: skip
# svm.h, struct ghcb_save_area and struct ghcb.
KVM_GHCB = (
    ("reserved_0x0", 203), ("cpl", 1), ("reserved_0xcc", 116), ("xss", 8), ("reserved_0x148", 24),
    ("dr7", 8), ("reserved_0x168", 16), ("rip", 8), ("reserved_0x180", 88), ("rsp", 8),
    ("reserved_0x1e0", 24), ("rax", 8), ("reserved_0x200", 264), ("rcx", 8), ("rdx", 8),
    ("rbx", 8), ("reserved_0x320", 8), ("rbp", 8), ("rsi", 8), ("rdi", 8), ("r8_to_r15", 64),
    ("reserved_0x380", 16), ("sw_exit_code", 8), ("sw_exit_info_1", 8), ("sw_exit_info_2", 8),
    ("sw_scratch", 8), ("reserved_0x3b0", 56), ("xcr0", 8), ("valid_bitmap", 16),
    ("x87_state_gpa", 8), ("reserved_save", 1016), ("shared_buffer", 2032),
)  # fmt: skip


def offsets(fields: tuple[tuple[str, int], ...]) -> dict[str, int]:
    starts = accumulate((size for _, size in fields), initial=0)
    return {name: start for (name, _), start in zip(fields, starts, strict=False)}


def test_ghcb_fields_are_where_guest_and_host_have_them() -> None:
    guest, host = offsets(EDK2_GHCB), offsets(KVM_GHCB)
    for ours, theirs in {
        "sw_exit_code": "SwExitCode", "sw_exit_info_1": "SwExitInfo1",
        "sw_exit_info_2": "SwExitInfo2", "sw_scratch": "SwScratch",
        "shared_buffer": "SharedBuffer",
    }.items():  # fmt: skip
        assert hypercall.GHCB_OFFSETS[ours] == guest[theirs] == host[ours]


def test_exit_codes_are_those_of_guest_and_host() -> None:
    edk2 = {"SVM_EXIT_MMIO_READ": 0x80000001, "SVM_EXIT_MMIO_WRITE": 0x80000002}
    kvm = {"SVM_VMGEXIT_MMIO_READ": 0x80000001, "SVM_VMGEXIT_MMIO_WRITE": 0x80000002}
    for theirs in (list(edk2.values()), list(kvm.values())):
        assert theirs == [hypercall.GHCB_MMIO_READ, hypercall.GHCB_MMIO_WRITE]


@pytest.mark.parametrize("direction", ["read", "write"])
def test_an_mmio_exit(direction: Direction) -> None:
    found = ghcb_object(ghcb_exit(direction, 4, PHYSICAL, 0x0102))
    assert found == {
        "exit_code": "0x80000001" if direction == "read" else "0x80000002",
        "info1": hex(PHYSICAL),
        "info2": "0x4",
        "buffer": "02010000",
    }


# --- in a trace


STORED = Path(__file__).parents[2] / "data" / "version-1-hypercalls.vtrace"


def test_what_version_1_stored_is_what_is_computed(capsys: pytest.CaptureFixture[str]) -> None:
    stored = [
        access
        for record in map(json.loads, STORED.read_text().splitlines())
        for access in record.get("accesses", ())
        if "region" in access
    ]
    assert main.main(["show", "--json", str(STORED)]) == 0
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {access["width"] for access in shown} == {1, 2, 4, 8}
    assert {access["direction"] for access in shown} == {"read", "write"}
    for name in ("tdvmcall", "ghcb"):
        assert [access[name] for access in shown] == [access[name] for access in stored]


def test_a_trace_has_none_of_what_follows_from_the_rest(tmp_path: Path) -> None:
    with TraceReader(STORED) as trace:
        again = sample.write(tmp_path / "again.vtrace", list(trace))
    assert b"tdvmcall" in STORED.read_bytes() and b"tdvmcall" not in again.read_bytes()


@pytest.mark.parametrize(
    "access",
    [
        sample.ram(4, "read", 7),
        sample.device("nvme", 0, 3, "read", 1),
        sample.device("nvme", 0, 16, "write", 1),
        sample.device("nvme", 0, 4, "unknown", None),
        sample.device("nvme", 0, 1, "write", 0x100),
        msgspec.structs.replace(sample.device("nvme", 0, 1, "read", 1), space="port"),
    ],
)
def test_what_no_call_can_ask_for_has_none(access: MemoryAccess) -> None:
    assert hypercalls(access) is None
    assert hypercalls(sample.device("nvme", 0, 1, "write", 0xFF)) is not None
