"""A guest without a CPU, behind the interfaces of GDB's target and QEMU's machine.

It makes a few accesses to an NVMe controller, one after the other, then powers off. Everything of
vetrace's between it and the prompt is real: the driver, the loop, the interceptor, the poison in
its page tables.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ram import PAGING, POISON, ROOT, Ram

from tracer.access.region import Choice, Region
from tracer.access.space import AddressSpace
from tracer.access.stop import Stopped
from tracer.access.symbols import Symbol, SymbolTable, table_of
from tracer.access.vcpu import (
    Change,
    DescriptorTable,
    DescriptorTables,
    RegisterFile,
    SetMemory,
    VcpuState,
)
from tracer.errors import TracerError
from tracer.intercept.entry.spill import SPILL_SIZE, VALUE_OFFSET, unpack_spill
from tracer.intercept.view import GuestView
from tracer.linux.origin import Booted
from tracer.linux.system import Linux
from tracer.qemu.console import Console
from tracer.qemu.ending import Ending
from tracer.session.driver import Driver
from tracer.session.loop import Loop
from tracer.session.session import Session
from tracer.trace.record import Intercept, Record
from tracer.x86.idt import Gate, pack_gate
from tracer.x86.state import GPR

BASE = 0xFFFF_FFFF_8100_0000
RIP = BASE + 0x2000 + 0x1C
STUB_ROOM = BASE + 0x1_0000
HANDLERS = BASE + 0x5000
IDT = BASE + 0x6000
GDT = BASE + 0x7000
STACK = 0xFFFF_C900_0001_0000
LINEAR, DEVICE = 0xFFFF_C900_0000_4000, 0xFEBF_0000
NVME = Region("nvme", DEVICE, DEVICE + 0x3FFF, DEVICE, "nvme", "nvme")
RAM_END = 0x3F_FFFF
READ, WRITE = "8b06", "8916"  # mov eax, [rsi]; mov [rsi], edx
TABLES = DescriptorTables(DescriptorTable(GDT, 0x1F), DescriptorTable(IDT, 32 * 16 - 1))
_SECOND, _APART = 1_000_000_000, 1_000_000
_FUNCTIONS = ("_text", "nvme_pci_reg_read32", "nvme_reset_work", "linux_banner")
_HOOKED = ("start_kernel", "ioremap_page_range", "set_pte_vaddr")


def symbols() -> SymbolTable:
    """The symbols of a kernel of a few functions."""
    places = [(BASE + 0x1000 * n, name) for n, name in enumerate(_FUNCTIONS)]
    places += [(BASE + 0x8000 + 0x100 * n, name) for n, name in enumerate(_HOOKED)]
    places += [(BASE + 0xF000, "__entry_text_end")]
    return table_of([Symbol(at, "T", name) for at, name in places], BASE + 0x1_0000)


def kernel() -> SimpleNamespace:
    """A kernel that one guest has, and may change."""
    return SimpleNamespace(
        symbols=symbols(), types=lambda: None, path=Path("vmlinuz"), release="6.1.0-test",
        sha256="", facts=SimpleNamespace(link_start=BASE, link_end=BASE + 0x4000), modules=None,
    )  # fmt: skip


class _Memory(Ram):
    # RAM that says where it is.

    @property
    def ranges(self) -> list[tuple[int, int]]:
        return [(0, len(self.data) - 1)]

    def holds(self, physical: int, size: int) -> bool:
        return physical + size <= len(self.data)


@dataclass(frozen=True)
class Step:
    """One access that the guest makes: its code, the device's offset, and when."""

    code: str
    offset: int
    time_ns: int


def accesses(count: int = 6) -> list[Step]:
    """Reads of CSTS and writes of CC, in turn."""
    return [
        Step(WRITE if n % 2 else READ, 0x14 if n % 2 else 0x1C, _SECOND + n * _APART)
        for n in range(count)
    ]


class Guest:
    """The guest: a target and a machine in one. ``error`` is how it ends, if not well.

    One that ``idles`` does not power off at the end, but waits to be paused.

    ``device`` holds the registers of the controller by offset, ``faults`` the vectors that were
    delivered.
    """

    def __init__(
        self, steps: Sequence[Step] = (), error: TracerError | None = None, *, idles: bool = False
    ) -> None:
        self.error = error
        self.idles = idles
        self._woken = asyncio.Event()
        self.device = {0x1C: 1, 0x8: 0x10400}
        self.faults: list[int] = []
        self.detached = False
        self.vcpu = 0
        self.version = "7.2"
        self.client = SimpleNamespace(alive=True, version="13.1")
        self.dialogue = self
        self.console = Console()
        self.realtime, self.command_line, self.size = False, "nokaslr", RAM_END + 1
        self.arguments, self.outcome = (), "poweroff"
        self.log_size: int | None = None
        self.last_line: str | None = None
        self.clock = 0.0
        self.map_changed = False
        self._steps = list(steps)
        self._current: Step | None = None
        self._paused = False
        self._number = 0
        self.registers_now = dict.fromkeys((*GPR, "cr0", "cr2", "fs_base", "gs_base"), 0)
        self.registers_now |= dict.fromkeys(("ds", "es", "fs", "gs"), 0)
        self.registers_now |= {
            "rip": BASE + 0x8000, "rsp": STACK, "eflags": 0x46, "cs": 8, "ss": 16, "efer": 0xD00,
            "cr0": 0x8005_0033, "cr3": ROOT, "cr4": 0x6A0,
        } | {f"xmm{number}": 0 for number in range(16)}  # fmt: skip
        ram = self.memory = _Memory()
        for page in range(0x20):
            ram.map(BASE + 0x1000 * page, 0x20_0000 + 0x1000 * page)
        for page in range(2):
            ram.map(LINEAR + 0x1000 * page, DEVICE + 0x1000 * page)
            ram.map(STACK - 0x1000 * page, 0x30_0000 + 0x1000 * page)
        ram.write(0x20_0000, b"\x90" * 0x5000)
        self.write(GDT + 8, struct.pack("<Q", 0x00AF_9B00_0000_FFFF))
        for vector in range(32):
            gate = Gate(HANDLERS + 16 * vector, 0x8E << 40 | 8 << 16, 0)
            self.write(IDT + 16 * vector, pack_gate(gate))

    # ---- memory

    @property
    def space(self) -> AddressSpace:
        return AddressSpace(self.memory, PAGING, self.view.regions)

    def write(self, linear: int, data: bytes) -> None:
        leaf = AddressSpace(self.memory, PAGING, None).leaf(linear)  # type: ignore[arg-type]
        assert leaf is not None, hex(linear)
        self.memory.write(leaf.translate(linear), data)

    def _apply(self, changes: Sequence[Change]) -> None:
        for change in changes:
            if isinstance(change, SetMemory):
                self.write(change.linear, change.data)
            else:
                self.registers_now[change.name] = change.value

    # ---- what the target does

    async def registers(self) -> RegisterFile:
        return RegisterFile(dict(self.registers_now))

    async def register(self, name: str) -> int:
        return self.registers_now[name]

    async def select(self, vcpu: int) -> None:
        assert vcpu == 0

    async def stack_and_tables(self) -> tuple[int, int]:
        return self.registers_now["rsp"], self.registers_now["cr3"]

    async def change(self, changes: Sequence[Change]) -> None:
        self._apply(changes)

    async def flush_tlb(self, cr3: int) -> None:
        assert cr3 == ROOT

    async def flush_all_tlbs(self) -> None:
        """There is no TLB."""

    async def read_physical(self, physical: int, width: int) -> int:
        return self.device.get(physical - DEVICE, 0) & ((1 << 8 * width) - 1)

    async def write_physical(self, physical: int, width: int, value: int) -> None:
        self.device[physical - DEVICE] = value

    async def write_code(self, linear: int, code: bytes) -> None:
        self.write(linear, code)

    async def set_breakpoint(self, linear: int) -> int:
        self._number += 1
        return self._number

    set_read_watch = set_breakpoint

    async def watch_stores(self, linear: int, size: int) -> int:
        return await self.set_breakpoint(linear)

    async def watch_accesses(self, linear: int, size: int) -> int:
        return await self.set_breakpoint(linear)

    async def delete_breakpoint(self, number: int) -> None:
        """Breakpoints are never hit."""

    async def detach(self) -> None:
        self.detached = True

    async def run_alone(self, linear: int, changes: Sequence[Change] = ()) -> None:
        # Into the stub from elsewhere, or an access in it, of up to 8 bytes.
        self._apply(changes)
        stub, stack = self.view_gate.stub, self.registers_now["rsp"]
        if linear == stub.stop:
            if self.registers_now["rip"] != stub.waiting:
                assert self.registers_now["rip"] == stub.spill
                self._spill(0, 0)
            return
        assert linear == stub.done
        (at,) = struct.unpack("<Q", self.space.read(stack, 8))
        leaf = self.space.leaf(at)
        assert leaf is not None and not leaf.poisoned
        offset = leaf.translate(at) - DEVICE
        if self.registers_now["rip"] in stub.loads.values():
            data = struct.pack("<Q", self.device.get(offset, 0))
            self.write(stack + VALUE_OFFSET, data)
        else:
            (self.device[offset],) = struct.unpack("<Q", self.space.read(stack + VALUE_OFFSET, 8))
        self.registers_now["rip"] = linear

    async def break_alone(
        self, linear: int, changes: Sequence[Change] = (), rip: int | None = None
    ) -> None:
        self._apply(changes)
        if linear == self.view_gate.stub.leave:
            self._unspill()
        self.registers_now["rip"] = linear

    async def step_alone(self) -> int:
        return self.registers_now["rip"]

    async def go(self, changes: Sequence[Change] = ()) -> None:
        self._apply(changes)

    async def stopped(self) -> Stopped:
        await asyncio.sleep(0)  # it may be paused meanwhile
        rip = self.registers_now["rip"]
        stub = self.view_gate.stub
        if rip in (stub.stop, stub.done):
            self._unspill()
            if self.registers_now["rip"] != RIP:
                self._current = None
        elif HANDLERS <= rip < HANDLERS + 16 * 32:
            self.faults.append((rip - HANDLERS) // 16)
            self._current = None
        if self._paused:
            return self._pause_here()
        while True:
            if self._current is None:
                if not self._steps and self.idles:
                    await self._woken.wait()
                    self._woken.clear()
                    return self._pause_here()
                if not self._steps:
                    return Stopped(signal="SIGQUIT")
                self._begin(self._steps.pop(0))
            leaf = self.space.leaf(self.registers_now["rsi"])
            if leaf is not None and leaf.poisoned:
                error = 8 | (2 if self._current.code == WRITE else 0)
                self._spill(self._current.time_ns, error)
                return Stopped("read-watchpoint-trigger", 1, stub.stop, 1, "SIGTRAP")
            self._current = None  # nobody sees it

    def _pause_here(self) -> Stopped:
        self._paused = False
        self.registers_now |= {"rip": BASE, "rsp": STACK}
        return Stopped(signal="SIGINT", address=BASE, thread=1)

    def _begin(self, step: Step) -> None:
        self._current = step
        self.write(RIP, bytes.fromhex(step.code))
        self.registers_now |= {
            "rax": 0x1111_2222_3333_4444, "rcx": 3, "rbx": LINEAR, "rsi": LINEAR + step.offset,
            "rdx": 0, "rsp": STACK, "rip": RIP, "eflags": 0x246,
        }  # fmt: skip

    def _spill(self, time_ns: int, error: int) -> None:
        now = self.registers_now
        stack = (now["rsp"] & -16) - SPILL_SIZE
        words = [time_ns, now["cr0"], now["rsi"], ROOT, now["cr4"]]
        words += [now[name] for name in (
            "r15", "r14", "r13", "r12", "r11", "r10", "r9", "r8",
            "rdi", "rsi", "rbp", "rbx", "rdx", "rcx", "rax",
        )]  # fmt: skip
        words += [error, now["rip"], now["cs"], now["eflags"], now["rsp"], now["ss"]]
        data = struct.pack(f"<{len(words)}Q", *words)
        for offset in range(0, len(data), 8):
            self.write(stack + offset, data[offset : offset + 8])
        now |= {"rsp": stack, "rip": self.view_gate.stub.stop}

    def _unspill(self) -> None:
        spill = unpack_spill(self.space.read(self.registers_now["rsp"], SPILL_SIZE))
        self.registers_now |= dict(zip(GPR, spill.gpr, strict=True))
        self.registers_now |= {
            "rip": spill.frame.rip, "eflags": spill.frame.rflags, "rsp": spill.frame.rsp,
        }  # fmt: skip

    # ---- what the machine does

    async def monitor(self, command: str) -> str:
        return f"carried out: {command}\r\n"

    async def vcpu_states(self) -> tuple[VcpuState, ...]:
        now = self.registers_now
        return (VcpuState(now["rip"], now["rsp"], 0, ROOT, now["cr4"], TABLES, 0, 0, 0, True),)

    async def descriptor_tables(self) -> DescriptorTables:
        return TABLES

    async def halted(self, vcpu: int) -> bool:
        return False

    async def has_machine_check(self) -> bool:
        return True

    async def has_no_execute(self) -> bool:
        return False

    async def memory_map(self) -> tuple[list[Region], list[tuple[int, int]]]:
        return [NVME], [(0, RAM_END)]

    def woken(self) -> int | None:
        return None

    async def time_ns(self) -> int | None:
        return None

    async def log_accesses(self) -> None:
        """Nothing is logged."""

    def tick(self) -> float:
        return self.clock

    def let_go(self) -> None:
        """It goes on."""

    def kept(self, physical: int, size: int) -> None:
        """Nothing is kept."""

    async def pause(self) -> None:
        self._paused = True
        self._woken.set()

    async def ended(self) -> Ending:
        if self.error is not None:
            raise self.error
        return Ending(0, "guest-shutdown", (), "", False, "")

    # ---- joined with vetrace

    def session(self) -> Session:
        """A session on this guest, before it is traced."""
        self.view = GuestView(self.memory, POISON, 1)
        system = Linux(kernel(), Booted("nokaslr"))  # type: ignore[arg-type]
        loop = Loop(self.view, self.memory, system, Choice())
        self._loop = loop
        return Session(loop, Driver(self, self))  # type: ignore[arg-type]

    @property
    def view_gate(self) -> Any:
        return self._loop.traced.gate if self._loop._traced is not None else _NO_GATE


_NO_GATE = SimpleNamespace(stub=SimpleNamespace(stop=-1, done=-1, leave=-1))


class Made:
    """Collect what became of each access, from the records."""

    def __init__(self) -> None:
        self.made: list[tuple[str, int | None]] = []

    def __call__(self, record: Record) -> None:
        if isinstance(record, Intercept):
            for access in record.accesses:
                told = "skip" if access.skipped else access.direction
                reached = access.direction != "read" and access.device is not None
                self.made.append((told, access.device if reached else access.value))
