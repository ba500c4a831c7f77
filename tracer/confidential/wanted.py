"""The access that a guest asks its host for, read from what it has filled in for its call.

A record has that, and a call that waits: registers of TDCALL, or fields of a GHCB.
"""

from __future__ import annotations

from collections.abc import Mapping

from tracer.confidential.hypercall import (
    GHCB_MMIO_READ,
    REQUEST_MMIO,
    STANDARD,
    GhcbExit,
    ghcb_asked,
)
from tracer.confidential.request import Mmio
from tracer.confidential.tdx_host import decode

_SHARED_BITS = (1 << 51, 1 << 47)
"""By the width of guest-physical addresses, 52 bits or 48 (tracer.confidential.tdx_state)."""
_NEEDED = frozenset(("r10", "r11", "r12", "r13", "r14", "r15"))


def wanted(given: Mapping[str, int], returned: Mapping[str, int]) -> Mmio | None:
    """Return the access that a call is for, None where it is for none.

    ``returned`` is what it gave the guest, as far as that is known: a GHCB's data is in it.
    """
    if exits(given):
        return _of_exit(ghcb_asked(given, returned))
    if not given.keys() >= _NEEDED or (given["r10"], given["r11"]) != (STANDARD, REQUEST_MMIO):
        return None
    shared = next((bit for bit in _SHARED_BITS if given["r14"] & bit), _SHARED_BITS[-1])
    request = decode(shared, given)
    return request if isinstance(request, Mmio) else None


def exits(given: Mapping[str, int]) -> bool:
    """Tell a call of an SEV-ES guest from one of a TDX guest."""
    return "sw_exit_code" in given


def _of_exit(leave: GhcbExit | None) -> Mmio | None:
    if leave is None:
        return None
    if leave.exit_code == GHCB_MMIO_READ:
        return Mmio("read", leave.info2, leave.info1, None)
    value = None if leave.buffer is None else int.from_bytes(leave.buffer, "little")
    return Mmio("write", leave.info2, leave.info1, value)
