"""Records of the monitor's as accesses of a trace."""

from __future__ import annotations

import struct

import pytest

from tracer.compiled.inputs import INPUT_FIELDS, Input
from tracer.compiled.layout import SLOT_SIZE
from tracer.compiled.ring import raws
from tracer.trace.compiled import SiteRecord
from tracer.trace.inputs import intercept_of_input
from tracer.trace.place import place

LEAF = SiteRecord(
    time_ns=0, number=0xC0000000, rip=0x1000, code=b"\x0f\xa2", text="cpuid", asked="read",
    width=4, space="cpuid",
)  # fmt: skip


@pytest.mark.parametrize(
    ("leaf", "subleaf", "told"),
    [
        (0x7, 1, "cpuid 0x7.1"),
        (0xD, 17, "cpuid 0xd.17"),
        (0x1, 0xDEADBEEF, "cpuid 0x1.0"),  # what happened to be in ECX
        (0x80000008, 3, "cpuid 0x80000008.0"),
        (0x21, 0, "cpuid 0x21.0"),
        (0x7, 0xFFFFFFFF, f"cpuid 0x7.{0xFFFFFFF}"),
    ],
)
def test_a_leaf_of_cpuid_has_the_place_of_its_subleaf(leaf: int, subleaf: int, told: str) -> None:
    row = bytearray(SLOT_SIZE)
    struct.pack_into("<Q", row, INPUT_FIELDS["ADDRESS"], leaf | subleaf << 32)
    struct.pack_into("<4B", row, INPUT_FIELDS["MANNER"], 4, 0, 64, 0)
    (raw,) = raws(bytes(row))
    record = intercept_of_input(LEAF, Input.CPUID, raw, 0, 0, lambda *port: None, None, None)
    assert [place(access) for access in record.accesses] == [told] * 4
    offsets = [access.offset or 0 for access in record.accesses]
    assert [offset % 16 for offset in offsets] == [0, 4, 8, 12] and max(offsets) < 1 << 64
    assert {access.physical for access in record.accesses} == {leaf | subleaf << 32}
