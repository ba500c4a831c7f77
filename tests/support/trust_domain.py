"""A guest of TDX for playbooks: what its kernel faults on, and what it calls for."""

from __future__ import annotations

from calling import ASKING, CALLER, OUTER, Calling, gate_to
from playbook import Step
from ram import POISON, ROOT
from scene import (
    AT,
    CODE,
    DEVICE,
    HANDLER,
    IDT_AT,
    READ,
    Names,
    set_rip,
)

from tracer.access.decision import Go
from tracer.access.space import AddressSpace
from tracer.access.want import (
    AskCalled,
    WriteCode,
)
from tracer.confidential.handler import CURRENT, PROFILES
from tracer.intercept.below.firmware import Intercepted
from tracer.intercept.below.trust_domain import CALL, TrustDomain
from tracer.intercept.entry.stub import CALLED
from tracer.trace.record import Intercept
from tracer.x86.paging import Paging

SHARED = 1 << 47
RAM, RAM_AT = 0xFFFF_C900_0003_0000, 0x25_0000
MMIO = {"rax": 0, "rcx": 0xFFCC, "r10": 0, "r11": 48}
READS, WRITES = "8b 41 1c", "89 41 14"  # mov eax, [rcx + 0x1c]; mov [rcx + 0x14], eax


def _asks_about_the_call(step: Step) -> bool:
    return step[0] is AskCalled


class Domain(Calling):
    """A scene whose guest is one of TDX: its device is mapped shared, at AT."""

    def __init__(self) -> None:
        super().__init__()
        for page in range(2):
            self.ram.map(AT + 0x1000 * page, DEVICE + 0x1000 * page | SHARED)
        self.ram.map(RAM, RAM_AT | SHARED)
        self.ram.write(IDT_AT + 20 * 16, gate_to(HANDLER + 0x80))
        self.view.shared = SHARED
        self.plant(CALL)
        self.domain = self.interceptor.firmware = TrustDomain(
            self.interceptor,
            self.view,
            Names(),  # type: ignore[arg-type]
            self.journal,
            PROFILES[CURRENT],
        )

    @property
    def space(self) -> AddressSpace:
        return AddressSpace(self.ram, Paging(ROOT, 4, POISON, SHARED), self.view.regions)

    def faults(
        self, code: str, linear: int, error: int = READ, *, stack: int = OUTER, vcpu: int = 0,
        rip: int = CODE, **registers: int,
    ) -> None:  # fmt: skip
        """Let an instruction come upon what is shared; its handler is entered."""
        self.moment += 1
        self.fault(code, linear, error, stack=stack, rip=rip, tsc=self.moment, **registers)
        steps: tuple[Step, ...] = () if self.entered else ((WriteCode, self.write_code),)
        self.entered = True
        done = self.play(*steps, stack=stack, vcpu=vcpu)
        assert done.changes == (set_rip(self.stub.raising),)

    def calls(
        self, *steps: Step, stack: int = OUTER, vcpu: int = 0, rflags: int = 0x46, **registers: int
    ) -> dict[str, int]:
        """Let the handler of a fault call; return the registers that it finds."""
        self.moment += 1
        place = self.fault(
            CALL.hex(), 0, CALLED, stack=stack - ASKING, rip=CALLER, tsc=self.moment,
            rflags=rflags, **registers,
        )  # fmt: skip
        if self.interceptor.asks and not any(_asks_about_the_call(step) for step in steps):
            steps = ((AskCalled, Go()), *steps)
        done = self.play(*steps, stack=place, vcpu=vcpu)
        return self.found(done, place)

    def found(self, done: Intercepted, stack: int) -> dict[str, int]:
        after = self.after(done, stack)
        assert not after.others
        return after.registers

    def fetches(self, **where: int) -> dict[str, int]:
        """Let the handler fetch what its #VE is about."""
        return self.calls(rax=3, **where)

    def asks(
        self, *steps: Step, physical: int, width: int = 4, write: int | None = None, **where: int
    ) -> dict[str, int]:
        """Let the handler ask for an access."""
        made = {"r12": width, "r13": write is not None, "r14": physical | SHARED, "r15": write or 0}
        return self.calls(*steps, **MMIO, **made, **where)

    def accesses_of(self, record: Intercept) -> list[tuple[str, int, int, int | None]]:
        return [(made.direction, made.physical, made.width, made.value) for made in record.accesses]

    @property
    def counts_of_all(self) -> dict[str, int]:
        return dict(self.journal.counts)


REG = DEVICE + 0x1C
