"""The inputs that somebody is to be asked about: one bit each, in pages that the monitor looks at.

A set of them is a whole number. Bits are of ports, of MSRs in the ranges that SVM's own map knows,
of the leaves of CPUID that CPUs number theirs by, and of vectors. Of all other MSRs, and of all
other leaves, there is one bit each.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

PORTS = range(1 << 16)
"""Every port's number is that of its bit."""

MSR_COUNT = 0x2000
"""MSRs in each of the ranges (AMD64 Architecture Programmer's Manual vol. 2, 15.11)."""
MSR_RANGES = tuple(range(first, first + MSR_COUNT) for first in (0, 0xC000_0000, 0xC001_0000))

LEAF_COUNT = 256
LEAF_RANGES = tuple(range(at << 30, (at << 30) + LEAF_COUNT) for at in range(4))
"""The basic leaves, the hypervisor's, the extended ones, and Centaur's."""

_MSRS = PORTS.stop
_LEAVES = _MSRS + len(MSR_RANGES) * MSR_COUNT
_IRQS = _LEAVES + len(LEAF_RANGES) * LEAF_COUNT
_OTHER_MSRS = _IRQS + 256
_OTHER_LEAVES = _OTHER_MSRS + 1
_COUNT = _OTHER_LEAVES + 1

NO_INPUTS = 0
ALL_INPUTS = (1 << _COUNT) - 1
ALL_PORTS = (1 << _MSRS) - 1
ALL_MSRS = (1 << _LEAVES) - (1 << _MSRS) | 1 << _OTHER_MSRS
ALL_LEAVES = (1 << _IRQS) - (1 << _LEAVES) | 1 << _OTHER_LEAVES
ALL_IRQS = (1 << _OTHER_MSRS) - (1 << _IRQS)

ALL_OF = {"port": ALL_PORTS, "msr": ALL_MSRS, "cpuid": ALL_LEAVES, "irq": ALL_IRQS}
"""All inputs of a kind."""

FLAGS_SIZE = 3 * 4096
"""Bytes of the pages: the bits, and two words behind them."""
_VECTORS = FLAGS_SIZE - 16
_FROM = FLAGS_SIZE - 8

NOT_MADE, MADE = 1, 2
"""What was decided about an input: that it is not carried out, or that it is."""


def symbols(flags: int) -> dict[str, int]:
    """Return the assembler's symbols; ``flags`` is where the pages are, behind the map of ports."""
    return {
        "FLAGS": flags,
        "VECTORS": flags + _VECTORS,
        "FROM": flags + _FROM,
        "MSRS": _MSRS,
        "MSR_COUNT": MSR_COUNT,
        "OTHER_MSRS": _OTHER_MSRS,
        "LEAVES": _LEAVES,
        "OTHER_LEAVES": _OTHER_LEAVES,
        "IRQS": _IRQS,
        "DONE": MADE,
    }


def flag_of_msr(index: int) -> int:
    """Return the number of the bit of an MSR."""
    for number, span in enumerate(MSR_RANGES):
        if index in span:
            return _MSRS + number * MSR_COUNT + index - span.start
    return _OTHER_MSRS


def flag_of_leaf(leaf: int) -> int:
    """Return the number of the bit of a leaf of CPUID."""
    for number, span in enumerate(LEAF_RANGES):
        if leaf in span:
            return _LEAVES + number * LEAF_COUNT + leaf - span.start
    return _OTHER_LEAVES


def flag_of_irq(vector: int) -> int:
    """Return the number of the bit of an interrupt's vector."""
    return _IRQS + vector


def flagged(bits: Iterable[int]) -> int:
    """Return the set of some inputs, by the numbers of their bits."""
    data = bytearray(_COUNT // 8 + 1)
    for bit in bits:
        data[bit // 8] |= 1 << bit % 8
    return int.from_bytes(data, "little")


def pages(flags: int, since: int | None = None) -> bytes:
    """Return what the pages have for a set of inputs.

    From the time-stamp counter ``since`` on it is all inputs.
    """
    data = bytearray(flags.to_bytes(FLAGS_SIZE, "little"))
    vectors = since is not None or bool(flags & ALL_IRQS)
    # A counter of 0 is always past, and a word of 0 says that there is none.
    struct.pack_into("<QQ", data, _VECTORS, vectors, 0 if since is None else max(since, 1))
    return bytes(data)
