"""From raw records to accesses and registers, and the emulator as the judge of them."""

from __future__ import annotations

import pytest

from tracer.compiled.common import common_code
from tracer.compiled.reading import (
    accesses,
    state_after,
    state_before,
    transfers,
    verified,
)
from tracer.compiled.ring import Raw
from tracer.compiled.sites import Site, SiteTable
from tracer.x86.decode import decode
from tracer.x86.state import GPR, RDI, Mode

WINDOW = 0xFFFF_FF80_0000_0000
LINEAR, PHYSICAL = 0xFFFF_C900_0001_0010, 0xFEB0_0010

HIGH = 0xFF20_0000_0001_0010


def site(code: str) -> Site:
    insn = decode(bytes.fromhex(code) + bytes(15), 0x1000, Mode.LONG)
    return SiteTable(0, common_code(smp=False, la57=False)).enter(insn, bytes(8))[0]


def raw(read: int = 0, written: int = 0, **changes: int) -> Raw:
    """A record whose RDI leads to the device."""
    gpr = dict(zip(GPR, range(16), strict=True)) | {GPR[RDI]: LINEAR}
    values = {
        "sequence": 1, "tsc": 2, "linear": LINEAR, "alias": WINDOW + PHYSICAL, "site": 0,
        "vcpu": 0, "spare": 0, "error": 8, "thread": 0, "rflags": 0x202, "number": 1,
    }  # fmt: skip
    return Raw(
        **(values | gpr | changes),
        read=read.to_bytes(32, "little"),
        written=written.to_bytes(32, "little"),
    )


@pytest.mark.parametrize(
    ("code", "record", "wrong"),
    [
        ("8b07", raw(read=0x1234), False),
        ("8907", raw(written=0), False),
        ("8907", raw(written=1), True),
        ("8b07", raw(read=1, linear=HIGH, rdi=HIGH), False),  # of 57 bits
        ("010f", raw(read=5, written=6), False),
        ("010f", raw(read=5, written=7), True),
        ("894704", raw(), True),  # another address
        ("6567c70700000000", raw(), False),  # any base of GS will do
        ("65890f", raw(written=1), False),
        ("65890f", raw(written=2), True),
        ("0fc10f", raw(read=5, written=6), False),
        ("c5fe6f07", raw(read=1 << 200), False),
        ("0fae3f", None, False),
    ],
)
def test_the_emulator_agrees_or_says_in_what_it_does_not(
    code: str, record: Raw | None, wrong: bool
) -> None:
    if record is None:
        return
    found = verified(site(code), record)
    assert (found is not None) is wrong, found
    if found is not None:
        assert "the emulator asks for" in str(found)
        assert bytes.fromhex(code).hex(" ") in str(found)


def test_accesses_are_whole_and_cut_into_what_goes_over_the_bus() -> None:
    (load,) = accesses(site("c5fe6f07").insn, raw(read=(4 << 192) | 1), WINDOW)
    assert (load.write, load.width, load.physical, load.device) == (False, 32, PHYSICAL, True)
    parts = list(transfers(load))
    assert [(part.physical - PHYSICAL, part.width, part.value) for part in parts] == [
        (0, 8, 1), (8, 8, 0), (16, 8, 0), (24, 8, 4),
    ]  # fmt: skip
    (real,) = accesses(site("db2f").insn, raw(read=(7 << 64) | 9), WINDOW)
    assert [(part.width, part.value) for part in transfers(real)] == [(8, 9), (2, 7)]


def test_registers_before_and_after() -> None:
    insn = site("8b0f").insn
    record = raw(read=0xDEAD_BEEF)
    assert state_before(insn, record).gpr == record.gpr
    after = state_after(insn, record)
    assert after is not None
    assert (after.gpr[1], after.rip) == (0xDEAD_BEEF, insn.next_rip)
    assert state_after(site("c5fe6f07").insn, record) is None
    assert state_before(site("658b0f").insn, record).segments.gs_base == 0
    assert state_before(site("8c1f").insn, raw(written=0x2B)).segments.ds == 0x2B
