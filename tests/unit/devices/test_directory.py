"""Registers that a person means by a name."""

from __future__ import annotations

import pytest

from tracer.devices import library
from tracer.devices.directory import look_up, region_of
from tracer.devices.map import RegisterMap
from tracer.errors import UsageError

MAPS = library.load()


def regions(*names: str) -> dict[str, RegisterMap]:
    return {name: known for name in names if (known := MAPS.of_region(name)) is not None}


ALL = regions("nvme", "nvme#2", "nvme.msix-table", "hpet", "ioapic", "lapic", "virtio-blk.common")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("nvme.CC", ["nvme.CC"]),
        ("nvme CC", ["nvme.CC"]),
        ("CC", ["nvme.CC", "nvme#2.CC"]),
        ("cc", ["nvme.CC", "nvme#2.CC"]),
        ("nvme+0x14", ["nvme.CC"]),
        ("nvme+0x16", ["nvme.CC"]),
        ("nvme+20", ["nvme.CC"]),
        ("nvme#2+0x1018", ["nvme#2.SQ3TDBL"]),
        ("hpet.TIMER[2].CONFIG", ["hpet.TIMER[2].CONFIG"]),
        ("nvme.msix-table.ENTRY[3].CONTROL", ["nvme.msix-table.ENTRY[3].CONTROL"]),
        ("nvme.msix-table.CONTROL", None),
        ("nvme.C?", ["nvme.CC"]),
        ("h*.TIMER[*].CONFIG", ["hpet.TIMER[*].CONFIG"]),
        ("ioapic+0x10", ["ioapic.ID", "ioapic.VER", "ioapic.ARB", "ioapic.REDTBL[*].LOW",
                         "ioapic.REDTBL[*].HIGH"]),
        ("ioapic+0x14", None),
        ("nvme+0xfff", None),
        ("nvme.CCC", None),
        ("", None),
        (" . ", None),
        ("nvme.", None),
        ("+0x14", None),
        ("nvme+0x" + "f" * 40, None),
    ],
)  # fmt: skip
def test_a_text_names_registers(text: str, found: list[str] | None) -> None:
    if found is None:
        with pytest.raises(UsageError):
            look_up(text, ALL)
    else:
        assert [f"{item.region}.{item.entry.name}" for item in look_up(text, ALL)] == found


def test_a_region_stands_for_all_its_registers() -> None:
    found = look_up("nvme", ALL)
    assert [item.entry for item in found] == list(ALL["nvme"].entries())
    assert all(item.region == "nvme" and item.map is ALL["nvme"] for item in found)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("nvme.CCC", "nvme has no register CCC; did you mean CC?"),
        ("nvmee", "no register is called nvmee; did you mean nvme?"),
        ("CSTSS", "no register is called CSTSS; did you mean CSTS?"),
        ("nvme+0xfff", "nvme has no register at offset 0xfff"),
        ("", "name a register: CC, nvme.CC, or nvme+0x14"),
    ],
)
def test_what_may_have_been_meant_is_told(text: str, told: str) -> None:
    with pytest.raises(UsageError) as error:
        look_up(text, ALL)
    assert str(error.value) == told


def test_the_longest_region_is_taken() -> None:
    assert region_of("nvme.msix-table.ENTRY[0].ADDR", ALL) == "nvme.msix-table"
    assert region_of("nvme.msix.ENTRY[0].ADDR", ALL) == "nvme"
    assert region_of("nvme", ALL) is None
