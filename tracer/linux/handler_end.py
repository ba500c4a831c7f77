"""Linux's handler of #VE, or of #VC, comes to its end here.

Ref: Linux arch/x86/kernel/traps.c `exc_virtualization_exception` calls `tdx_handle_virt_exception`
last; arch/x86/kernel/sev.c `DEFINE_IDTENTRY_VC_KERNEL` (arch/x86/coco/sev/vc-handle.c from 6.16 on)
calls `vc_raw_handle_exception`. AL is 0 where that gives up: what follows is an oops, a signal, or
the guest's asking for its end.
"""

from __future__ import annotations

import struct

from tracer.access.space import AddressSpace
from tracer.access.symbols import SymbolTable
from tracer.confidential.kind import Kind
from tracer.errors import GuestError

_NAMES = {
    Kind.TDX: ("exc_virtualization_exception", "tdx_handle_virt_exception"),
    Kind.SEV_ES: ("kernel_exc_vmm_communication", "vc_raw_handle_exception"),
}
"""The handler of a kind of guest, and what it calls."""
_CALL_NEAR = 0xE8
_MOST_CODE = 400


def behind_handler(symbols: SymbolTable, kind: Kind, space: AddressSpace) -> int:
    """Return the linear address at which AL tells what the handler made of an exception.

    Raises GuestError where the kernel has no such place.
    """
    handler, callee = _NAMES[kind]
    for name in (handler, callee):
        if symbols.address_of(name) is None:
            raise GuestError(f"the kernel has no symbol {name}: its handler cannot be tried")
    begin, called = symbols.address_of(handler) or 0, symbols.address_of(callee)
    code = space.read(begin, _MOST_CODE)
    for at in range(len(code) - 4):
        behind = begin + at + 5
        distance: int = struct.unpack_from("<i", code, at + 1)[0]
        if code[at] == _CALL_NEAR and behind + distance & (1 << 64) - 1 == called:
            return behind
    raise GuestError(f"{handler} of this kernel does not call {callee}: it cannot be tried")
