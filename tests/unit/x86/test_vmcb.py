"""The control block of a guest of SVM.

Ref: AMD64 Architecture Programmer's Manual vol. 2, appendix B.
"""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from entered import ENTERED, REGISTERS, SEGMENTS

from tracer.x86 import vmcb
from tracer.x86.segment import Segment
from tracer.x86.state import Mode
from tracer.x86.vmcb import Entered

PORTS, MSRS, TABLES = 0x3000, 0x6000, 0x9000


def block(entered: Entered = ENTERED, tables: int | None = None) -> bytes:
    return vmcb.control_block(entered, 0xABC, PORTS, MSRS, tables, dr7=False)


def with_word(place: int, word: int) -> bytes:
    page = bytearray(block())
    struct.pack_into("<Q", page, place, word)
    return bytes(page)


def test_a_guest_is_entered_with_its_own_maps_and_tables() -> None:
    maps = (0xABC, PORTS, MSRS)
    plain, nested = block(), block(tables=TABLES)
    assert len(plain) == vmcb.SIZE
    for made in (plain, nested):
        assert tuple(struct.unpack_from("<Q", made, at)[0] for at in (0x0C, 0x40, 0x48)) == maps
    assert plain[0x90:0x98] == plain[0xB0:0xB8] == bytes(8)
    assert struct.unpack_from("<Q", nested, 0x90) == (1,)
    assert struct.unpack_from("<Q", nested, 0xB0) == (TABLES,)


def test_a_guest_that_has_left_is_read_as_it_was_entered() -> None:
    names = ("rip", "rsp", "rax", "eflags", "cr0", "cr2", "cr3", "cr4", "efer")
    wanted = {name: REGISTERS[name] for name in names}
    wanted |= {name: SEGMENTS[name].selector for name in ("es", "cs", "ss", "ds")}
    tables = {"gdt": 0xFFFF_0000, "idt": 0xFFFF_1000, "gdt_limit": 0x7F, "idt_limit": 0xFFF}
    assert vmcb.outside(block()) == wanted | tables


def test_the_manner_of_code_is_that_of_its_segment() -> None:
    def executing(efer: int, cr0: int, flags: int) -> vmcb.Executing:
        segments = {**SEGMENTS, "cs": Segment(0xF000, 0xFFFF0000, 0xFFFF, flags)}
        registers = {**REGISTERS, "efer": efer, "cr0": cr0, "cr4": 0}
        return vmcb.executing(block(replace(ENTERED, registers=registers, segments=segments)))

    real = executing(0, 0x10, 0x9B00)
    assert (real.mode, real.bases["cs_base"]) == (Mode.COMPAT16, 0xFFFF0000)
    assert real.paging is not None and real.paging.levels == 0
    flat = executing(0, 0x80000011, 0x00CF9B00)
    assert flat.mode is Mode.COMPAT32 and flat.paging is not None and flat.paging.levels == 2
    program = executing(0x500, 0x80000011, 0x00CFFB00)
    assert (program.mode, program.paging) == (Mode.COMPAT32, None)
    # 64-bit code has the bases of FS and GS alone.
    kernel = executing(0x500, 0x80000011, 0x00AF9B00)
    assert kernel.mode is Mode.LONG
    assert kernel.bases == {"fs_base": 0, "gs_base": 0xFFFF8880_00000000}


@pytest.mark.parametrize(
    ("told", "size"), [(0, 0), (0x40E, 0), (0x8000_0020, 40), (0x8000_0B0E, 48)]
)
def test_a_frame_that_was_being_pushed_has_a_size(told: int, size: int) -> None:
    assert vmcb.frame_size(with_word(0x88, told)) == size


def test_the_cpus_own_walks_are_told_from_the_guests_accesses() -> None:
    assert vmcb.walked(with_word(0x78, 1 << 33))
    assert not vmcb.walked(with_word(0x78, 1 << 32))


def test_an_exception_is_raised_with_its_error_code_or_without() -> None:
    assert vmcb.event_of(14, 3) == (0xA8, struct.pack("<Q", 3 << 32 | 0x8000_0B0E))
    assert vmcb.event_of(6, None) == (0xA8, struct.pack("<Q", 0x8000_0306))


def test_the_map_of_ports_has_a_bit_each() -> None:
    assert vmcb.port_map(vmcb.ALL_PORTS) == b"\xff" * 0x3000
    some = vmcb.port_map(range(0xCFC, 0xD00))
    assert some[0xCFC // 8] == 0xF0 and sum(some) == 0xF0
    assert not any(vmcb.port_map(range(0)))


def test_an_msr_that_is_left_for_is_so_though_it_is_free() -> None:
    both = vmcb.msr_map([0x10], [0x10, 0x11], others=True)
    assert both[4] == 0b11110011 and set(both) == {0xFF, 0b11110011}
    none = vmcb.msr_map([0xC000_0080], [], others=False)
    assert none[0x800 + 0x20] == 3 and sum(none) == 3
