"""Linux's handler of #VE in a TDX guest comes to its end here.

Ref: Linux arch/x86/kernel/traps.c `exc_virtualization_exception`: it calls
`tdx_handle_virt_exception` last, whose AL is 0 where it gives up; what follows is an oops, or a
signal.
"""

from __future__ import annotations

import struct

from tracer.access.space import AddressSpace
from tracer.access.symbols import SymbolTable
from tracer.errors import GuestError

_HANDLER, _CALLED = "exc_virtualization_exception", "tdx_handle_virt_exception"
_CALL_NEAR = 0xE8
_MOST_CODE = 400


def behind_handler(symbols: SymbolTable, space: AddressSpace) -> int:
    """Return the linear address at which AL tells what the handler made of a #VE.

    Raises GuestError where the kernel has no such place.
    """
    for name in (_HANDLER, _CALLED):
        if symbols.address_of(name) is None:
            raise GuestError(f"the kernel has no symbol {name}: its handler cannot be tried")
    begin, called = symbols.address_of(_HANDLER) or 0, symbols.address_of(_CALLED)
    code = space.read(begin, _MOST_CODE)
    for at in range(len(code) - 4):
        behind = begin + at + 5
        distance: int = struct.unpack_from("<i", code, at + 1)[0]
        if code[at] == _CALL_NEAR and behind + distance & (1 << 64) - 1 == called:
            return behind
    raise GuestError(f"{_HANDLER} of this kernel does not call {_CALLED}: it cannot be tried")
