"""The store that a vCPU has just made: instructions carried out, then looked for."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cell import state

from tracer.x86.bus import Load, PortAccess, Store
from tracer.x86.decode import decode
from tracer.x86.emulate import execute
from tracer.x86.latest_store import latest_store
from tracer.x86.state import CpuState, Flag

AT = 0x5000
CODE = 0x1000
WATCHED = range(AT, AT + 16)


class Memory:
    def __init__(self, before: bytes, code: bytes) -> None:
        self.data = bytearray(0x8000)
        self.data[CODE - len(before) : CODE] = before
        self.data[CODE : CODE + len(code)] = code

    def read(self, linear: int, size: int) -> bytes:
        return bytes(self.data[linear : linear + size])

    def run(self, cpu: CpuState) -> tuple[CpuState, list[range]]:
        """Carry one instruction, or one iteration, out."""
        emulation = execute(decode(self.read(cpu.rip, 15), cpu.rip, cpu.mode), cpu)
        stores = []
        for access in emulation:
            if isinstance(access, PortAccess):
                emulation.answer = 0xA1A2_A3A4 & ((1 << 8 * access.width) - 1)
                continue
            place = slice(access.linear, access.linear + access.width)
            match access:
                case Load():
                    emulation.answer = int.from_bytes(self.data[place], "little")
                case Store(value=value):
                    mask = (1 << 8 * access.width) - 1
                    self.data[place] = (value & mask).to_bytes(access.width, "little")
                    stores.append(range(place.start, place.stop))
        return emulation.after, stores


@pytest.mark.parametrize("before", ["90", "48", "4889c6", "66", "f3"])
@pytest.mark.parametrize(
    "code",
    [
        "668907",  # mov [rdi], ax
        "8907",  # mov [rdi], eax
        "488907",  # mov [rdi], rax
        "48c74708ffffffff",  # mov qword ptr [rdi + 8], -1
        "c6470500",  # mov byte ptr [rdi + 5], 0
        "66c747020800",  # mov word ptr [rdi + 2], 8
        "48ab",  # stosq
        "f348ab",  # rep stosq
        "f3a4",  # rep movsb
        "6d",  # insd
        "f3666d",  # rep insw
        "0f2907",  # movaps [rdi], xmm0
        "660f13470a",  # movlpd [rdi + 10], xmm0
    ],
)
def test_every_way_to_write(code: str, before: str) -> None:
    cpu = replace(
        state(rax=0x8182_8384_8586_8788, rdi=AT, rsi=0x6000, rcx=2),
        rip=CODE,
        xmm=(0x1122_3344_5566_7788_99AA_BBCC_DDEE_F00F,) * 16,
    )
    memory = Memory(bytes.fromhex(before), bytes.fromhex(code))
    memory.data[0x6000:0x6010] = bytes(range(0x30, 0x40))
    memory.data[AT : AT + 16] = bytes(range(0x50, 0x60))
    after, (store,) = memory.run(cpu)
    assert latest_store(after, memory.read, WATCHED) == store


def test_backwards() -> None:
    cpu = replace(state(rax=7, rdi=AT + 8, rcx=1, rflags=0x2 | Flag.DF), rip=CODE)
    memory = Memory(b"", bytes.fromhex("f348ab"))
    after, (store,) = memory.run(cpu)
    assert store == range(AT + 8, AT + 16)
    assert latest_store(after, memory.read, WATCHED) == store


def test_what_wrote_elsewhere_or_something_else_is_not_it() -> None:
    memory = Memory(b"", bytes.fromhex("488907"))
    memory.data[AT : AT + 8] = (5).to_bytes(8, "little")
    cpu = replace(state(rax=6, rdi=AT), rip=CODE + 3)
    assert latest_store(cpu, memory.read, WATCHED) is None
    cpu = replace(state(rax=0, rdi=AT + 32), rip=CODE + 3)
    assert latest_store(cpu, memory.read, WATCHED) is None
