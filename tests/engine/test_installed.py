"""How a kernel is met that a boot loader has started, and what is said where none is."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from playbook import Step, play
from ram import PAGING, Ram
from scene import registers

from tracer.access.stop import Ran, Stopped
from tracer.access.symbols import Symbol, table_of
from tracer.access.want import (
    DeleteBreakpoint,
    MemoryMap,
    Registers,
    Resume,
    SetBreakpoint,
    WatchAccesses,
)
from tracer.errors import GuestError, GuestHung, KernelImageError
from tracer.linux import installed
from tracer.linux.installed import InstalledLinux, release_in
from tracer.linux.kaslr import KERNEL_MAP
from tracer.linux.resident import Resident
from tracer.x86.state import PAGE_SIZE

DISK = Path("debian.qcow2")
TEXT = KERNEL_MAP + 0x2A0_0000
ENTRY = TEXT + 0x400
PAGING_ON, LONG_MODE = 1 << 31, 0x500
WATCHED = Stopped("access-watchpoint-trigger", 1)
ENDED = Stopped("signal-received", 1, signal="SIGQUIT")
PAUSED = Stopped("signal-received", 1, signal="SIGINT", expired=True)
BANNER = b"Linux version 6.1.0-9-686 (who@where) #1\n\0"


def system(told: list[str] | None = None) -> InstalledLinux:
    return InstalledLinux(DISK, [].append if told is None else told.append)


def stopped(stop: Stopped, **values: int) -> list[Step]:
    """The stop of a guest that was on its way to a kernel, and what is asked then."""
    found = {"rip": TEXT + 0xDB, "cr0": PAGING_ON, "cr3": PAGING.cr3, "cr4": 0, "efer": LONG_MODE}
    steps: list[Step] = [
        (WatchAccesses(KERNEL_MAP, 1 << 30), 3),
        (Resume(), Ran(stop)),
        (MemoryMap(), ([], [])),
        (Registers(), registers(**found | values)),
    ]
    # A guest that has ended is watched no longer.
    return steps if stop.ended else [*steps, (DeleteBreakpoint(3), None)]


def test_the_kernel_is_known_from_its_own_symbols_and_run_to_its_entry(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = ENTRY + 0x1000
    names = table_of([
        Symbol(TEXT, "T", "_text"), Symbol(ENTRY, "T", "start_kernel"),
        Symbol(words, "D", "boot_command_line"),
    ])  # fmt: skip
    ram = Ram()
    ram.map(words & -PAGE_SIZE, 0x20_0000)
    ram.write(0x20_0000 + words % PAGE_SIZE, b"root=/dev/vda2 ro\0quiet")
    tables: list[Any] = []

    def find(memory: Any, paging: Any) -> Resident:
        tables.append(paging)
        return Resident("6.1.0-9-amd64", "Linux version 6.1.0-9-amd64 (x)", names, b"")

    monkeypatch.setattr(installed, "find_kernel", find)
    told: list[str] = []
    linux = system(told)
    with pytest.raises(GuestError, match="has not been entered yet"):
        _ = linux.release
    at_entry = Ran(Stopped("breakpoint-hit", 1, ENTRY, 7))
    play(
        linux.reach_entry(ram), *stopped(WATCHED),
        (SetBreakpoint(ENTRY), 7), (Resume(), at_entry), (DeleteBreakpoint(7), None),
        (Registers(), registers(rip=ENTRY, cr3=PAGING.cr3, cr4=0)),
    )  # fmt: skip
    assert (linux.release, linux.title) == ("6.1.0-9-amd64", "Linux 6.1.0-9-amd64")
    assert linux.names.lookup(ENTRY + 3, None) == "start_kernel+0x3"  # type: ignore[arg-type]
    assert linux.names.text() == [range(names.start, names.end)]
    assert linux.command_line == "root=/dev/vda2 ro"
    assert [paging.cr3 for paging in tables] == [PAGING.cr3]
    assert len(told) == 1


def test_a_file_of_the_kernel_is_found_where_it_has_moved() -> None:
    moved, link = 0x600_0000, TEXT + 0x20_0000
    names = table_of([Symbol(TEXT, "T", "_text"), Symbol(ENTRY, "T", "start_kernel")])
    file: Any = SimpleNamespace(
        symbols=names, path=Path("vmlinuz"), release="6.1.0-9-amd64",
        facts=SimpleNamespace(banner="Linux version 6.1.0-9-amd64 (x)", banner_links=[link]),
    )  # fmt: skip
    ram = Ram()
    ram.map(link + moved, 0x20_0000)
    linux = InstalledLinux(DISK, [].append, file)
    with pytest.raises(GuestError, match=r"starts another kernel, and not vmlinuz \(6.1.0-9"):
        play(linux.reach_entry(ram), *stopped(WATCHED))
    ram.write(0x20_0000, file.facts.banner.encode())
    entry = ENTRY + moved
    play(
        linux.reach_entry(ram), *stopped(WATCHED), (SetBreakpoint(entry), 7),
        (Resume(), Ran(Stopped("breakpoint-hit", 1, entry, 7))), (DeleteBreakpoint(7), None),
        (Registers(), registers(rip=entry, cr3=PAGING.cr3, cr4=0)),
    )  # fmt: skip
    assert linux.kernel is file
    assert linux.names.lookup(entry + 3, None) == "start_kernel+0x3"  # type: ignore[arg-type]


def test_a_kernel_without_symbols_names_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KernelImageError, match=r"debian.qcow2: no Linux kernel is mapped"):
        play(system().reach_entry(Ram()), *stopped(WATCHED))


@pytest.mark.parametrize("values", [{"efer": 0}, {"rip": 0x7C00}])
def test_what_uses_a_kernels_addresses_and_is_none(values: dict[str, int]) -> None:
    with pytest.raises(GuestError, match=r"debian\.qcow2: no 64-bit Linux was started, but some"):
        play(system().reach_entry(Ram()), *stopped(WATCHED, **values))


def test_a_guest_that_ends_or_stops_on_its_way() -> None:
    with pytest.raises(GuestError, match="qcow2: the guest ended before a 64-bit Linux kernel"):
        play(system().reach_entry(Ram()), *stopped(ENDED))
    odd = Stopped("signal-received", 1, signal="SIGTRAP")
    with pytest.raises(GuestError, match=r"stopped before its kernel was entered \(signal-rec"):
        play(system().reach_entry(Ram()), *stopped(odd))


def test_a_guest_whose_time_is_over() -> None:
    with pytest.raises(GuestHung):
        play(system().reach_entry(Ram()), *stopped(PAUSED, efer=0, cr0=0))


@pytest.mark.parametrize("stop", [ENDED, PAUSED])
def test_a_32_bit_kernel_is_called_by_its_name(stop: Stopped) -> None:
    ram = Ram(0x40_0000)
    ram.write(0x20_0000 - 5, BANNER)  # over the end of a piece that is searched
    said = "debian.qcow2: Linux 6.1.0-9-686, which it starts, is a 32-bit kernel"
    with pytest.raises(KernelImageError, match=said):
        play(system().reach_entry(ram), *stopped(stop, efer=0))
    # A guest that is in long mode, or has no paging, runs something else.
    for values in ({"efer": LONG_MODE}, {"efer": 0, "cr0": 1}):
        with pytest.raises((GuestError, GuestHung)):
            play(system().reach_entry(ram), *stopped(stop, **values))


def test_the_text_may_be_at_the_end_of_ram() -> None:
    ram = Ram(0x30_0000)
    assert release_in(ram) is None
    ram.write(0x30_0000 - len(BANNER), BANNER)
    assert release_in(ram) == "6.1.0-9-686"
