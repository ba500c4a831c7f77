"""The interrupt stack of vetrace's own, loaded by an independent CPU."""

from __future__ import annotations

import struct

import unicorn
from unicorn import x86_const as regs

from tracer.x86.tss import STACKS, TSS_SIZE, assemble_loader, make_tss, stack_offset

BASE, TSS, GDT = 0x7_1234_5000, 0x8_9ABC_D100, 0x3000


def test_pointers_of_a_tss() -> None:
    # Intel SDM vol. 3A, figure 8-11: IST1 at 36, IST7 at 84, the I/O map's offset at 102.
    assert [stack_offset(number) for number in (1, 7)] == [36, 84]
    tss = make_tss(7, 0xFFFF_8000_1234_5678)
    assert len(tss) == TSS_SIZE == 104
    assert struct.unpack_from("<Q", tss, 84) == (0xFFFF_8000_1234_5678,)
    assert struct.unpack_from("<H", tss, 102) == (104,)
    assert tss.count(0) >= 104 - 9
    assert list(STACKS) == [7, 6, 5, 4, 3, 2, 1]


def test_loader() -> None:
    loader = assemble_loader(BASE, TSS)
    cpu = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
    cpu.mem_map(BASE, 0x1000)
    cpu.mem_map(TSS & -0x1000, 0x1000)
    cpu.mem_write(BASE, loader.code)
    cpu.reg_write(regs.UC_X86_REG_GDTR, (0, GDT, 0x7F, 0))
    cpu.emu_start(loader.start, loader.loaded, count=20)
    assert cpu.reg_read(regs.UC_X86_REG_RIP) == loader.loaded
    assert cpu.reg_read(regs.UC_X86_REG_GDTR)[1:3] == (GDT, 0x7F)
    selector, base, limit, _ = cpu.reg_read(regs.UC_X86_REG_TR)
    assert (selector, base, limit) == (8, TSS, TSS_SIZE - 1)
