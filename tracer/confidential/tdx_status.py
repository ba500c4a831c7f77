"""The numbers by which the TDX module answers, in RAX of TDCALL, and a host in R10.

Ref: intel/tdx-module (the module's own source), include/auto_gen/tdx_error_codes_defs.h; Linux
arch/x86/include/asm/shared/tdx.h, TDVMCALL_STATUS_*; QEMU target/i386/kvm/tdx.h.

A code of the module has its class in bits 63:32; bits 31:0 hold the operand it is about, numbered
as the register is, or a level of the page tables.
"""

from __future__ import annotations

from enum import IntEnum

from tracer.x86.state import GPR


class Status(IntEnum):
    """Name what a leaf of TDCALL answers in RAX, without the operand."""

    TDX_SUCCESS = 0
    TDX_OPERAND_INVALID = 0xC000_0100_0000_0000
    TDX_OPERAND_BUSY = 0x8000_0200_0000_0000
    TDX_NO_VALID_VE_INFO = 0xC000_0704_0000_0000
    TDX_PAGE_ALREADY_ACCEPTED = 0x0000_0B0A_0000_0000
    TDX_PAGE_SIZE_MISMATCH = 0xC000_0B0B_0000_0000
    TDX_METADATA_FIELD_ID_INCORRECT = 0xC000_0C00_0000_0000
    TDX_METADATA_FIELD_NOT_WRITABLE = 0xC000_0C01_0000_0000
    TDX_METADATA_FIELD_NOT_READABLE = 0xC000_0C02_0000_0000
    TDX_METADATA_FIELD_VALUE_NOT_VALID = 0xC000_0C03_0000_0000
    TDX_METADATA_FIRST_FIELD_ID_IN_CONTEXT = 0x0000_0C0B_0000_0000


class HostStatus(IntEnum):
    """Name what the host answers in R10."""

    SUCCESS = 0
    RETRY = 1
    INVALID_OPERAND = 0x8000_0000_0000_0000
    GPA_INUSE = 0x8000_0000_0000_0001
    ALIGN_ERROR = 0x8000_0000_0000_0002
    SUBFUNC_UNSUPPORTED = 0x8000_0000_0000_0003


def about(status: Status, register: str) -> int:
    """Return a status with the operand it is about, a general-purpose register by name."""
    return status | GPR.index(register)


def status_text(rax: int) -> str:
    """Return RAX after a TDCALL in words, such as ``TDX_OPERAND_INVALID, RCX``."""
    head, operand = rax & ~0xFFFF_FFFF, rax & 0xFFFF_FFFF
    try:
        status = Status(head)
    except ValueError:
        return f"{rax:#x}"
    if status is Status.TDX_OPERAND_INVALID and operand < len(GPR):
        return f"{status.name}, {GPR[operand].upper()}"
    return f"{status.name}, {operand:#x}" if operand else status.name


def host_status_text(r10: int) -> str:
    """Return R10 after TDG.VP.VMCALL in words."""
    try:
        return HostStatus(r10).name
    except ValueError:
        return f"{r10:#x}"
