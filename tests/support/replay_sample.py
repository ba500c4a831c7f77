"""Records of instructions that were really carried out, by the emulator, on made-up devices."""

from __future__ import annotations

from collections.abc import Mapping

import trace_sample as sample

from tracer.access.transfer import cut
from tracer.trace.record import Intercept, MemoryAccess, Record
from tracer.trace.registers import changed_values, register_values
from tracer.x86.bus import In, Load, PortAccess
from tracer.x86.decode import decode
from tracer.x86.emulate import execute
from tracer.x86.instruction import Instruction
from tracer.x86.state import GPR, CpuState, Mode, Segments

RIP = 0xFFFFFFFF81234567
LINEAR = 0xFFFFC90000000000  # of physical 0, as in trace_sample
READ = 0x1122334455667788


def cpu(xmm: tuple[int, ...] = (), fs_base: int = 0, **registers: int) -> CpuState:
    """Make a state with these registers; the others hold what tells them apart."""
    values = [registers.get(name, 0x0101010101010101 * n) for n, name in enumerate(GPR)]
    return CpuState(
        gpr=tuple(values), rip=RIP, rflags=0x202, xmm=xmm, segments=Segments(fs_base=fs_base)
    )


def record(seq: int, code: str, before: CpuState, read: int = READ) -> Intercept:
    """Carry an instruction out on the NVMe region and record it; every load reads ``read``."""
    insn = decode(bytes.fromhex(code), RIP, Mode.LONG)
    accesses: list[MemoryAccess] = []
    emulation = execute(insn, before)
    for access in emulation:
        value = read if isinstance(access, Load | In) else access.value
        value &= (1 << 8 * access.width) - 1
        if isinstance(access, Load | In):
            emulation.answer = value
        if isinstance(access, PortAccess):
            continue
        for linear, width in cut(access.linear, access.width):
            part = value >> 8 * (linear - access.linear) & (1 << 8 * width) - 1
            offset = linear - LINEAR - sample.START["nvme"]
            direction = "read" if isinstance(access, Load) else "write"
            accesses.append(sample.device("nvme", offset, width, direction, part))
    return _made(seq, insn, before, emulation.after, accesses)


def _made(
    seq: int, insn: Instruction, before: CpuState, after: CpuState, accesses: list[MemoryAccess]
) -> Intercept:
    return Intercept(
        seq=seq,
        time_ns=seq * 1000,
        vcpu=0,
        cpl=0,
        mode=64,
        rip=RIP,
        symbol="nvme_pci_enable+0x5e",
        code=insn.code,
        text=insn.text,
        cr2=accesses[0].linear,
        error_code=0x9 if accesses[0].direction == "read" else 0xB,
        via="emulated",
        accesses=accesses,
        before=register_values(before, insn),
        after=changed_values(before, after),
    )


NVME = LINEAR + sample.START["nvme"]

CODES: Mapping[str, CpuState] = {
    "8b401c": cpu(rax=NVME),  # mov eax, [rax + 0x1c]
    "8908": cpu(rax=NVME + 0x14),  # mov [rax], ecx
    "8a6001": cpu(rax=NVME),  # mov ah, [rax + 1]
    "0fbe10": cpu(rax=NVME),  # movsx edx, byte [rax]
    "830805": cpu(rax=NVME),  # or dword [rax], 5
    "f00fc108": cpu(rax=NVME),  # lock xadd [rax], ecx
    "f3ab": cpu(rdi=NVME, rcx=7),  # rep stosd, one iteration
    "64488b08": cpu(rax=0x40, fs_base=NVME),  # mov rcx, fs:[rax]
    "660f6f10": cpu(rax=NVME, xmm=tuple(range(16))),  # movdqa xmm2, [rax]
    "f30f7f18": cpu(rax=NVME + 0xFF9, xmm=tuple(1 << 100 + n for n in range(16))),  # movdqu
    "8c18": cpu(rax=NVME),  # mov [rax], ds
    "f36d": cpu(rdi=NVME + 0xFFE, rcx=2, rdx=0x71),  # rep insd, over the end of a page
    "666f": cpu(rsi=NVME + 2, rdx=0x71),  # outsw
}
"""Instructions of every kind that a record must hold enough for, and the state before each."""


def records() -> list[Intercept]:
    """Return a record for each instruction, numbered as a trace numbers them."""
    made: list[Intercept] = []
    seq = 0
    for code, before in CODES.items():
        made.append(record(seq, code, before))
        seq += len(made[-1].accesses)
    return made


def trace() -> list[Record]:
    """Return the records of a whole trace."""
    intercepts = records()
    last = intercepts[-1]
    return [sample.region("nvme"), *intercepts, sample.end(last.seq + len(last.accesses))]
