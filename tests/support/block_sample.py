"""Build blocks of raw records, as compiled sites leave them behind."""

from __future__ import annotations

from typing import Any

import trace_sample as sample

from tracer.compiled.layout import RECORD
from tracer.compiled.module import Kind
from tracer.trace.compiled import BlockRecord, Place, PlacesRecord, SiteRecord
from tracer.trace.record import Line, RegionInfo, RegionRecord
from tracer.x86.decode import decode
from tracer.x86.state import GPR, Mode

WINDOW = 0xFFFF_FF80_0000_0000
DEVICE, LINEAR = 0xFEB0_0000, 0xFFFF_C900_0001_0000
SIZE = 0x1000
REGION = RegionRecord(
    time_ns=0,
    region=RegionInfo(
        name="bar", start=DEVICE, end=DEVICE + SIZE - 1, qemu_name="bar", device="bar", traced=True
    ),
)
PLACES = PlacesRecord(
    time_ns=0, places=[Place(region="bar", start=DEVICE, end=DEVICE + SIZE - 1, base=DEVICE)]
)


def site(number: int, code: str, *, rip: int = 0x1000, symbol: str = "driver+0x0") -> SiteRecord:
    """Tell of a site at which there is this code."""
    data = bytes.fromhex(code)
    text = "(bad)"
    if code not in ("", "8b"):
        text = decode(data + bytes(15), rip, Mode.LONG).text
    return SiteRecord(time_ns=0, number=number, rip=rip, symbol=symbol, code=data, text=text)


def row(
    site: int = 0, *, tsc: int = 0, vcpu: int = 0, error: int = 0x8, linear: int | None = None,
    physical: int | None = None, read: int = 0, written: int = 0, thread: int = 0,
    **registers: int,
) -> bytes:  # fmt: skip
    """Be a guest whose RDI leads to the device, at an offset that it tells."""
    gpr = {"rdi": LINEAR, **registers}
    if linear is None:
        linear = gpr["rdi"] if LINEAR <= gpr["rdi"] < LINEAR + SIZE else LINEAR
    if physical is None:
        physical = DEVICE + linear - LINEAR
    values = [gpr.get(name, 0) for name in GPR]
    return RECORD.pack(
        1, tsc, linear, WINDOW + physical, site, vcpu, 0, error, thread, 0x202, 1, *values,
        read.to_bytes(32, "little"), written.to_bytes(32, "little"),
    )  # fmt: skip


def asked_row(
    code: str, rip: int, *, width: int = 4, direction: int | None = None, read: int = 0,
    written: int = 0, mask: int = 0xFFCC, physical: int = DEVICE, **how: int,
) -> bytes:  # fmt: skip
    """Be a guest of TDX whose handler asks for an access: a write, if the code stores."""
    write = code.startswith(("89", "88", "01")) if direction is None else direction
    data = int.from_bytes(bytes.fromhex(code).ljust(16, b"\0"), "little")
    call = written | (physical | 1 << 47) << 64 | width << 128 | int(write) << 192 | mask << 208
    told = {"site": Kind.MMIO, "read": read | rip << 64 | data << 128, "written": call}
    return row(physical=physical, **told, **how)


def block(*rows: bytes, accesses: int | None = None, **members: Any) -> BlockRecord:
    """Make a block; each row has one access unless something else is said."""
    told = {"seq": 0, "time_ns": 0, "window": WINDOW, **members}
    count = len(rows) if accesses is None else accesses
    return BlockRecord(accesses=count, rows=b"".join(rows), **told)


def lines(count: int) -> list[Line]:
    """A whole trace of some reads at one site."""
    rows = [row(tsc=1000 + number, read=number) for number in range(count)]
    return [REGION, PLACES, site(0, "8b07"), block(*rows), sample.end(count)]
