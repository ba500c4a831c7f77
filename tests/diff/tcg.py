"""Unicorn, QEMU's TCG as a library, as an oracle: 64-bit, 32-bit and 16-bit code.

Unicorn 2 is QEMU 5.0. What it has wrong or lacks, each checked against the host CPU, is listed in
:func:`knows`; those forms and shapes are left to the other oracle.
"""

from __future__ import annotations

import unicorn
from unicorn import x86_const as uc

from tests.diff import shape
from tests.diff.case import Case
from tests.diff.compare import Fault, Result, port_value
from tests.diff.native import CODE, DATA, LOW, LOW_CODE, PATTERN, RAM_SIZE
from tracer.x86.decode import decode
from tracer.x86.forms import Form, Unit
from tracer.x86.instruction import Immediate, Memory
from tracer.x86.state import GPR, CpuState, Mode

_GPR = {
    Mode.LONG: [getattr(uc, f"UC_X86_REG_{name.upper()}") for name in GPR],
    Mode.COMPAT32: [getattr(uc, f"UC_X86_REG_E{name[1:].upper()}") for name in GPR[:8]],
}
_GPR[Mode.COMPAT16] = _GPR[Mode.COMPAT32]
_RIP = {
    Mode.LONG: uc.UC_X86_REG_RIP, Mode.COMPAT32: uc.UC_X86_REG_EIP,
    Mode.COMPAT16: uc.UC_X86_REG_IP,
}  # fmt: skip
_XMM = [getattr(uc, f"UC_X86_REG_XMM{n}") for n in range(16)]
_MODES = {
    Mode.LONG: unicorn.UC_MODE_64, Mode.COMPAT32: unicorn.UC_MODE_32,
    Mode.COMPAT16: unicorn.UC_MODE_16,
}  # fmt: skip

_OSFXSR = 3 << 9
# These take 66 for 16 bits and its absence for 32 in 16-bit code too; iced and the manuals do not.
_WIDE = frozenset(("movbe", "popcnt", "crc32"))

_UNKNOWN = frozenset(
    ("adcx", "adox", "movdiri", "movdir64b", "clwb", "clflushopt", "bextr", "bzhi", "blsi", "rorx",
     "movntss", "movntsd", "pcmpestri", "pcmpestrm", "pcmpistri", "pcmpistrm")
)  # fmt: skip


def knows(form: Form, mode: Mode) -> bool:
    """Tell whether unicorn executes a form, and executes it right.

    It lacks AVX, ADX, SHA, GF(2^8), SSE4a, MOVDIRI, CMPccXADD and TEST by /1; BEXTR and BZHI clear
    a bit too many, BLSI inverts CF, RORX forgets its immediate in a RIP-relative address, and
    PCMPESTRI finds no empty string. The x87 stack is not set here.
    """
    if form.only == ("i64" if mode is Mode.LONG else "o64"):
        return False
    if mode is Mode.COMPAT16 and (form.size64 or form.opcode.vex or form.name in _WIDE):
        return False  # stack forms are none of the emulator's; real mode has no VEX
    if form.unit in (Unit.X87, Unit.MMX) or (form.opcode.vex and form.unit is Unit.SSE):
        return False
    if form.name.endswith("xadd") and form.name != "xadd":
        return False
    if form.opcode.text in ("F6 /1", "F7 /1", "8C"):
        return False
    return form.name not in _UNKNOWN and not form.name.startswith(("sha", "gf2p8"))


def trusted(case: Case) -> bool:
    """Tell whether unicorn executes this very case right.

    LOCK NEG computes flags of a value it has already stored; SHLD and SHRD forget the immediate in
    a RIP-relative address; RET takes its immediate for a signed one. Of prefixes, a null override
    cancels FS and GS for it, a void REX counts, and both F2 and F3 do.
    """
    if case.cpu.mode is Mode.LONG and (shape.cancels(case.code) or shape.is_void(case.code)):
        return False
    if shape.repeats_both_ways(case.code):
        return False
    insn = decode(case.code, case.cpu.rip, case.cpu.mode)
    assert insn.form is not None
    if insn.form.name == "neg" and insn.lock:
        return False
    if insn.form.name == "ret" and any(
        isinstance(o, Immediate) and o.value >> 15 for o in insn.operands
    ):
        return False
    relative = any(isinstance(o, Memory) and o.rip_relative for o in insn.operands)
    immediate = bool(insn.operands) and isinstance(insn.operands[-1], Immediate)
    return not (relative and immediate and insn.form.name in ("shld", "shrd"))


class Unicorn:
    """Hold one unicorn CPU, reused for every case of its mode."""

    def __init__(self, mode: Mode) -> None:
        self.mode = mode
        self.cpu = unicorn.Uc(unicorn.UC_ARCH_X86, _MODES[mode])
        self.cpu.mem_map(LOW_CODE if mode is Mode.COMPAT16 else CODE, 0x1000)
        self.cpu.mem_map(DATA, RAM_SIZE)
        self.cpu.mem_map(LOW, RAM_SIZE)
        self.cpu.reg_write(uc.UC_X86_REG_CR4, _OSFXSR)
        self._out: list[tuple[int, int, int]] = []
        self.cpu.hook_add(unicorn.UC_HOOK_INSN, self._read_port, aux1=uc.UC_X86_INS_IN)
        self.cpu.hook_add(unicorn.UC_HOOK_INSN, self._write_port, aux1=uc.UC_X86_INS_OUT)

    def _read_port(self, _cpu: object, port: int, width: int, _user: object) -> int:
        return port_value(port, width)

    def _write_port(self, _cpu: object, port: int, width: int, value: int, _user: object) -> None:
        self._out.append((port, width, value))

    def run(self, case: Case) -> Result | Fault:
        """Run a case: one iteration of a REP instruction."""
        machine, cpu = self.cpu, case.cpu
        self._out.clear()
        registers = _GPR[self.mode]
        start = cpu.rip
        machine.ctl_remove_cache(start, start + 64)
        machine.mem_write(start, case.code + b"\x90" * 16)
        machine.mem_write(case.base, PATTERN)
        for linear, value in case.ram.items():
            machine.mem_write(linear, value)
        for register, value in zip(registers, cpu.gpr, strict=False):
            machine.reg_write(register, value)
        for register, value in zip(_XMM[: len(registers)], cpu.xmm, strict=False):
            machine.reg_write(register, value)
        if self.mode is Mode.LONG:
            machine.reg_write(uc.UC_X86_REG_FS_BASE, cpu.segments.fs_base)
            machine.reg_write(uc.UC_X86_REG_GS_BASE, cpu.segments.gs_base)
        machine.reg_write(uc.UC_X86_REG_EFLAGS, cpu.rflags)
        rip = _RIP[self.mode]
        insn = decode(case.code, start, self.mode)
        try:
            machine.emu_start(start, start + 0x800, count=1)
            count = machine.reg_read(registers[1]) & ((1 << 8 * insn.address_size) - 1)
            if insn.rep and machine.reg_read(rip) == start and not count:
                # TCG finds out that the count is 0 only when it comes back to the instruction.
                machine.emu_start(start, start + 0x800, count=1)
        except unicorn.UcError as error:
            return Fault(str(error))
        if machine.reg_read(rip) == start and not insn.rep:
            return Fault("exception")  # without an IDT unicorn just stops there
        gpr = [machine.reg_read(register) for register in registers]
        xmm = [machine.reg_read(register) for register in _XMM[: len(registers)]]
        after = CpuState(
            (*gpr, *cpu.gpr[len(gpr) :]), machine.reg_read(rip),
            machine.reg_read(uc.UC_X86_REG_EFLAGS), xmm=(*xmm, *cpu.xmm[len(xmm) :]),
            ymm=cpu.ymm,
        )  # fmt: skip
        return Result(after, bytes(machine.mem_read(case.base, RAM_SIZE)), tuple(self._out))
