"""A CPU that runs a routine of the monitor's: the real bytes in Unicorn, and a device in memory.

Linear addresses are physical ones to it, as they are to the monitor. The guest's are looked up by
its own tables, in the monitor's code.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from types import MappingProxyType

import common_image
import unicorn
from ram import ROOT, Ram
from unicorn import x86_const as uc

from tracer.compiled import layout, monitor
from tracer.compiled.layout import Control

BLOCK, VMCB = 0x100_0000, 0x200_0000
DEVICE_AT, RAM_SIZE = 0xFEB0_0000, 0x40_0000
_RETURN = 0x300_0000
_NAMES = "rax", "rbx", "rcx", "rdx", "r9", "r10", "r13", "r15"
_GPR = {name: getattr(uc, f"UC_X86_REG_{name.upper()}") for name in _NAMES}


class MonitorCpu:
    """Run routines by their labels; ``touched`` are the addresses at which the device was read.

    ``ram`` is the guest's, to be filled before, ``words`` the monitor's own that are not 0.
    """

    def __init__(
        self,
        ram: Ram,
        *,
        cr0: int = 1 << 31,
        efer: int = 1 << 10,
        cr4: int = 0,
        cpl: int = 0,
        rip: int = 0,
        words: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self.touched: list[int] = []
        code, self._labels = common_image.assemble_monitor(
            stacks=True, labels=("run", "translate", "leaf", "describe")
        )
        cpu = self._cpu = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
        for start, size in (
            (0, RAM_SIZE), (BLOCK, 0x10_0000), (VMCB, 0x4000), (_RETURN, 0x1000),
            (DEVICE_AT, 0x2000),
        ):  # fmt: skip
            cpu.mem_map(start, size)
        cpu.mem_write(0, bytes(ram.data))
        control = Control(0, 0, 0, 1 << 51, 40, 16, 0).pack()
        cpu.mem_write(BLOCK, control)
        cpu.mem_write(BLOCK + monitor.PLACE, code)
        cpu.mem_write(BLOCK + layout.RAM, layout.pack_ram([range(RAM_SIZE // 2, RAM_SIZE),
                                                           range(RAM_SIZE // 2)]))  # fmt: skip
        for name, word in words.items():
            cpu.mem_write(BLOCK + monitor.word(name), struct.pack("<Q", word))
        cpu.mem_write(DEVICE_AT, b"\xee" * 0x2000)
        for place, value in ((0x558, cr0), (0x4D0, efer), (0x548, cr4), (0x550, ROOT)):
            cpu.mem_write(VMCB + place, struct.pack("<Q", value))
        cpu.mem_write(VMCB + 0x578, struct.pack("<Q", rip))
        cpu.mem_write(VMCB + 0x4CB, bytes([cpl]))
        cpu.hook_add(unicorn.UC_HOOK_MEM_READ, self._touch, None, DEVICE_AT, DEVICE_AT + 0x1FFF)

    def call(self, label: str, **registers: int) -> bool:
        """Call a routine; tell whether it has set CF."""
        cpu = self._cpu
        for name, value in {**registers, "r15": VMCB}.items():
            cpu.reg_write(_GPR[name], value)
        cpu.mem_write(VMCB + 0x3FF8, struct.pack("<Q", _RETURN))
        cpu.reg_write(uc.UC_X86_REG_RSP, VMCB + 0x3FF8)
        cpu.emu_start(BLOCK + monitor.PLACE + self._labels[label], _RETURN, count=10_000)
        assert cpu.reg_read(uc.UC_X86_REG_RIP) == _RETURN
        return bool(cpu.reg_read(uc.UC_X86_REG_EFLAGS) & 1)

    def register(self, name: str) -> int:
        """Return a register as the routine has left it."""
        return int(self._cpu.reg_read(_GPR[name]))

    def read(self, at: int, size: int) -> bytes:
        """Return bytes at a physical address."""
        return bytes(self._cpu.mem_read(at, size))

    def _touch(self, _cpu: object, _kind: int, address: int, *_more: object) -> None:
        self.touched.append(address)
