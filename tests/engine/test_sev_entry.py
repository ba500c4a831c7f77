"""How a kernel is told that it is an SEV-ES guest, and what it asks before it has an IDT."""

from __future__ import annotations

import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from playbook import Step, play
from scene import Scene, registers

from tracer.access.stop import Ran, Stopped
from tracer.access.symbols import Symbol, table_of
from tracer.access.vcpu import SetRegister
from tracer.access.want import (
    DeleteBreakpoint,
    MakeChanges,
    MemoryMap,
    Registers,
    Resume,
    SetBreakpoint,
    StepAlone,
    WriteCode,
)
from tracer.confidential.ghcb import GHCB_MSR, GHCB_STAND_IN, VMGEXIT
from tracer.errors import GuestError
from tracer.linux.kaslr import KERNEL_MAP, Moved
from tracer.linux.sev_entry import reach_sev_entry

LINKED = KERNEL_MAP + 0x100_0000
"""The kernel was linked to be here; it is at TEXT, which the decompressor maps at its place."""
TEXT, CODE_AT = 0x300_0000, 0x30_0000
MOVED = Moved(0x20_0000, 0x200_0000)
ASKS, LOADS, CALLS, ENTRY = 0x100, 0x200, 0x300, 0x400
STACK = 0x310_0000
LOAD = b"\xb9" + struct.pack("<I", GHCB_MSR)  # mov ecx, the MSR's number


def kernel(*left_out: str) -> Any:
    places = {
        "_text": 0, "_stext": 0, "_etext": 0x800, "start_kernel": ENTRY, "sme_enable": ASKS,
    }  # fmt: skip
    found = [Symbol(LINKED + at, "T", name) for name, at in places.items() if name not in left_out]
    symbols = table_of(found)
    return SimpleNamespace(path=Path("vmlinuz"), symbols=symbols)


class Early(Scene):
    """A guest that its decompressor has just left: its code is mapped where it lies."""

    def __init__(self, *, loads: bytes = LOAD) -> None:
        super().__init__()
        self.ram.map(TEXT, CODE_AT)
        self.ram.map(STACK, 0x31_0000)
        self.write(TEXT + LOADS, loads)
        self.write(TEXT + CALLS, VMGEXIT)
        self.write(STACK, (TEXT + 0x10).to_bytes(8, "little"))
        self.asking: list[Step] = [
            (SetBreakpoint(TEXT + ASKS), 1), (Resume(()), hit(1, TEXT + ASKS)),
            (DeleteBreakpoint(1), None), (MemoryMap(), ([], [])),
        ]  # fmt: skip

    def asks(self, at: int, code: bytes, told: dict[str, int], **before: int) -> None:
        """Let the kernel ask by an instruction, and be told."""
        self.write(TEXT + at, code)
        changes = [SetRegister(name, value) for name, value in told.items()]
        self.asking += [
            (Registers(), registers(rip=TEXT + at, rsp=STACK, **before)),
            (StepAlone(), TEXT + at + 2), (MakeChanges(changes), None),
        ]  # fmt: skip

    def begins(self) -> None:
        self.asking.append((Registers(), registers(rip=TEXT + ASKS, rsp=STACK)))

    def returns(self) -> None:
        behind = registers(rip=TEXT + 0x10, rsp=STACK + 8)
        self.asking += [(Registers(), behind)]


def hit(number: int, linear: int) -> Ran:
    return Ran(Stopped("breakpoint-hit", 1, linear, number, "SIGTRAP"))


def told_all() -> Early:
    scene = Early()
    scene.begins()
    scene.asking += [(StepAlone(), 0), (MakeChanges([]), None)]
    scene.asks(0x110, b"\x0f\xa2", {"rax": 0x8000_001F}, rax=0xFFFF_FFFF_8000_0000)
    scene.asks(0x112, b"\x0f\xa2", {"rax": 0xA, "rbx": 38 | 1 << 6}, rax=0x8000_001F)
    scene.asks(0x114, b"\x0f\xa2", {}, rax=1)
    scene.asks(0x116, b"\x0f\x32", {"rax": 3, "rdx": 0}, rcx=0xC001_0131)
    scene.asks(0x118, b"\x0f\x32", {}, rcx=0xC000_0080)
    scene.returns()
    return scene


def replaced() -> list[Step]:
    """Return the writes into the code, and the breakpoints that come then."""
    linear = LINKED + MOVED.linear
    return [
        (Registers(), registers(rip=TEXT + 0x10, rsp=STACK)),
        (WriteCode(TEXT + LOADS + 1, struct.pack("<I", GHCB_STAND_IN)), None),
        (SetBreakpoint(linear + ENTRY), 2), (SetBreakpoint(linear + CALLS), 3),
    ]  # fmt: skip


def entered() -> list[Step]:
    linear = LINKED + MOVED.linear
    return [
        (Resume(()), hit(2, linear + ENTRY)),
        (DeleteBreakpoint(2), None), (DeleteBreakpoint(3), None),
    ]  # fmt: skip


def reach(scene: Early, *steps: Step, image: Any = None) -> None:
    play(reach_sev_entry(image or kernel(), MOVED, scene.ram), *scene.asking, *steps)


def test_a_kernel_is_told_where_it_asks_and_agrees_with_its_host() -> None:
    scene = told_all()
    calls = LINKED + MOVED.linear + CALLS
    before = registers(rip=calls, rax=7, rcx=8, rdx=9)
    answer = 2 << 48 | 1 << 32 | 38 << 24 | 1
    negotiated: list[Step] = [
        (Resume(()), hit(3, calls)), (Registers(), before),
        (WriteCode(calls, b"\x0f\x32\x90\x90"), None),
        (MakeChanges([SetRegister("rcx", GHCB_STAND_IN)]), None), (StepAlone(), calls + 2),
        (Registers(), registers(rip=calls + 2, rax=2, rdx=0)),
        (WriteCode(calls, b"\x0f\x30\x90\x90"), None),
        (MakeChanges([
            SetRegister("rcx", GHCB_STAND_IN), SetRegister("rax", answer & 0xFFFF_FFFF),
            SetRegister("rdx", answer >> 32), SetRegister("rip", calls),
        ]), None),
        (StepAlone(), calls + 2), (Registers(), registers()),
        (WriteCode(calls, VMGEXIT), None),
        (MakeChanges([
            SetRegister("rax", 7), SetRegister("rcx", 8), SetRegister("rdx", 9),
            SetRegister("rip", calls + 4),
        ]), None),
    ]  # fmt: skip
    reach(scene, *replaced(), *negotiated, *entered())


def test_a_guest_that_gives_up_on_its_way_is_told() -> None:
    scene = told_all()
    calls = LINKED + MOVED.linear + CALLS
    steps: list[Step] = [
        (Resume(()), hit(3, calls)), (Registers(), registers(rip=calls)),
        (WriteCode, None), (MakeChanges, None), (StepAlone(), calls + 2),
        (Registers(), registers(rax=0x100)),
    ]  # fmt: skip
    with pytest.raises(GuestError, match="gave up before its kernel was entered: termination"):
        reach(scene, *replaced(), *steps)


def test_a_kernel_that_does_not_ask_is_refused() -> None:
    for name in ("sme_enable", "start_kernel"):
        with pytest.raises(GuestError, match="CONFIG_AMD_MEM_ENCRYPT"):
            play(reach_sev_entry(kernel(name), MOVED, Scene().ram))
    scene = Early()
    scene.begins()
    scene.asking += [(StepAlone(), 0), (MakeChanges([]), None)]
    scene.returns()
    with pytest.raises(GuestError, match="does not ask whether it is an SEV-ES guest"):
        reach(scene)


def test_a_kernel_whose_code_names_no_such_msr_is_refused() -> None:
    scene = told_all()
    scene.write(TEXT + LOADS, bytes(len(LOAD)))
    with pytest.raises(GuestError, match=r"names the MSR of the GHCB \(0xc0010130\)"):
        reach(scene, replaced()[0])


def test_a_stop_that_nobody_asked_for_is_told() -> None:
    scene = told_all()
    with pytest.raises(GuestError, match="stopped before its kernel"):
        reach(scene, *replaced(), (Resume(()), hit(9, 0)))
