"""Code around the function by which a kernel moves devices: run on an independent CPU."""

from __future__ import annotations

import unicorn
from unicorn import x86_const as uc

from tracer.compiled.layout import MOVED, control_field
from tracer.linux.configuration import around
from tracer.linux.wrapper import call

FUNCTION, CALLER, CODE, STACK, BLOCK = 0x10_0000, 0x10_0800, 0x20_0000, 0x30_0000, 0x40_0000
REGISTERS = [
    uc.UC_X86_REG_RAX, uc.UC_X86_REG_RBX, uc.UC_X86_REG_RCX, uc.UC_X86_REG_RDX,
    uc.UC_X86_REG_RSI, uc.UC_X86_REG_RDI, uc.UC_X86_REG_RBP,
    *(number for number in range(uc.UC_X86_REG_R8, uc.UC_X86_REG_R15 + 1)
      if number != uc.UC_X86_REG_R11),
]  # fmt: skip


def run(*, disarmed: bool = False) -> list[tuple[str, int]]:
    """Call a function that writes one byte; return all writes but the stack's, in their order."""
    made = around(CODE, BLOCK)
    cpu = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
    for place in (FUNCTION, CODE, STACK, BLOCK):
        cpu.mem_map(place, 0x1000)
    cpu.mem_write(FUNCTION, call(FUNCTION, CODE) + bytes.fromhex("c607 05 c3"))  # mov byte [rdi], 5
    cpu.mem_write(CALLER, call(CALLER, FUNCTION) + b"\x90")
    cpu.mem_write(CODE, made.code)
    cpu.mem_write(BLOCK + control_field("SITES"), (0x8000).to_bytes(8, "little"))
    if disarmed:
        assert made.disarm is not None
        cpu.mem_write(*made.disarm)
    before = {number: 0x1111_0000_0000_0000 + number for number in REGISTERS}
    before[uc.UC_X86_REG_RDI] = BLOCK + 0x800
    for number, content in before.items():
        cpu.reg_write(number, content)
    cpu.reg_write(uc.UC_X86_REG_RSP, STACK + 0x800)
    names = {BLOCK + 0x800: "port", BLOCK + control_field("SITES"): "sites"}
    writes: list[tuple[str, int]] = []
    assert made.back is not None
    back = made.back

    def unwind(_: object, _address: int, _size: int, _data: object) -> None:
        # An unwinder finds there who called.
        stack = cpu.reg_read(uc.UC_X86_REG_RSP)
        told = [cpu.mem_read(at, 8) for at in (stack, stack + 8 + back.returns)]
        whence = [int.from_bytes(each, "little") for each in told]
        assert whence == [back.linear, CALLER + 5] and back.errand is None
        writes.append(("unwound", 0))

    cpu.hook_add(unicorn.UC_HOOK_CODE, unwind, begin=FUNCTION + 5, end=FUNCTION + 5)

    def write(_: object, _kind: int, address: int, _size: int, value: int, _data: object) -> None:
        writes.append((names[address], value))

    cpu.hook_add(unicorn.UC_HOOK_MEM_WRITE, write, begin=BLOCK, end=BLOCK + 0xFFF)
    cpu.emu_start(CALLER, CALLER + 5, count=100)
    assert cpu.reg_read(uc.UC_X86_REG_RIP) == CALLER + 5
    assert cpu.reg_read(uc.UC_X86_REG_RSP) == STACK + 0x800
    assert {number: cpu.reg_read(number) for number in REGISTERS} == before
    return writes


def test_it_is_noted_behind_the_write() -> None:
    assert run() == [("unwound", 0), ("port", 5), ("sites", MOVED | 0x8000)]


def test_once_the_guest_is_let_go_nothing_is_written() -> None:
    assert run(disarmed=True) == [("unwound", 0), ("port", 5)]
