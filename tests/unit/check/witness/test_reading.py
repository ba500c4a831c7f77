"""How QEMU's log tells one access: unaligned on each QEMU, and in pieces by the vCPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from tracer.check.comparison import Extent, TracedAccess
from tracer.check.qemu_log import LogEntry, parse_line
from tracer.check.witness.reading import fit
from tracer.x86.bus import Direction

UNALIGNED = sorted((Path(__file__).parents[3] / "data" / "unaligned").iterdir())
P = 0xFEA00000


def traced(
    direction: Direction,
    address: int,
    width: int,
    value: int | None = None,
    *,
    by_vcpu: bool = False,
    text: str = "mov eax, dword ptr [rdi]",
    within: tuple[Extent, ...] = (),
) -> TracedAccess:
    return TracedAccess(0, "f+0x1", text, by_vcpu, direction, address, width, value, within)


def logged(
    direction: Direction, address: int, width: int, value: int = 0, cpu: int = 0
) -> LogEntry:
    return LogEntry(1, cpu, direction, address, width, value, "device")


def refused(direction: Direction, address: int, width: int) -> LogEntry:
    return LogEntry(1, -1, direction, address, width, 0, "device", refused=True)


# ---- what guests got and gave, and what QEMU said of it: see scripts/unaligned


def recorded(path: Path) -> Iterator[tuple[TracedAccess, list[LogEntry]]]:
    """Yield each access with its entries, those that were refused at their physical addresses."""
    groups: list[tuple[TracedAccess, list[LogEntry]]] = []
    for line in path.read_bytes().splitlines(keepends=True):
        if line.startswith(b" "):
            entry = parse_line(line)
            assert entry is not None, line
            access, entries = groups[-1]
            if entry.refused:
                # No region is as large as that, and none begins elsewhere.
                entry = replace(entry, address=(access.address & -0x100000) + entry.address)
            entries.append(entry)
            continue
        direction, address, width, value, _ = line.decode().split()
        (told,) = (d for d in get_args(Direction) if d == direction)
        groups.append((traced(told, int(address, 16), int(width), int(value, 16)), []))
    yield from groups


def test_both_manners_are_there() -> None:
    assert {path.name.partition(".")[0] for path in UNALIGNED} >= {"qemu-7", "qemu-10"}


@pytest.mark.parametrize("path", UNALIGNED, ids=lambda path: path.name)
def test_each_unaligned_access_is_all_of_its_entries(path: Path) -> None:
    count = 0
    for access, entries in recorded(path):
        assert fit(access, entries) == (len(entries), True), (access, entries)
        # What follows is not taken with it.
        assert fit(access, [*entries, logged("read", access.address, 1, 1)]) == (len(entries), True)
        count += 1
    assert count >= 150


# Where a device answers with more bits than it was asked for, two values may come of its answers.
@pytest.mark.parametrize("path", UNALIGNED, ids=lambda path: path.name)
def test_another_value_is_seen(path: Path) -> None:
    tried = accepted = 0
    for access, entries in recorded(path):
        if access.direction == "write" and any(entry.refused for entry in entries):
            continue  # nobody knows what was refused
        assert access.value is not None
        for bit in range(8 * access.width):
            tried += 1
            accepted += fit(replace(access, value=access.value ^ 1 << bit), entries)[1]
    assert tried > 5000 and accepted < tried // 100


# ---- what the vCPU does in pieces


@pytest.mark.parametrize("text", ["insb byte ptr [rdi], dx", "rep insd dword ptr [rdi], dx"])
def test_ins_stores_twice(text: str) -> None:
    access = traced("write", P, 4, by_vcpu=True, text=text)
    dummy, real, next_ = (logged("write", P, 4, value) for value in (0, 7, 7))
    assert fit(access, [dummy, real, next_]) == (2, True)
    assert fit(access, [real, next_]) == (1, True)  # an emulator that does not store twice
    assert fit(access, [dummy], more=True) == (2, False)
    assert fit(access, [dummy]) == (1, True)
    assert fit(access, [dummy, replace(real, address=P + 4)]) == (1, True)
    assert fit(access, [dummy, replace(real, cpu=-1)]) == (1, True)


@pytest.mark.parametrize("text", ["mov dword ptr [rdi], eax", "insertps xmm0, dword ptr [rdi], 1"])
def test_nothing_else_stores_twice(text: str) -> None:
    access = traced("write", P, 4, by_vcpu=True, text=text)
    assert fit(access, [logged("write", P, 4), logged("write", P, 4, 7)]) == (1, True)


def block(*extents: tuple[Direction, int, int]) -> TracedAccess:
    within = tuple(Extent(*extent) for extent in extents)
    return traced(within[0].direction, within[0].address, 0, by_vcpu=True, within=within)


def test_a_block_is_told_in_parts_with_holes() -> None:
    stores = [logged("write", P + at, width) for at, width in ((0, 2), (2, 2), (8, 8), (32, 8))]
    assert fit(block(("write", P, 512)), stores) == (4, True)
    assert fit(block(("write", P, 40)), stores) == (4, True)
    assert fit(block(("write", P, 39)), stores) == (3, True)
    assert fit(block(("read", P, 512)), stores) == (0, True)
    assert fit(block(("write", P, 512)), []) == (0, True)


def test_a_block_ends_where_a_byte_is_written_again_or_a_debugger_comes() -> None:
    access = block(("write", P, 512))
    again = [logged("write", P, 8), logged("write", P + 8, 8), logged("write", P + 4, 4)]
    assert fit(access, again) == (2, True)
    assert fit(access, [logged("write", P, 8), logged("write", P + 8, 8, cpu=-1)]) == (1, True)


def test_a_gather_may_read_a_byte_for_each_lane() -> None:
    lanes = [logged("read", P + 4, 4) for _ in range(8)]
    assert fit(block(("read", P, 32)), lanes) == (8, True)


def test_reads_of_a_block_are_aligned_outwards() -> None:
    loads = [logged("read", P + 8 * n, 8) for n in range(3)]
    assert fit(block(("read", P + 4, 16)), loads) == (3, True)
    assert fit(block(("write", P + 4, 16)), [logged("write", P, 8)]) == (0, True)


def test_a_block_that_is_read_and_written() -> None:
    both = block(("read", P, 576), ("write", P, 576))
    entries = [logged("write", P, 8), logged("read", P + 512, 8), logged("write", P + 512, 8)]
    assert fit(both, entries) == (3, True)
    assert fit(block(("unknown", P, 576)), entries) == (3, True)


def test_a_refused_piece_of_a_store_says_nothing_of_its_value() -> None:
    pieces = [refused("write", P + 1 + n, 1) for n in range(4)]
    assert fit(traced("write", P + 1, 4, 0x11223344), pieces) == (4, True)
    # A read of it gives 0.
    pieces = [refused("read", P + 1, 1), refused("read", P + 2, 2), refused("read", P + 4, 1)]
    assert fit(traced("read", P + 1, 4, 0), pieces) == (3, True)
    assert not fit(traced("read", P + 1, 4, 0x100), pieces)[1]


def test_more_is_asked_for_where_it_may_decide() -> None:
    access = traced("read", P, 8, 0x2_0000_0001)
    low, high = logged("read", P, 4, 1), logged("read", P + 4, 4, 2)
    assert fit(access, [low], more=True) == (2, False)
    assert fit(access, [low]) == (0, False)
    assert fit(access, [low, high], more=True) == (2, True)
    # An unaligned store of 0 looks like the first of its own bytes on a device of four bytes.
    wide = [logged("write", P + n, 4) for n in range(1, 5)]
    store = traced("write", P + 1, 4, 0)
    assert fit(store, wide[:1], more=True) == (2, False)
    assert fit(store, wide) == (4, True)
