"""The hypercall that a device access would become in a confidential guest.

Ref: Intel TDX Guest-Host-Communication Interface 1.5, 2.4.1 (TDG.VP.VMCALL) and 3.7
(#VE.RequestMMIO); AMD SEV-ES Guest-Hypervisor Communication Block Standardization 2.03, 2.6
(layout) and 4.1.6 (MMIO access).

A handler in the guest makes one such call for each access, 1, 2, 4 or 8 bytes wide. Linux and
EDK2 make the TDX one alike.
"""

from __future__ import annotations

from tracer.trace.record import GhcbExit, TdVmcall, TdVmcallInput, TdVmcallOutput
from tracer.x86.bus import Direction

WIDTHS = (1, 2, 4, 8)
"""How many bytes one call can ask for."""

TDG_VP_VMCALL = 0
"""RAX: the leaf of TDCALL that asks the host."""

EXPOSED_REGISTERS = 0xFFCC
"""RCX: a bit for each register the host may see: RDX, RBX, RSI, RDI, R8 to R15."""

STANDARD = 0
"""R10: a sub-function of the interface itself, not one of a vendor's."""

REQUEST_MMIO = 48
"""R11: the sub-function, numbered as the exit reason it stands for (EPT violation)."""

READ, WRITE = 0, 1
"""R13."""

SUCCESS = 0
"""RAX and R10 afterwards."""

SHARED_BIT = 1 << 51
"""R14: marks an address shared with the host; the highest of the guest's 52 address bits.

With 48 address bits it would be bit 47.
"""

GHCB_MMIO_READ, GHCB_MMIO_WRITE = 0x8000_0001, 0x8000_0002
"""SW_EXITCODE."""

GHCB_OFFSETS = {
    "sw_exit_code": 0x390, "sw_exit_info_1": 0x398, "sw_exit_info_2": 0x3A0, "sw_scratch": 0x3A8,
    "shared_buffer": 0x800,
}  # fmt: skip
"""Where the fields are in the page, in bytes; SW_SCRATCH has the shared buffer's address."""


def tdvmcall(direction: Direction, width: int, physical: int, value: int | None) -> TdVmcall:
    """Return the registers of TDG.VP.VMCALL<#VE.RequestMMIO> before and after.

    ``width`` is in bytes, ``physical`` a guest-physical address without the shared bit, ``value``
    what is written or was read: None leaves the register that would hold it out. R15 is 0 in a
    read: Linux before 6.11 leaked a word of its stack there.
    """
    write = direction == "write"
    known = None if value is None else hex(value)
    return TdVmcall(
        input=TdVmcallInput(
            rax=hex(TDG_VP_VMCALL),
            rcx=hex(EXPOSED_REGISTERS),
            r10=hex(STANDARD),
            r11=hex(REQUEST_MMIO),
            r12=hex(width),
            r13=hex(WRITE if write else READ),
            r14=hex(physical | SHARED_BIT),
            r15=known if write else hex(0),
        ),
        output=TdVmcallOutput(rax=hex(SUCCESS), r10=hex(SUCCESS), r11=None if write else known),
    )


def ghcb_exit(direction: Direction, width: int, physical: int, value: int | None) -> GhcbExit:
    """Return the GHCB fields of an MMIO exit; the arguments are those of :func:`tdvmcall`.

    The shared buffer has the data: filled by the guest for a write, by the host for a read.
    """
    return GhcbExit(
        exit_code=hex(GHCB_MMIO_WRITE if direction == "write" else GHCB_MMIO_READ),
        info1=hex(physical),
        info2=hex(width),
        buffer=None if value is None else value.to_bytes(width, "little").hex(),
    )
