"""Trials on an SEV-ES guest's handler of #VC: it looks addresses up itself, and asks by VMGEXIT.

So a device has to be mapped where operands are: the one that the guest was borrowed at is, and
once more in user space, in an unused slot of the root table that leads to the same tables below.

Ref: Linux arch/x86/coco/sev/vc-handle.c `vc_slow_virt_to_phys` (walks the tables of CR3, whoever
may use them), `vc_handle_mmio_movs` (makes both accesses itself).
"""

from __future__ import annotations

from dataclasses import replace

from tracer.access.space import AddressSpace
from tracer.access.vcpu import Change
from tracer.confidential import sev_host
from tracer.confidential.ghcb import VMGEXIT
from tracer.confidential.request import Give, Mmio
from tracer.confidential.sev_state import patched
from tracer.confidential.trial import Ground, Trial
from tracer.errors import InterceptError
from tracer.intercept.below.encrypted_guest import PROTOCOL, EncryptedGuest
from tracer.intercept.entry.gate import PageFaultGate
from tracer.intercept.fault import Fault
from tracer.x86.paging import USER_SLOTS, steps
from tracer.x86.state import PAGE_SIZE, PageFaultCode


class VcTrials:
    """Tell an SEV-ES guest of trials, in place of the ``host`` that vetrace plays."""

    call = VMGEXIT
    counted = "vc"

    def __init__(self, host: EncryptedGuest) -> None:
        self._host = host
        self._space: AddressSpace | None = None
        self._slot = 0

    def meets(self, fault: Fault) -> bool:
        """Tell whether a fault is on a device, and the guest has asked for all before."""
        leaf = fault.space.leaf(fault.spill.cr2)
        return (
            bool(fault.spill.frame.error_code & PageFaultCode.RSVD)
            and leaf is not None
            and leaf.poisoned
            and not fault.space.regions.is_ram(leaf.translate(fault.spill.cr2))
            and not self._host.owes
        )

    def ground(self, fault: Fault, code: int, stack: int) -> Ground:
        """Return where there is room for trials, once the page of the fault is in user space too.

        Raises InterceptError where no slot of the root is unused.
        """
        space, page = fault.space, fault.spill.cr2 & -PAGE_SIZE
        leaf = space.leaf(page)
        assert leaf is not None  # it has faulted there
        memory, paging = space.memory, space.paging
        (root, *_) = steps(memory, paging, page)
        for slot in USER_SLOTS:
            user = slot * root.size
            (unused, *_) = steps(memory, paging, user)
            if unused.entry == 0 and root.entry is not None:
                memory.write(unused.entry_address, root.entry.to_bytes(8, "little"))
                self._space, self._slot = space, unused.entry_address
                user |= page % root.size
                physical = leaf.translate(page)
                return Ground(code, stack, page, user, physical, PAGE_SIZE, pages=1, steered=True)
        raise InterceptError("the guest's root table has no unused slot for trials in user space")

    def follows(self, trial: Trial, fault: Fault) -> bool:
        """Tell whether it is a handler that moves a string, or a REP that is started over."""
        return trial.insn.form is not None and trial.insn.form.operation == "movs"

    async def tell(self, fault: Fault, gate: PageFaultGate, physical: int) -> list[Change]:
        """Raise #VC: the handler finds out by itself what it is about."""
        return list(await self._host.raised(fault, gate))

    def answer(self, fault: Fault, value: int) -> tuple[Mmio | None, list[Change]]:
        """Answer a VMGEXIT. Raises InterceptError for one that no trial leads to."""
        host, address = self._host, fault.spill.cr2
        if address & PROTOCOL:
            event = sev_host.msr(host.state, fault.vcpu, address).event
            raise InterceptError(f"the guest calls for {event.name} while its handler was tried")
        page = host.page(address)
        done, asked = sev_host.exit(host.state, fault.vcpu, address, page), None
        if isinstance(done.event.request, Mmio) and done.event.waits:
            asked = done.event.request
            done = sev_host.reply(done.state, done.event, Give(value))
        host.state = done.state
        host.memory.write(address, patched(page, done))
        cpu = fault.cpu
        fault.cpu = replace(cpu, rip=cpu.rip + len(VMGEXIT))
        return asked, fault.write_back()

    def leave(self) -> None:
        """Have the slot of the root unused again."""
        assert self._space is not None
        self._space.memory.write(self._slot, bytes(8))
