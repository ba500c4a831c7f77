"""Build sites of ports, and rows of a guest that accesses PCI configuration space by them."""

from __future__ import annotations

from input_row import row

from tracer.compiled.inputs import FIRST
from tracer.trace.compiled import SiteRecord
from tracer.trace.member import Space

RIP = 0xFFFF_FFFF_8100_0000

IN, OUT, IN16, IN8 = FIRST, FIRST + 1, FIRST + 2, FIRST + 3
"""Numbers of sites of ports."""

SITES = [
    SiteRecord(
        time_ns=0, number=number, rip=RIP + number - FIRST, code=bytes.fromhex(code), text=text,
        asked="write" if text.startswith("out") else "read", width=width, space="port",
    )
    for number, code, text, width in (
        (IN, "ed", "in eax, dx", 4), (OUT, "ef", "out dx, eax", 4),
        (IN16, "66ed", "in ax, dx", 2), (IN8, "ec", "in al, dx", 1),
    )
]  # fmt: skip


def site_of(number: int, space: Space, text: str, width: int) -> SiteRecord:
    """Tell of a site of another space, whose code could not be read."""
    return SiteRecord(
        time_ns=0, number=number, rip=RIP, code=b"", text=text, asked="read", width=width,
        space=space,
    )  # fmt: skip


def set_latch(value: int, *, width: int = 4, raised: bool = False) -> bytes:
    """Be a guest that sets what its next accesses to the data ports lead to."""
    return row(OUT, 0xCF8, value, width=width, write=True, raised=raised)


def configured(value: int = 7, *, port: int = 0xCFC, width: int = 4, write: bool = False) -> bytes:
    """Be a guest that accesses configuration space by a port."""
    return row(OUT if write else IN, port, value, width=width, write=write)
