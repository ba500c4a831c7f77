"""A guest for playbooks: RAM with page tables, a planted gate, a device, and no CPU.

A test says what a vCPU was about when it came upon poison (:meth:`Scene.fault`), then plays what
the interceptor wants.
"""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass
from typing import Any

from playbook import Step, play
from ram import PAGING, POISON, ROOT, Ram

from tracer.access.region import Region, RegionMap
from tracer.access.space import AddressSpace
from tracer.access.vcpu import (
    Change,
    DescriptorTable,
    DescriptorTables,
    RegisterFile,
    SetMemory,
    SetRegister,
    VcpuState,
)
from tracer.access.want import StackAndTables, Tables, WatchReads, WatchStores, WriteCode
from tracer.intercept.below.firmware import Intercepted
from tracer.intercept.entry.gate import PageFaultGate
from tracer.intercept.entry.spill import SPILL_SIZE, unpack_spill
from tracer.intercept.interceptor import Interceptor
from tracer.intercept.view import GuestView
from tracer.linux.mapping import SPARE_LINEAR
from tracer.x86.idt import Gate, pack_gate
from tracer.x86.paging import PRESENT, USER, WRITABLE, set_poison
from tracer.x86.state import GPR, Mode, PageFaultCode

READ, WRITE = int(PageFaultCode.RSVD), int(PageFaultCode.RSVD | PageFaultCode.W)

CODE, CODE_AT = 0xFFFF_FFFF_8100_0000, 0x5000
STUB, STUB_AT = 0xFFFF_FFFF_8100_2000, 0x7000
IDT, IDT_AT = 0xFFFF_FFFF_8200_0000, 0x9000
GDT, GDT_AT = 0xFFFF_FFFF_8200_1000, 0xA000
HANDLER = 0xFFFF_FFFF_8100_1000
STACK = 0xFFFF_C900_0001_0000
DATA, DATA_AT = 0xFFFF_C900_0002_0000, 0x24_0000
HOLE = DATA + 0x1000
DEVICE, AT = 0xFEBF_0000, 0xFFFF_C900_0000_4000
USERS = 0x7F00_0000_0000
LAPIC, LAPIC_AT = 0xFEE0_0000, 0xFFFF_C900_0000_8000
NVME = Region("nvme", DEVICE, DEVICE + 0x3FFF, DEVICE, "nvme", "nvme")
APIC = Region("lapic", LAPIC, LAPIC + 0xFFF, LAPIC, "lapic", "apic-msi")
RAM_END = 0x3F_FFFF
CS, SS = 8, 16
CR0, CR4 = 0x8001_0013, 0x620  # paging, WP; PAE, OSFXSR, OSXMMEXCPT
TABLES = DescriptorTables(DescriptorTable(GDT, 0x1F), DescriptorTable(IDT, 15 * 16 - 1))
STATE = VcpuState(CODE, STACK, 0, ROOT, 0x20, TABLES, 0, 0, 0, paging=True)
_NAMES = (
    "tsc", "cr0", "cr2", "cr3", "cr4",
    "r15", "r14", "r13", "r12", "r11", "r10", "r9", "r8",
    "rdi", "rsi", "rbp", "rbx", "rdx", "rcx", "rax",
    "error_code", "rip", "cs", "rflags", "rsp", "ss",
)  # fmt: skip


class Names:
    """Name nothing but the code of the test."""

    def lookup(self, linear: int, space: AddressSpace) -> str | None:
        return f"driver+{linear - CODE:#x}" if CODE <= linear < CODE + 0x1000 else None


class Callers:
    """Know no caller."""

    def note(self, cpu: Any, space: AddressSpace, time_ns: int) -> int | None:
        return None


def registers(**values: int) -> RegisterFile:
    """Registers of a vCPU in the kernel."""
    known = dict.fromkeys((*GPR, "cr0", "cr2", "efer", "fs_base", "gs_base"), 0)
    known |= dict.fromkeys(("ds", "es", "fs", "gs"), 0)
    known |= {"rip": CODE, "rsp": STACK, "eflags": 0x202, "cs": CS, "ss": SS}
    known |= {"cr3": ROOT, "cr4": CR4, "cr0": CR0}
    for number in range(16):
        known[f"xmm{number}"] = number
    return RegisterFile(known | values)


def spill(linear: int, error: int, stack: int, **values: int) -> bytes:
    """Be the words that a vCPU in the kernel spills where it came upon poison, at ``linear``."""
    known = dict.fromkeys(_NAMES, 0) | {
        "cr0": CR0, "cr2": linear, "cr3": ROOT, "cr4": CR4, "error_code": error, "rip": CODE,
        "cs": CS, "rflags": 0x202, "rsp": stack + SPILL_SIZE, "ss": SS,
    } | values  # fmt: skip
    return struct.pack(f"<{len(_NAMES)}Q", *(known[name] for name in _NAMES))


@dataclass(frozen=True)
class After:
    """What the interrupted code finds once changes are made: its registers by name."""

    registers: dict[str, int]
    others: list[Change]

    def __getitem__(self, name: str) -> int:
        return self.registers[name]


class Scene:
    """Hold the guest. ``notes`` and ``stack`` are the gate's."""

    def __init__(self, *, notes: bool = False, stack: int = 0, regions: Any = (NVME, APIC)) -> None:
        ram = self.ram = Ram()
        for linear, physical in (
            (CODE, CODE_AT), (CODE + 0x1000, CODE_AT + 0x1000), (STUB, STUB_AT),
            (STUB + 0x1000, STUB_AT + 0x1000), (IDT, IDT_AT), (GDT, GDT_AT),
            (STACK, 0x20_0000), (STACK - 0x1000, 0x21_0000), (DATA, DATA_AT),
        ):  # fmt: skip
            ram.map(linear, physical)
        for page in range(2):
            ram.map(AT + 0x1000 * page, DEVICE + 0x1000 * page | POISON)
        ram.map(LAPIC_AT, LAPIC | POISON)
        ram.map(USERS, DEVICE | POISON, PRESENT | WRITABLE | USER)
        ram.write(GDT_AT + CS, struct.pack("<Q", 0x00AF_9B00_0000_FFFF))
        ram.write(CODE_AT, b"\x90" * 0x100)
        self.view = GuestView(ram, POISON, 2)
        traced = [(region.start, region.end) for region in regions]
        self.view.show(RegionMap(list(regions), traced, [(0, RAM_END)]))
        self.counts: Counter[str] = Counter()
        self.records: list[Any] = []
        self.gate = PageFaultGate(ram, spare=SPARE_LINEAR, notes=notes)
        own = pack_gate(Gate(HANDLER, 0x8E << 40 | CS << 16, 0))
        ram.write(IDT_AT + 14 * 16, own)
        self.own = own
        play(
            self.gate.place(self.space, TABLES.idt, STUB, CS),
            (WriteCode, self.write_code), (WatchReads, 1),
        )  # fmt: skip
        self.gate.stack = stack
        play(
            self.gate.follow(self.space, TABLES.idt),
            (WriteCode, self.write_code), (WatchStores, 2), (WatchStores, 3),
        )  # fmt: skip
        self.stub = self.gate.stub
        self.interceptor = Interceptor(
            self.view, Names(), Callers(), self.counts, self.records.append  # type: ignore[arg-type]
        )  # fmt: skip
        assert play(self.view.mode(CS, self.space), (Tables(), TABLES)) is Mode.LONG

    @property
    def space(self) -> AddressSpace:
        return AddressSpace(self.ram, PAGING, self.view.regions)

    def write_code(self, wanted: Any) -> None:
        self.write(wanted.linear, wanted.code)

    def write(self, linear: int, data: bytes) -> None:
        for offset, byte in enumerate(data):
            leaf = self.space.leaf(linear + offset)
            assert leaf is not None
            self.ram.write(leaf.translate(linear + offset), bytes([byte]))

    def word(self, linear: int) -> int:
        return int.from_bytes(self.space.read(linear, 8), "little")

    def entry(self, linear: int) -> int:
        leaf = self.space.leaf(linear)
        assert leaf is not None
        return leaf.entry

    def poisoned(self, linear: int) -> bool:
        leaf = self.space.leaf(linear)
        return leaf is not None and leaf.poisoned

    def heal(self, linear: int) -> None:
        """Take the poison off what maps a linear address."""
        leaf = self.space.leaf(linear)
        assert leaf is not None
        set_poison(self.ram, self.space.paging, leaf, poisoned=False)

    def unmap(self, linear: int) -> None:
        leaf = self.space.leaf(linear)
        assert leaf is not None
        self.ram.write(leaf.entry_address, bytes(8))

    def fault(
        self, code: str, linear: int, error: int = READ, *, stack: int = STACK - 0x400,
        rip: int = CODE, tsc: int = 1000, rflags: int = 0x202, cs: int = CS, **values: int,
    ) -> int:  # fmt: skip
        """Let a vCPU come upon poison with some registers; return where it spilled."""
        leaf = self.space.leaf(rip)
        if code and leaf is not None:
            self.write(rip, bytes.fromhex(code))
        known = {"tsc": tsc, "rip": rip, "cs": cs, "rflags": rflags} | values
        self.write(stack, spill(linear, error, stack, **known))
        return stack

    def play(self, *steps: Step, stack: int = STACK - 0x400, vcpu: int = 0) -> Intercepted:
        """Play what the interceptor wants at a stop."""
        work = self.interceptor.intercept(vcpu, self.gate)
        return play(work, (StackAndTables(), (stack, ROOT)), *steps)

    def after(self, done: Intercepted, stack: int = STACK - 0x400) -> After:
        """Make the changes; return what the interrupted code finds."""
        others = []
        for change in done.changes:
            if isinstance(change, SetMemory):
                self.write(change.linear, change.data)
            else:
                others.append(change)
        data = self.space.read(stack, SPILL_SIZE)
        unpack_spill(data)
        values = dict(zip(_NAMES, struct.unpack(f"<{len(_NAMES)}Q", data), strict=True))
        return After(values, others)

    def accesses(self) -> list[tuple[str, int, int, int | None]]:
        """Every access recorded: direction, physical address, width, value."""
        return [
            (made.direction, made.physical, made.width, made.value)
            for record in self.records
            for made in record.accesses
        ]


def set_rip(linear: int) -> SetRegister:
    return SetRegister("rip", linear)
