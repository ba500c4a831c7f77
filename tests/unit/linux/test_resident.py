"""tracer.linux.resident: a kernel found in RAM that page tables map, whole or with holes."""

from __future__ import annotations

import kallsyms_sample as sample
import pytest
from kallsyms_sample import LAYOUTS, Layout
from ram import PAGING, Ram

from tracer.access.symbols import Symbol
from tracer.errors import KernelImageError
from tracer.linux.resident import find_kernel
from tracer.x86.paging import PRESENT
from tracer.x86.state import PAGE_SIZE

MOVED = 0x1A00_0000
"""How far KASLR has moved the sample, whose addresses in RAM are then others."""
BANNER = b"Linux version 9.1.0-1-amd64 (who@where) #1 SMP"
BANNER_AT, BTF_AT, BTF = 0x100, 0x200, b"\x9f\xeb the types"
PLACE = 0x20_0000
"""Physical address of the sample, behind the page tables."""


@pytest.fixture(params=LAYOUTS, ids=lambda layout: layout.name)
def layout(request: pytest.FixtureRequest) -> Layout:
    found: Layout = request.param
    return found


def guest(layout: Layout, monkeypatch: pytest.MonkeyPatch, banner: bytes = BANNER) -> Ram:
    monkeypatch.setattr(sample, "BASE", sample.BASE + MOVED)
    monkeypatch.setattr(sample, "LINK", sample.LINK + MOVED)
    link = sample.LINK
    made = [symbol for symbol in sample.symbols(3000, big_names=False) if symbol.kind != "A"]
    made += [
        Symbol(link + BANNER_AT, "D", "linux_banner"),
        Symbol(link + BTF_AT, "R", "__start_BTF"),
        Symbol(link + BTF_AT + len(BTF), "R", "__stop_BTF"),
    ]
    image = bytearray(sample.image(layout, made))
    image[BANNER_AT : BANNER_AT + len(banner) + 2] = banner + b"\n\0"
    image[BTF_AT : BTF_AT + len(BTF)] = BTF
    ram = Ram(0x80_0000)
    ram.write(PLACE, image)
    for offset in range(0, len(image), PAGE_SIZE):
        ram.map(link + offset, PLACE + offset, PRESENT)
    return ram


def test_release_symbols_and_types(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    found = find_kernel(guest(layout, monkeypatch), PAGING)
    assert (found.release, found.banner) == ("9.1.0-1-amd64", BANNER.decode())
    assert found.symbols.address_of("linux_banner") == sample.LINK + BANNER_AT
    assert found.symbols.address_of("_text") == sample.BASE
    assert found.symbols.lookup(sample.BASE + 0x10 * 1000 + 3) == "some_function_1000.cold+0x3"
    assert found.btf == BTF


def test_what_was_given_back_is_no_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    ram = guest(LAYOUTS[3], monkeypatch)
    # A page of it is not mapped any more, and another alien mapping is far away.
    ram.write(PLACE - PAGE_SIZE, b"Linux version 1.0 (another's)\0")
    ram.map(sample.LINK + (64 << 20), PLACE - PAGE_SIZE, PRESENT)
    ram.map(sample.LINK - PAGE_SIZE, 1 << 40, PRESENT)  # no RAM
    assert find_kernel(ram, PAGING).release == "9.1.0-1-amd64"


def test_tables_without_a_kernel() -> None:
    with pytest.raises(KernelImageError, match="no Linux kernel is mapped"):
        find_kernel(Ram(), PAGING)


def test_symbols_of_another_image(monkeypatch: pytest.MonkeyPatch) -> None:
    ram = guest(LAYOUTS[1], monkeypatch)
    ram.write(PLACE + BANNER_AT, b"x" * len(BANNER))
    ram.write(PLACE + 0x800, BANNER + b"\n\0")
    with pytest.raises(KernelImageError, match="do not lead to its version text"):
        find_kernel(ram, PAGING)


def test_no_kallsyms(monkeypatch: pytest.MonkeyPatch) -> None:
    ram = guest(LAYOUTS[1], monkeypatch)
    ram.write(PLACE + 0x6000, bytes(0x1000))  # among the names
    with pytest.raises(KernelImageError, match="no kallsyms"):
        find_kernel(ram, PAGING)
