"""The hypercall that a device access would become in a confidential guest.

Ref: Intel TDX Guest-Host-Communication Interface 1.5, 2.4.1 (TDG.VP.VMCALL) and 3.7
(#VE.RequestMMIO); AMD SEV-ES Guest-Hypervisor Communication Block Standardization 2.03, 2.6
(layout) and 4.1.6 (MMIO access).

A handler in the guest makes one such call for each access, 1, 2, 4 or 8 bytes wide. Linux and
EDK2 make the TDX one alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tracer.trace.member import Space
from tracer.trace.record import MemoryAccess
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


_GHCB_FIELDS = ("sw_exit_code", "sw_exit_info_1", "sw_exit_info_2")


@dataclass(frozen=True, slots=True)
class TdVmcall:
    """Hold the registers of a TDX hypercall by name: ``given`` to the host, and ``returned``.

    A register whose value is not known is left out; R12 to R15 come back as they were given.
    """

    given: dict[str, int]
    returned: dict[str, int]


@dataclass(frozen=True, slots=True)
class GhcbExit:
    """Hold the fields of an SEV-ES exit; ``buffer`` is the data, None where it is not known."""

    exit_code: int
    info1: int
    info2: int
    buffer: bytes | None


def tdvmcall(
    direction: Direction,
    width: int,
    physical: int,
    value: int | None,
    shared_bit: int = SHARED_BIT,
) -> TdVmcall:
    """Return the registers of TDG.VP.VMCALL<#VE.RequestMMIO> before and after.

    ``width`` is in bytes, ``physical`` a guest-physical address without the shared bit, ``value``
    what is written or was read: None leaves the register that would hold it out. R15 is 0 in a
    read: Linux before 6.11 leaked a word of its stack there.
    """
    write = direction == "write"
    given = {
        "rax": TDG_VP_VMCALL,
        "rcx": EXPOSED_REGISTERS,
        "r10": STANDARD,
        "r11": REQUEST_MMIO,
        "r12": width,
        "r13": WRITE if write else READ,
        "r14": physical | shared_bit,
    }
    returned = {"rax": SUCCESS, "r10": SUCCESS}
    if not write:
        given["r15"] = 0
    elif value is not None:
        given["r15"] = value
    if value is not None and not write:
        returned["r11"] = value
    return TdVmcall(given, returned)


def ghcb_exit(direction: Direction, width: int, physical: int, value: int | None) -> GhcbExit:
    """Return the GHCB fields of an MMIO exit; the arguments are those of :func:`tdvmcall`.

    The shared buffer has the data: filled by the guest for a write, by the host for a read.
    """
    return GhcbExit(
        exit_code=GHCB_MMIO_WRITE if direction == "write" else GHCB_MMIO_READ,
        info1=physical,
        info2=width,
        buffer=None if value is None else value.to_bytes(width, "little"),
    )


def ghcb_asked(given: Mapping[str, int], returned: Mapping[str, int]) -> GhcbExit | None:
    """Return the exit by which an SEV-ES guest asked for an access, None where it is no such one.

    The fields are by their names in the page, and ``shared_buffer`` is the data as a number.
    """
    if not all(name in given for name in _GHCB_FIELDS):
        return None
    code, place, width = (given[name] for name in _GHCB_FIELDS)
    if code not in (GHCB_MMIO_READ, GHCB_MMIO_WRITE) or width not in WIDTHS:
        return None
    data = (given if code == GHCB_MMIO_WRITE else returned).get("shared_buffer")
    if data is not None and data >> 8 * width:
        return None
    buffer = None if data is None else data.to_bytes(width, "little")
    return GhcbExit(code, place, width, buffer)


def may_ask(region: str | None, space: Space, direction: Direction, width: int) -> bool:
    """Tell whether a confidential guest's handler can make a call of an access, by its kind."""
    if region is None or space != "memory":
        return False
    return width in WIDTHS and direction != "unknown"


def hypercalls(
    access: MemoryAccess, shared_bit: int = SHARED_BIT
) -> tuple[TdVmcall, GhcbExit] | None:
    """Return what an access would become in a guest of TDX, and in one of SEV-ES.

    It is None for an access that is none to a device's memory, has a width that no call can ask
    for, an unknown direction, or a value (of a broken trace) that is wider than the access.
    """
    if not may_ask(access.region, access.space, access.direction, access.width):
        return None
    if (access.value or 0) >> 8 * access.width:
        return None
    place = access.direction, access.width, access.physical, access.value
    return tdvmcall(*place, shared_bit), ghcb_exit(*place)


def tdvmcall_object(call: TdVmcall) -> dict[str, dict[str, str]]:
    """Return the registers ready for JSON: ``in`` has what is given, ``out`` what comes back."""
    return {"in": _texts(call.given), "out": _texts(call.returned)}


def ghcb_object(leave: GhcbExit) -> dict[str, str]:
    """Return the fields ready for JSON, without the buffer where that is not known."""
    found = {name: hex(getattr(leave, name)) for name in ("exit_code", "info1", "info2")}
    return found if leave.buffer is None else found | {"buffer": leave.buffer.hex()}


def _texts(values: dict[str, int]) -> dict[str, str]:
    return {name: hex(value) for name, value in values.items()}
