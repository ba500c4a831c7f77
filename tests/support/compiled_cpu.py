"""A CPU that runs compiled sites: the real bytes in Unicorn, page tables in its memory, a device.

Unicorn translates nothing here: the window is memory at its linear address, the walk is the
guest code's own. What the CPU does by itself in a guest, the fault with its frame and IRETQ, is
done here before and after.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import unicorn
from ram import POISON, Ram
from unicorn import x86_const as uc

from tracer.compiled import layout
from tracer.compiled.common import CommonCode, common_code, entry
from tracer.compiled.diary import Current
from tracer.compiled.layout import Control
from tracer.compiled.ring import Raw, Ring, raws
from tracer.compiled.sites import Site, SiteTable, watched
from tracer.x86.decode import decode
from tracer.x86.instruction import Instruction
from tracer.x86.paging import PRESENT, WRITABLE, Paging
from tracer.x86.state import GPR, RSP, CpuState, Mode

WINDOW = 0xFFFF_FF80_0000_0000
REACH = 1 << 34
RAM_SIZE = 0x40_0000
BLOCK_AT = 0x1000_0000
"""Physical address of the block."""
BLOCK = 0xFFFF_FFEE_8000_0000 + BLOCK_AT
"""Its linear address as data; as code it is 1 GiB above."""
DEVICE_AT = 0xFEB0_0000
"""Physical address of the device's two pages."""
DEVICE = 0xFFFF_C900_0001_0000
"""Their linear address, poisoned; the page before is RAM."""
TEXT, STACK, STUB = 0xFFFF_FFFF_8100_0000, 0xFFFF_C900_0080_0000, 0xFFFF_FFFF_8200_0000
DATA, DATA_AT = 0xFFFF_8880_0020_0000, 0x20_0000
"""RAM of the guest: linear, physical; four pages."""
STACK_AT, TEXT_AT = 0x28_0000, 0x30_0000
_GPR = [getattr(uc, f"UC_X86_REG_{name.upper()}") for name in GPR]
_FRAME = struct.Struct("<6Q")
_FX_LOAD, _FX_STORE, _FX = STUB + 0x4000, STUB + 0x4010, STUB + 0x5000


def prepare_fx(cpu: unicorn.Uc) -> None:
    """Map the stub's pages, and the code that loads and stores x87 and SSE there."""
    cpu.mem_map(STUB, 0x8000)
    cpu.mem_write(_FX_LOAD, b"\x48\x0f\xae\x0f\x90")  # fxrstor64 [rdi]; nop
    cpu.mem_write(_FX_STORE, b"\x48\x0f\xae\x07\x90")  # fxsave64 [rdi]; nop
    cpu.reg_write(uc.UC_X86_REG_CR4, 3 << 9)


def load_fx(cpu: unicorn.Uc, image: bytes) -> None:
    """Load x87 and SSE. RDI is lost."""
    cpu.mem_write(_FX, image)
    cpu.reg_write(_GPR[7], _FX)
    cpu.emu_start(_FX_LOAD, _FX_LOAD + 4)


def store_fx(cpu: unicorn.Uc) -> bytes:
    """Return x87 and SSE. RDI is lost."""
    cpu.reg_write(_GPR[7], _FX)
    cpu.emu_start(_FX_STORE, _FX_STORE + 4)
    return bytes(cpu.mem_read(_FX, 512))


@dataclass(frozen=True)
class After:
    """Hold what a run left behind: ``slow`` tells that it went to the stub's stop."""

    slow: bool
    cpu: CpuState
    fx: bytes
    count: int
    error: int = 0


@dataclass
class Compiled:
    """Hold a guest with compiled sites; ``touched`` is what its device saw."""

    smp: bool = False
    la57: bool = False
    stacks: bool = False
    slots: int = 16
    linear: int = DEVICE
    text: int = TEXT
    pages: int = 2
    state: int = 0
    current: Current | None = None
    touched: list[tuple[str, int, int, int]] = field(default_factory=list)
    on_touch: Callable[[], None] | None = None

    def __post_init__(self) -> None:
        self.common: CommonCode = common_code(smp=self.smp, la57=self.la57)
        self.ram = Ram(RAM_SIZE)
        self.paging = Paging(0x10_0000, 5 if self.la57 else 4, POISON)
        self.cr3 = self.paging.cr3 | 0x18
        self.ring = Ring(self.slots)
        self.front = self.common.stacks if self.stacks else self.common.behind
        front = self.front if self.stacks else None
        self.table = SiteTable(BLOCK, self.common, front, self.current)
        self.leaves: dict[int, int] = {}
        for page in range(self.pages):
            place = self.linear + 4096 * page
            flags = POISON | PRESENT | WRITABLE
            self.leaves[place] = self.map(place, DEVICE_AT + 4096 * page, flags)
        self.map(self.linear - 4096, DATA_AT + 0x5000, PRESENT | WRITABLE)
        for base, at in ((DATA, DATA_AT), (STACK, STACK_AT), (self.text, TEXT_AT)):
            for page in range(4):
                self.map(base + 4096 * page, at + 4096 * page, PRESENT | WRITABLE)
        self._start()

    def map(self, linear: int, physical: int, flags: int, level: int = 1) -> int:
        """Enter a translation; return the physical address of its entry."""
        return self.ram.map(linear, physical, flags, level, self.paging)

    def map_late(self, linear: int, physical: int) -> int:
        """Do the same once the guest has started; the page is writable."""
        self.ram.data[:] = self._ram[:]
        entry = self.map(linear, physical, PRESENT | WRITABLE)
        self._ram[:] = bytes(self.ram.data)
        return entry

    def _start(self) -> None:
        cpu = self.cpu = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
        cpu.ctl_set_tlb_mode(unicorn.UC_TLB_VIRTUAL)  # linear addresses up to the top
        size = layout.block_size(self.slots, stacks=self.stacks) + 4095 & -4096
        cpu.mem_map(WINDOW + DEVICE_AT, 4096 * self.pages)
        cpu.hook_add(
            unicorn.UC_HOOK_MEM_READ | unicorn.UC_HOOK_MEM_WRITE, self._touch, None,
            WINDOW + DEVICE_AT, WINDOW + DEVICE_AT + 4096 * self.pages - 1,
        )  # fmt: skip
        # The block twice, as data and as code, the same memory.
        self._block = mmap.mmap(-1, size)
        block = ctypes.addressof(ctypes.c_char.from_buffer(self._block))
        cpu.mem_map_ptr(BLOCK, size, unicorn.UC_PROT_READ | unicorn.UC_PROT_WRITE, block)
        code = unicorn.UC_PROT_READ | unicorn.UC_PROT_EXEC
        cpu.mem_map_ptr(BLOCK + layout.DISTANCE, size, code, block)
        # RAM at its linear addresses is the same memory as in the window.
        self._ram = mmap.mmap(-1, RAM_SIZE)
        self._ram[:] = bytes(self.ram.data)
        ram = ctypes.addressof(ctypes.c_char.from_buffer(self._ram))
        everything = unicorn.UC_PROT_ALL
        cpu.mem_map_ptr(WINDOW, RAM_SIZE, everything, ram)
        for linear, at in ((DATA, DATA_AT), (STACK, STACK_AT), (self.text, TEXT_AT)):
            cpu.mem_map_ptr(linear, 0x4000, everything, ram + at)
        if self.linear != DEVICE:
            # The stack of made-up cases is among the device's linear addresses.
            cpu.mem_map(self.linear, 4096 * self.pages)
        prepare_fx(cpu)
        cpu.reg_write(uc.UC_X86_REG_GS_BASE, DATA)
        self.slow = STUB + 0x800
        marks = POISON | POISON >> 1
        after = BLOCK + layout.DISTANCE + self.front
        control = Control(
            BLOCK, WINDOW, REACH, marks, 40, self.slots, self.slow, state=self.state, after=after
        )  # fmt: skip
        self.write(layout.CONTROL, control.pack())
        self.write(layout.CODE, self.common.code)
        self.write(*self.ring.open())
        cpu.mem_write(STUB, entry(STUB, self.slow, BLOCK + layout.DISTANCE + self.common.fast))

    def write(self, offset: int, data: bytes) -> None:
        """Write to the block."""
        self.cpu.mem_write(BLOCK + offset, data)

    def read(self, offset: int, size: int) -> bytes:
        """Read from the block."""
        return bytes(self.cpu.mem_read(BLOCK + offset, size))

    def word(self, name: str) -> int:
        """Return a word of the control page."""
        return int.from_bytes(self.read(layout.control_field(name), 8), "little")

    def reasons(self) -> dict[str, int]:
        """Return why accesses went the slow way, as far as any did."""
        counted = layout.reasons(self.read(layout.CONTROL, 4096))
        return {name: count for name, count in counted.items() if count}

    def physical(self, at: int, data: bytes) -> None:
        """Write to physical memory."""
        self.cpu.mem_write(WINDOW + at, data)

    def device(self, data: bytes | None = None) -> bytes:
        """Set what the device has, or return it."""
        if data is not None:
            self.cpu.mem_write(WINDOW + DEVICE_AT, data)
        return bytes(self.cpu.mem_read(WINDOW + DEVICE_AT, 4096 * self.pages))

    def put(self, code: bytes, rip: int) -> Instruction:
        """Put an instruction into the guest's text, and return it."""
        self.cpu.mem_write(rip, code)
        self.cpu.ctl_remove_cache(rip, rip + 16)
        return decode(code + bytes(15), rip, Mode.LONG)

    def enter(self, insn: Instruction) -> Site:
        """Compile an instruction."""
        at = watched(insn)
        site, writes = self.table.enter(insn, bytes(self.cpu.mem_read(at, 8)))
        for offset, data in writes:
            self.write(offset, data)
            self.cpu.ctl_remove_cache(
                BLOCK + layout.DISTANCE + offset, BLOCK + layout.DISTANCE + offset + len(data)
            )
        return site

    def fault(
        self, before: CpuState, linear: int, error: int = 8, fx: bytes | None = None,
        stop: Callable[[int], bool] | None = None,
    ) -> After:  # fmt: skip
        """Take the fault of an access at a linear address, and return what comes of it.

        ``stop`` is asked at each instruction whether to leave off there.
        """
        self.touched.clear()
        top = self._enter(before, linear, error, fx)
        count, slow = self._run(STUB, stop)
        return self._leave(before, top, count, slow, fx is not None)

    def fault_with_nmi(
        self, before: CpuState, linear: int, moment: int, inner: CpuState, other: int
    ) -> tuple[After, After]:
        """Take a fault, and after some instructions another one, of an NMI's handler.

        That one has a stack of its own. Return what comes of both, the inner one first.
        """
        left = moment

        def stop(_address: int) -> bool:
            nonlocal left
            left -= 1
            return left < 0

        cpu = self.cpu
        top = self._enter(before, linear, 8, None)
        self._run(STUB, stop)
        registers = [*_GPR, uc.UC_X86_REG_EFLAGS, uc.UC_X86_REG_CR2]
        rip = cpu.reg_read(uc.UC_X86_REG_RIP)
        kept = [cpu.reg_read(register) for register in registers]
        gpr = list(inner.gpr)
        gpr[RSP] = STACK + 0x3008
        nested = self.fault(replace(inner, gpr=tuple(gpr)), other)
        gpr = list(nested.cpu.gpr)
        gpr[RSP] = inner.gpr[RSP]
        nested = replace(nested, cpu=replace(nested.cpu, gpr=tuple(gpr)))
        for register, value in zip(registers, kept, strict=True):
            cpu.reg_write(register, value)
        count, slow = self._run(rip)
        return nested, self._leave(before, top, count, slow, False)

    def _enter(self, before: CpuState, linear: int, error: int, fx: bytes | None) -> int:
        # Puts the CPU where it is when the stub is entered; returns RSP.
        cpu = self.cpu
        if fx is not None:
            load_fx(cpu, fx)
        for register, value in zip(_GPR, before.gpr, strict=True):
            cpu.reg_write(register, value)
        top = (before.gpr[RSP] & -16) - _FRAME.size
        frame = _FRAME.pack(error, before.rip, 0x10 | before.cpl, before.rflags, before.gpr[RSP], 0)
        cpu.mem_write(top, frame)
        cpu.reg_write(uc.UC_X86_REG_RSP, top)
        cpu.reg_write(uc.UC_X86_REG_EFLAGS, 2)
        cpu.reg_write(uc.UC_X86_REG_CR2, linear)
        cpu.reg_write(uc.UC_X86_REG_CR3, self.cr3)
        return top

    def _leave(self, before: CpuState, top: int, count: int, slow: bool, with_fx: bool) -> After:
        cpu = self.cpu
        bottom = cpu.reg_read(uc.UC_X86_REG_RSP)
        gpr = [cpu.reg_read(register) for register in _GPR]
        if slow:
            assert bottom == top, "the slow way has another stack"
        else:
            bottom -= 8  # no error code any more
        left = _FRAME.unpack(cpu.mem_read(bottom, _FRAME.size))
        gpr[RSP] = left[4]
        fx_after = store_fx(cpu) if with_fx else b""
        after = CpuState(tuple(gpr), left[1], left[3], before.cpl)
        return After(slow, after, fx_after, count, left[0])

    def taken(self) -> list[Raw]:
        """Take the committed records, and let the guest go on."""
        records: list[Raw] = []
        while True:
            offset, size = self.ring.span(self.word("HEAD"))
            taken = self.ring.take(self.read(offset, size))
            if not taken:
                break
            records += raws(self.read(offset, taken))
        self.write(*self.ring.open())
        return records

    def _run(self, start: int, stop: Callable[[int], bool] | None = None) -> tuple[int, bool]:
        # Runs to IRETQ, which is counted, or to the stub's stop, or to where it is to leave off.
        cpu, count = self.cpu, 0
        ended = []

        def step(_cpu: unicorn.Uc, address: int, size: int, _data: object) -> None:
            nonlocal count
            if stop is not None and stop(address):
                ended.append(False)
                cpu.emu_stop()
                return
            count += 1
            if address == self.slow or (size == 2 and cpu.mem_read(address, 2) == b"\x48\xcf"):
                ended.append(address == self.slow)
                cpu.emu_stop()

        hook = cpu.hook_add(unicorn.UC_HOOK_CODE, step)
        try:
            cpu.emu_start(start, 0, count=5000)
        finally:
            cpu.hook_del(hook)
        assert ended, (
            f"neither IRETQ nor the stop was reached: {cpu.reg_read(uc.UC_X86_REG_RIP):#x}"
        )
        return count, ended[0]

    def _touch(
        self, _cpu: unicorn.Uc, kind: int, address: int, size: int, value: int, _data: object
    ) -> None:
        offset = address - WINDOW - DEVICE_AT
        if self.on_touch is not None:
            self.on_touch()
        if kind == unicorn.UC_MEM_WRITE:
            value &= (1 << 8 * size) - 1
            self.touched.append(("write", offset, size, value))
        else:
            data = self.cpu.mem_read(address, size)
            self.touched.append(("read", offset, size, int.from_bytes(data, "little")))


class Native:
    """The same instructions on plain RAM, where the others have their device and its pages."""

    def __init__(self, linear: int, pages: int, text: int) -> None:
        self.linear, self.size = linear, 4096 * pages
        cpu = self.cpu = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
        cpu.ctl_set_tlb_mode(unicorn.UC_TLB_VIRTUAL)
        cpu.mem_map(linear, self.size)
        for base in (DATA, STACK, text):
            cpu.mem_map(base, 0x4000)
        prepare_fx(cpu)

    def run(self, code: bytes, before: CpuState, fx: bytes, memory: bytes) -> tuple[After, bytes]:
        """Run one instruction, or one iteration; return what is left, and the memory."""
        cpu = self.cpu
        cpu.mem_write(before.rip, code + b"\x90" * 4)
        cpu.ctl_remove_cache(before.rip, before.rip + 32)
        cpu.mem_write(self.linear, memory)
        load_fx(cpu, fx)
        for register, value in zip(_GPR, before.gpr, strict=True):
            cpu.reg_write(register, value)
        cpu.reg_write(uc.UC_X86_REG_FS_BASE, before.segments.fs_base)
        cpu.reg_write(uc.UC_X86_REG_GS_BASE, before.segments.gs_base)
        cpu.reg_write(uc.UC_X86_REG_EFLAGS, before.rflags)
        cpu.emu_start(before.rip, before.rip + 0x800, count=1)
        gpr = tuple(cpu.reg_read(register) for register in _GPR)
        rip, flags = (cpu.reg_read(n) for n in (uc.UC_X86_REG_RIP, uc.UC_X86_REG_EFLAGS))
        left = bytes(cpu.mem_read(self.linear, self.size))
        return After(False, CpuState(gpr, rip, flags), store_fx(cpu), 1), left
