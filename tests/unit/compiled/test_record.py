"""A raw record as a record of the trace."""

from __future__ import annotations

from tracer.access.region import Region, RegionMap
from tracer.compiled import layout
from tracer.compiled.common import common_code
from tracer.compiled.record import Circumstances, intercept
from tracer.compiled.ring import Raw, fields
from tracer.compiled.sites import SiteTable
from tracer.x86.decode import decode
from tracer.x86.state import RCX, RDI, Mode

WINDOW = 0xFFFF_FF80_0000_0000
DEVICE, LINEAR = 0xFEB0_0000, 0xFFFF_C900_0001_0000


def test_a_record_tells_what_the_emulator_would_have_told() -> None:
    insn = decode(b"\xf0\x01\x0f" + bytes(12), 0x1000, Mode.LONG)
    site, _ = SiteTable(0, common_code(smp=False, la57=False)).enter(insn, bytes(8))
    gpr = [0] * 16
    gpr[RCX], gpr[RDI] = 2, LINEAR + 8
    head = (1, 2, LINEAR + 8, WINDOW + DEVICE + 8, 0, 3, 0, 0xA, 0x202, 1)
    data = layout.RECORD.pack(*head, *gpr, b"\5".ljust(32, b"\0"), b"\7".ljust(32, b"\0"))
    region = Region("bar", DEVICE, DEVICE + 0xFFF, DEVICE, "bar", "device")
    regions = RegionMap([region], [(DEVICE, DEVICE + 0xFFF)], [(0, 0xFFFF)])
    told = intercept(
        site,
        Raw(*next(fields(data))),
        WINDOW,
        regions,
        Circumstances(seq=4, time_ns=5, symbol="f+0x1", via="emulated"),
    )
    assert (told.vcpu, told.rip, told.code) == (3, insn.rip, insn.code)
    assert [(a.direction, a.width, a.region) for a in told.accesses] == [
        ("read", 4, "bar"), ("write", 4, "bar"),
    ]  # fmt: skip
    assert told.accesses[1].value == 7
    assert set(told.after) == {"rip"}
