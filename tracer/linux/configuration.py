"""Guest code that tells where Linux may have moved a device: it has written to PCI configuration.

A guest's accesses without a stop are told by where devices were at its last stop. Behind each write
that the kernel makes through the ports CF8 and CFC, this code notes that, with interrupts off
still: so the next access takes a stop, at which the map is looked at anew.

The function is entered as one that makes mappings is (:mod:`tracer.linux.wrapper`). All registers
are as it returned them but for R11.

Ref: Linux arch/x86/pci/direct.c (pci_conf1_write), drivers/pci/access.c (pci_lock, which its
callers hold with interrupts off); PCI Local Bus 3.0, 3.2.2.3.2 (the ports).
"""

from __future__ import annotations

import struct

from tracer.access.symbols import SymbolTable
from tracer.compiled.layout import MOVED, control_field
from tracer.linux.errand_code import Code
from tracer.linux.wrapper import Back
from tracer.linux.wrappers import Wrappers

_FUNCTION = "pci_conf1_write"


def around(base: int, block: int) -> Code:
    """Return the code for linear address ``base``; ``block`` is that of the block as data."""
    out = bytearray(b"\x41\x5b")  # pop r11: the rest of the function
    out += b"\xe8" + bytes(4)  # call enter
    back = len(out)
    out += b"\x49\xbb" + struct.pack("<Q", block + control_field("SITES"))  # mov r11, the word
    out += b"\xf0\x49\x83\x0b" + bytes([MOVED])  # lock or qword ptr [r11], MOVED
    leave = len(out)
    out += b"\xc3"  # ret
    struct.pack_into("<i", out, back - 4, len(out) - back)
    out += b"\x41\x53\xc3"  # push r11; ret: no ENDBR is wanted there
    past = b"\xeb" + struct.pack("<b", leave - back - 2)  # jmp to RET
    return Code(bytes(out), base, (base + back, past), Back(base + back, returns=0))


class Configuration:
    """Own the code around the kernel's function that writes there, in one guest."""

    def __init__(self) -> None:
        self._code: Code | None = None

    @property
    def telling(self) -> range:
        """Return the linear addresses of the code that writes to the block."""
        return range(0) if self._code is None else self._code.span

    async def plant(self, symbols: SymbolTable, wrappers: Wrappers, block: int) -> None:
        """Put the code in place, as far as the kernel names the function and has room."""
        address = symbols.address_of(_FUNCTION)
        if address is not None:
            self._code = await wrappers.plant(address, lambda base: around(base, block))
