"""Memory accesses as values, at linear and at physical addresses.

An instruction speaks in :class:`Load` and :class:`Store` at linear addresses. A page walk cuts
them into :class:`Fragment` s at physical addresses, and each fragment goes to RAM or to a device.
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


Access = Load | Store
"""What an instruction asks of memory."""


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
