"""A CPU that runs the TDX module's guest code: :mod:`compiled_cpu`, with its two gates.

The guest's device is mapped shared: what a leaf leads to has the shared bit.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

from compiled_cpu import BLOCK, DEVICE, DEVICE_AT, RAM_SIZE, STACK, STUB, TEXT, Compiled
from ram import POISON
from unicorn import x86_const as uc

from tracer.compiled import layout
from tracer.compiled.module import ModuleControl, module_code
from tracer.compiled.pending import (
    PLACE,
    SIZE,
    Faults,
    information_place,
    unpack_information,
)
from tracer.compiled.sites import Write
from tracer.x86.idt import GATE_SIZE, Gate, pack_gate
from tracer.x86.paging import PRESENT, WRITABLE
from tracer.x86.state import GPR, RAX, RSP, VIRTUALIZATION_VECTOR, CpuState

SHARED = 1 << 47
SLOW, HANDLER, BEHIND, HALT = (STUB + place for place in (0x800, 0x900, 0xA00, 0xB00))
"""The code leaves by IRETQ, or to these linear addresses in the stub's pages."""
IDT = STUB + 0x6000
_FRAME = struct.Struct("<6Q")
_GPR = [getattr(uc, f"UC_X86_REG_{name.upper()}") for name in GPR]
TDCALL = bytes.fromhex("660f01cc")


@dataclass(frozen=True)
class Left:
    """Hold where the code went: "iretq", "handler", "behind", "halt" or "slow", and with what.

    ``frame`` is what RSP leads to, from RIP on; ``error`` what is below it, if that is there yet.
    """

    to: str
    gpr: tuple[int, ...]
    frame: tuple[int, ...]
    error: int | None


class ModuleGuest(Compiled):
    """Hold a guest of TDX; :meth:`page_fault` and :meth:`tdcall` enter its gates."""

    def _start(self) -> None:
        for linear, entry in self.leaves.items():
            flags = SHARED | PRESENT | WRITABLE
            self.ram.write(entry, struct.pack("<Q", DEVICE_AT + linear - self.linear | flags))
        super()._start()
        self.module = module_code()
        self.control = ModuleControl(
            shared_bit=SHARED,
            marks=POISON | POISON >> 1,
            levels=5 if self.la57 else 4,
            behind=BEHIND,
            halt=HALT,
            ram=[range(0, 0xA_0000), range(0x10_0000, RAM_SIZE)],
        )
        gate = Gate(HANDLER, 0x8E << 40 | 0x10 << 16, 0)
        self.cpu.mem_write(IDT + GATE_SIZE * VIRTUALIZATION_VECTOR, pack_gate(gate))
        self.cpu.reg_write(uc.UC_X86_REG_IDTR, (0, IDT, 0xFFF, 0))
        self.write(layout.MODULE_DATA, self.control.pack())
        self.write(layout.MODULE, self.module.code)

    def page_fault(self, before: CpuState, linear: int, error: int = 8) -> Left:
        """Enter the gate of #PF."""
        return self._gate(self.module.fault, before, [error], linear)

    def tdcall(self, before: CpuState) -> Left:
        """Enter the gate of #UD."""
        return self._gate(self.module.tdcall, before, [], 0)

    def faults(self) -> Faults:
        """Return the faults that wait for their hypercalls."""
        return Faults(self.read(PLACE, SIZE))

    def information(self, vcpu: int = 0) -> tuple[int, ...] | None:
        """Return what TDG.VP.VEINFO.GET will tell."""
        return unpack_information(self.read(*information_place(vcpu)))

    def put_all(self, writes: list[Write]) -> None:
        """Write to the block what vetrace would."""
        for offset, data in writes:
            self.write(offset, data)

    def _gate(self, place: int, before: CpuState, error: list[int], linear: int) -> Left:
        cpu = self.cpu
        self.touched.clear()
        for register, value in zip(_GPR, before.gpr, strict=True):
            cpu.reg_write(register, value)
        frame = [before.rip, 0x10, before.rflags, before.gpr[RSP], 0x18]
        top = (before.gpr[RSP] & -16) - 8 * len(frame)
        cpu.mem_write(top, struct.pack("<5Q", *frame))
        if error:
            top -= 8
            cpu.mem_write(top, struct.pack("<Q", *error))
        cpu.reg_write(uc.UC_X86_REG_RSP, top)
        cpu.reg_write(uc.UC_X86_REG_EFLAGS, 2)
        cpu.reg_write(uc.UC_X86_REG_CR2, linear)
        cpu.reg_write(uc.UC_X86_REG_CR3, self.cr3)
        start = BLOCK + layout.DISTANCE + place
        return self._left(start, top + 8 * len(error))

    def _left(self, start: int, frame_at: int) -> Left:
        cpu = self.cpu
        ends = {SLOW: "slow", HANDLER: "handler", BEHIND: "behind", HALT: "halt"}
        where: list[str] = []

        def step(address: int) -> bool:
            if address in ends:
                where.append(ends[address])
            elif cpu.mem_read(address, 2) == b"\x48\xcf":
                where.append("iretq")
            return bool(where)

        self._run(start, step)
        bottom = cpu.reg_read(uc.UC_X86_REG_RSP)
        gpr = [cpu.reg_read(register) for register in _GPR]
        error = None
        if where[0] in ("slow", "behind"):
            error = int.from_bytes(cpu.mem_read(bottom, 8), "little")
            bottom += 8
        assert bottom == frame_at, "RSP is elsewhere"
        frame = struct.unpack("<5Q", cpu.mem_read(bottom, 40))
        gpr[RSP] = frame[3]
        return Left(where[0], tuple(gpr), frame, error)


def asking(
    rsp: int, physical: int, width: int = 4, write: bool = False, value: int = 0, **changes: int
) -> CpuState:
    """Return the registers of a hypercall for MMIO."""
    gpr = {name: 0x5500 + number for number, name in enumerate(GPR)}
    gpr |= {
        "rax": 0, "rcx": 0xFFCC, "rsp": rsp, "r10": 0, "r11": 48, "r12": width, "r13": int(write),
        "r14": physical | SHARED, "r15": value,
    }  # fmt: skip
    gpr |= {name: changes.pop(name) for name in [*changes] if name in gpr}
    return CpuState(tuple(gpr.values()), TEXT + 0x800, **{"rflags": 2, **changes})


def with_rsp(cpu: CpuState, rsp: int) -> CpuState:
    """Return the state with another stack pointer."""
    gpr = list(cpu.gpr)
    gpr[RSP] = rsp
    return replace(cpu, gpr=tuple(gpr))


__all__ = ["DEVICE", "RAX", "STACK", "Left", "ModuleGuest", "asking", "with_rsp"]
