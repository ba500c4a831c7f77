"""Accesses as values: of memory at linear addresses, and of I/O ports.

An instruction speaks in :class:`Load` and :class:`Store`, and INS and OUTS beside that in
:class:`In` and :class:`Out`. A page walk cuts the former into transfers at physical addresses,
each of which goes to RAM or to a device; ports have numbers, and no translation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Load:
    """Ask for ``width`` bytes at a linear address; the answer is a little-endian integer."""

    linear: int
    width: int


@dataclass(frozen=True, slots=True)
class Store:
    """Write the low ``width`` bytes of ``value`` at a linear address, little-endian."""

    linear: int
    width: int
    value: int


@dataclass(frozen=True, slots=True)
class In:
    """Ask an I/O port for ``width`` bytes; the answer is a little-endian integer."""

    port: int
    width: int


@dataclass(frozen=True, slots=True)
class Out:
    """Write ``value``, of ``width`` bytes, to an I/O port."""

    port: int
    width: int
    value: int


MemoryAccess = Load | Store
"""What an instruction asks of memory."""

PortAccess = In | Out
"""An access of an I/O port, as an instruction asks for it."""

Access = MemoryAccess | PortAccess
"""An access of memory or of an I/O port, as an instruction asks for it."""


@dataclass(frozen=True, slots=True)
class Operand:
    """Foretell one access of an instruction before it is carried out.

    ``linear`` is the first byte's linear address, ``width`` is in bytes. A read-modify-write
    operand is foretold once with both ``read`` and ``write`` set. ``locked`` tells that the CPU
    would make the pair atomic.
    """

    linear: int
    width: int
    read: bool
    write: bool
    locked: bool = False


Direction = Literal["read", "write", "unknown"]
"""``unknown`` is what the vCPU did for an instruction that is not known here."""
