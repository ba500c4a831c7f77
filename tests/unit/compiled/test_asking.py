"""Accesses that a guest's own kernel has decoded: how they come out of the ring."""

from __future__ import annotations

import pytest
from block_sample import LINEAR, WINDOW, asked_row, row

from tracer.compiled.asking import (
    FIRST,
    Asked,
    AskedSites,
    agreed,
    asked,
    decoded,
    kinds,
    of_accesses,
    rip_of,
    touched,
)
from tracer.compiled.module import Kind
from tracer.compiled.ring import Raw, raws
from tracer.x86.state import RAX, RCX

LOAD, STORE = "8b07", "890f"  # mov eax, [rdi]; mov [rdi], ecx


def raw_of(data: bytes) -> Raw:
    (raw,) = raws(data)
    return raw


def test_a_site_is_an_instruction_and_what_the_guest_asks_for_it() -> None:
    sites = AskedSites()
    rows = [
        asked_row(LOAD, 0x1000),
        asked_row(LOAD, 0x1000, read=7),
        row(5),
        asked_row(LOAD, 0x1000, width=2),
        asked_row(STORE, 0x1000, written=1),
        asked_row(LOAD, 0x2000),
    ]
    named, new = sites.name(b"".join(rows))
    numbers = [raw.site for raw in raws(named)]
    assert numbers == [FIRST, FIRST, 5, FIRST + 1, FIRST + 2, FIRST + 3]
    assert [(site.rip, site.width, site.write) for site in new] == [
        (0x1000, 4, False), (0x1000, 2, False), (0x1000, 4, True), (0x2000, 4, False),
    ]  # fmt: skip
    assert [site.number for site in new] == [FIRST, FIRST + 1, FIRST + 2, FIRST + 3]
    again, none = sites.name(b"".join(rows))
    assert (again, none) == (named, [])
    (first,) = AskedSites(FIRST + 9).name(rows[0])[1]
    assert first.number == FIRST + 9


def test_code_behind_the_instruction_is_no_part_of_its_site() -> None:
    sites = AskedSites()
    _, (site,) = sites.name(asked_row(LOAD, 0x1000) + asked_row(LOAD + "cc", 0x1000))
    assert site.code == bytes.fromhex(LOAD) and site.insn is not None
    _, (other,) = sites.name(asked_row("8b4704", 0x1000))
    assert other.number == FIRST + 1


def test_an_instruction_that_nobody_knows_has_all_its_bytes() -> None:
    _, (site,) = AskedSites().name(asked_row("0f0f", 0x1000))
    assert site.insn is None and site.code == bytes.fromhex("0f0f").ljust(16, b"\0")


def test_what_the_guest_code_does_not_leave_is_refused() -> None:
    for bad in (asked_row(LOAD, 0x1000, width=3), asked_row(STORE, 0x1000, direction=2)):
        with pytest.raises(ValueError, match="bytes in direction"):
            AskedSites().name(bad)
    with pytest.raises(ValueError, match="not a valid"):
        AskedSites().name(row(0xFFFF_FF09))


def test_records_are_told_apart_by_what_they_are_of() -> None:
    rows = row(1), asked_row(LOAD, 1), row(Kind.TOUCH), row(Kind.TDCALL), row(2)
    assert [*kinds(b"".join(rows))] == [None, Kind.MMIO, Kind.TOUCH, Kind.TDCALL, None]
    assert of_accesses(b"".join(rows)) == rows[0] + rows[1] + rows[4]


def test_a_record_has_the_hypercall() -> None:
    raw = raw_of(asked_row(STORE, 0x1000, width=2, written=0xAABB_CCDD, mask=0xFC00, physical=8))
    call = asked(raw)
    assert call == Asked(2, True, 8 | 1 << 47, 0xAABB_CCDD, 0xFC00, 0)
    assert call.written == 0xCCDD and rip_of(raw) == 0x1000


def test_a_record_of_shared_ram_has_its_page() -> None:
    size = 2 << 20
    raw = raw_of(row(linear=0x7F_1234_5678, physical=0x1234_5678, written=size << 128))
    page = touched(raw, WINDOW)
    assert (page.linear, page.physical, page.size) == (0x7F_1220_0000, 0x1220_0000, size)
    assert page.touched == 0x1234_5678


def after(code: str, **how: int) -> tuple[int, ...] | None:
    insn = decoded(bytes.fromhex(code), 0x1000)
    assert insn is not None
    cpu = agreed(insn, raw_of(asked_row(code, 0x1000, **how)))
    return None if cpu is None else cpu.gpr


def test_the_guest_agrees_if_it_asks_for_just_what_the_instruction_makes() -> None:
    found = after(LOAD, read=0x1234_5678)
    assert found is not None and found[RAX] == 0x1234_5678
    stored = after(STORE, rcx=0x99, written=0x99)
    assert stored is not None and stored[RCX] == 0x99
    # Bits of R15 beyond the width are not written.
    assert after(STORE, rcx=0x1_0000_0099, written=0xF_0000_0099) is not None
    assert after("0fb607", width=1, read=0xEE) is not None  # movzx eax, byte ptr [rdi]


@pytest.mark.parametrize(
    ("code", "how"),
    [
        (LOAD, {"width": 2}),
        (LOAD, {"direction": 1}),
        (STORE, {"written": 5, "rcx": 6}),
        (STORE, {"direction": 0}),
        (STORE, {"width": 8}),
        (LOAD, {"linear": LINEAR + 4, "rdi": LINEAR}),
        ("010f", {"rcx": 1, "written": 1}),  # add [rdi], ecx: it reads first
        ("f7f1", {}),  # div ecx: it makes no access
        ("e407", {}),  # in al, 7
    ],
)
def test_the_guest_disagrees(code: str, how: dict[str, int]) -> None:
    assert after(code, **how) is None
