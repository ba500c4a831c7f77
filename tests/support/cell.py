"""Drive one execution against a dictionary of memory cells."""

from __future__ import annotations

from dataclasses import dataclass, field

from tracer.x86.bus import Access, In, Load, Store
from tracer.x86.decode import decode
from tracer.x86.emulate import execute
from tracer.x86.state import GPR, CpuState, Mode

RIP = 0x40_0000
AT = 0x1_0000
"""Where tests point RBX."""


@dataclass
class Ran:
    """Hold what an execution did: the state afterwards and the accesses in order."""

    cpu: CpuState
    accesses: list[Access] = field(default_factory=list)

    def __getattr__(self, name: str) -> int:
        return self.cpu.gpr[GPR.index(name)]

    @property
    def stored(self) -> int:
        """Return the value of the only store."""
        (store,) = [access for access in self.accesses if isinstance(access, Store)]
        return store.value


def state(mode: Mode = Mode.LONG, flags: int = 0, **registers: int) -> CpuState:
    """Make a state with RBX at AT and the named registers set; 2 is RFLAGS' fixed bit."""
    known = {"rbx": AT, "rsp": 0x2_0000} | registers
    gpr = tuple(known.get(name, 0) for name in GPR)
    return CpuState(gpr=gpr, rip=RIP, rflags=flags | 2, mode=mode)


def run(code: str, cpu: CpuState, *loads: int) -> Ran:
    """Execute the instruction in hex, answering its loads, and reads of ports, in order."""
    insn = decode(bytes.fromhex(code), cpu.rip, cpu.mode)
    ran = Ran(cpu)
    answers = iter(loads)
    emulation = execute(insn, cpu)
    for access in emulation:
        ran.accesses.append(access)
        if isinstance(access, Load | In):
            emulation.answer = next(answers)
    ran.cpu = emulation.after
    assert not list(answers), "not every load was made"
    return ran
