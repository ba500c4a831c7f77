"""A register by its name, with its place: arrays as a whole and one by one, and windows."""

from __future__ import annotations

import pytest

from tracer.devices import library
from tracer.devices.entry import Entry
from tracer.devices.file import parse
from tracer.devices.map import RegisterMap

MAPS = library.load()


def map_of(region: str) -> RegisterMap:
    found = MAPS.of_region(region)
    assert found is not None
    return found


def one(region: str, name: str) -> Entry:
    (found,) = map_of(region).find(name)
    return found


@pytest.mark.parametrize(
    ("region", "name", "told", "offset", "repeats"),
    [
        ("nvme", "cc", "CC", 0x14, ()),
        ("nvme", "SQ3TDBL", "SQ3TDBL", 0x1018, ()),
        ("nvme", "sq*tdbl", "SQ*TDBL", 0x1000, ((8, 65536),)),
        ("lapic", "ISR[7]", "ISR[7]", 0x170, ()),
        ("lapic", "ISR[07]", "ISR[7]", 0x170, ()),
        ("lapic", "ISR[*]", "ISR[*]", 0x100, ((0x10, 8),)),
        ("hpet", "timer[*].config", "TIMER[*].CONFIG", 0x100, ((0x20, 32),)),
        ("ecam", "00:1F.3 command", "00:1f.3 COMMAND", 0xFB004, ()),
        ("ecam", "*:*.*.command", "*:*.* COMMAND", 0x4, ((0x1000, 65536),)),
        ("ecam", "00:1f.* command", "00:1f.* COMMAND", 0xF8004, ()),
    ],
)
def test_a_name_has_a_place(
    region: str, name: str, told: str, offset: int, repeats: tuple[tuple[int, int | None], ...]
) -> None:
    found = one(region, name)
    assert (found.name, found.offset, found.repeats) == (told, offset, repeats)
    assert found.selector is None and found.bank is None


@pytest.mark.parametrize(
    ("region", "name", "offset", "selector", "bank"),
    [
        ("ioapic", "VER", 0x10, "IOREGSEL.INDEX", 1),
        ("ioapic", "REDTBL[3].LOW", 0x10, "IOREGSEL.INDEX", 0x16),
        ("ioapic", "REDTBL[3].HIGH", 0x10, "IOREGSEL.INDEX", 0x17),
        ("virtio-blk.common", "queue[2].desc", 0x20, "queue_select", 2),
        ("ecam", "00:01.0 PRIMARY_BUS", 0x8018, "HEADER_TYPE.LAYOUT", 1),
    ],
)
def test_what_a_window_shows_tells_what_selects_it(
    region: str, name: str, offset: int, selector: str, bank: int
) -> None:
    found = one(region, name)
    assert (found.offset, found.selector, found.bank) == (offset, selector, bank)


@pytest.mark.parametrize("index", ["32", "99999999999999999999", "9" * 5000, "-1", "x", "²"])
def test_an_index_that_an_array_has_not_is_none(index: str) -> None:
    assert map_of("hpet").find(f"TIMER[{index}].CONFIG") == []


def test_the_last_index_of_an_array_is_one() -> None:
    assert one("hpet", "TIMER[31].CONFIG").offset == 0x100 + 31 * 0x20


@pytest.mark.parametrize("known", list(MAPS), ids=lambda known: known.name)
def test_every_register_is_listed_once_and_found_by_its_name(known: RegisterMap) -> None:
    found = list(known.entries())
    assert len({id(entry.register) for entry in found}) == len(found) > 0
    for entry in found:  # a bridge has registers of the same name elsewhere
        assert known.find(entry.name) == [each for each in found if each.name == entry.name]


def test_a_glob_finds_an_array_as_one_and_else_its_first_few() -> None:
    hpet, lapic = map_of("hpet"), map_of("lapic")
    assert [entry.name for entry in hpet.search("TIMER*", "hpet")] == [
        "TIMER[*].CONFIG", "TIMER[*].COMPARATOR", "TIMER[*].FSB_ROUTE",
    ]  # fmt: skip
    assert [entry.name for entry in lapic.search("lapic.isr[[1-2]]", "lapic")] == []
    assert [entry.name for entry in lapic.search("i?r[1*", "lapic")] == ["ISR[1]", "IRR[1]"]
    assert lapic.search("nvme.*", "lapic") == []


def test_a_window_is_named_by_all_of_the_register_that_selects_it() -> None:
    text = """
applies = [{ region = "x" }]
[register.INDEX]
offset = 0
width = 2
fields = { LOW = "7:0" }
[group.A]
offset = 4
size = 4
select = "INDEX"
[group.A.register.FIRST]
offset = 0
[group.B]
offset = 8
size = 4
select = "INDEX.LOW"
[group.B.register.SECOND]
offset = 4
"""
    known = parse(text, "x.toml", "x")
    assert [(e.name, e.offset, e.selector, e.bank) for e in known.entries()] == [
        ("INDEX", 0, None, None), ("FIRST", 4, "INDEX", 0), ("SECOND", 8, "INDEX.LOW", 1),
    ]  # fmt: skip
