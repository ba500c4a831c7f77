"""Trials on a TDX guest's handler of #VE: it fetches what that is about, and asks by TDCALL."""

from __future__ import annotations

from dataclasses import replace

from tracer.access.vcpu import Change, SetRegister
from tracer.confidential import tdx_module
from tracer.confidential.request import Give, Mmio
from tracer.confidential.tdx_module import EPT_VIOLATION
from tracer.confidential.tdx_state import VeInfo
from tracer.confidential.trial import Ground, Trial
from tracer.intercept.below.trust_domain import CALL, TrustDomain
from tracer.intercept.entry.gate import PageFaultGate
from tracer.intercept.fault import Fault
from tracer.x86.state import GPR, VIRTUALIZATION_VECTOR, PageFaultCode

_DEVICE, _USER, _PHYSICAL, _SPAN = 0xFFFF_C900_0010_0000, 0x7F00_0000_0000, 0xFE00_0000, 1 << 20
"""Operands are here, and the guest is told so. Nothing has to be there, as its handler looks no
address up."""


class VeTrials:
    """Tell a TDX guest of trials, in place of the ``domain``, its TDX module."""

    call = CALL
    counted = "ve"

    def __init__(self, domain: TrustDomain) -> None:
        self._domain = domain
        self._vcpu = 0

    def meets(self, fault: Fault) -> bool:
        """Tell whether a fault is one on what the guest shares with its host, and no RAM."""
        leaf = fault.space.leaf(fault.spill.cr2)
        return (
            bool(fault.spill.frame.error_code & PageFaultCode.RSVD)
            and leaf is not None
            and fault.space.paging.shares(leaf)
            and not fault.space.regions.is_ram(leaf.translate(fault.spill.cr2))
        )

    def ground(self, fault: Fault, code: int, stack: int) -> Ground:
        """Return where there is room for trials."""
        self._vcpu = fault.vcpu
        return Ground(code, stack, _DEVICE, _USER, _PHYSICAL, _SPAN)

    def follows(self, trial: Trial, fault: Fault) -> bool:
        """Tell that a handler makes no access itself."""
        return False

    async def tell(self, fault: Fault, gate: PageFaultGate, physical: int) -> list[Change]:
        """Raise #VE, and have the module know what it is about."""
        domain = self._domain
        info = VeInfo(EPT_VIOLATION, 1, fault.spill.cr2, physical | domain.state.shared_bit)
        domain.state = domain.state.with_pending(fault.vcpu, info)
        place = await gate.raising(fault.space, fault.vcpu, VIRTUALIZATION_VECTOR)
        return [SetRegister("rip", place)]

    def answer(self, fault: Fault, value: int) -> tuple[Mmio | None, list[Change]]:
        """Answer a TDCALL."""
        registers = dict(zip(GPR, fault.spill.gpr, strict=True))
        done = tdx_module.answer(self._domain.state, fault.vcpu, registers)
        asked = None
        if done.event.waits and isinstance(done.event.request, Mmio):
            asked = done.event.request
            done = tdx_module.reply(done.state, done.event, Give(value))
        self._domain.state = done.state
        cpu = fault.cpu
        gpr = tuple(done.changes.get(name, old) for name, old in zip(GPR, cpu.gpr, strict=True))
        fault.cpu = replace(cpu, gpr=gpr, rip=cpu.rip + len(CALL))
        return asked, fault.write_back()

    def leave(self) -> None:
        """Have the module know of no #VE."""
        self._domain.state = self._domain.state.with_pending(self._vcpu, None)
