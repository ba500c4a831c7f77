"""The stub in front of the guest's page-fault handler, kept there as the guest changes its IDT."""

from __future__ import annotations

import dataclasses
import logging

from tracer.errors import GuestError, InterceptError
from tracer.gdb.target import Target
from tracer.intercept import AddressSpace
from tracer.stub import Gate, Stub, assemble, pack_gate, unpack_gate
from tracer.trap.padding import find_page, find_run, is_filler
from tracer.x86 import CR4_FRED, PAGE_FAULT_VECTOR, PAGE_SIZE

log = logging.getLogger(__name__)

_SCRATCH = 256


class PageFaultGate:
    """Own the stub and vector 14 of one guest's IDT.

    ``stub`` has the addresses to go to. ``handler`` is the guest's own page-fault handler at this
    moment. ``scratch`` are linear addresses of quadwords that the guest's kernel can read and that
    are free, where the stub has a page of its own.
    """

    def __init__(self, target: Target, idt: int, *, notes: bool = True) -> None:
        self._target = target
        self._notes = notes
        self._idt = idt
        self._gate = Gate(0, 0, 0)
        self.stub: Stub = assemble(0, 0)
        self.scratch = range(0)

    @property
    def handler(self) -> int:
        """Return the linear address of the guest's own page-fault handler."""
        return self._gate.handler

    def gate(self, space: AddressSpace, vector: int) -> Gate:
        """Return the gate of a vector as the guest's IDT has it now."""
        address = self._idt + Gate.SIZE * vector
        data = space.read(address, Gate.SIZE)
        if len(data) != Gate.SIZE:
            raise InterceptError(f"the guest's IDT at linear {self._idt:#x} cannot be read")
        return unpack_gate(data)

    async def install(self, space: AddressSpace, place: int | None) -> None:
        """Place the stub in the padding at ``place``, or near the handler, and aim the gate at it.

        Raises InterceptError when the guest has no handler yet or no padding is found.
        """
        gate = self.gate(space, PAGE_FAULT_VECTOR)
        if not gate.present:
            raise InterceptError("the guest has no page-fault handler to put the stub in front of")
        size = len(self._assemble(gate.handler, gate.handler).code)
        starts = (gate.handler,) if place is None else (place, gate.handler)
        found = (find_page(space, start) or find_run(space, start, size) for start in starts)
        base = next((address for address in found if address is not None), None)
        if base is None:
            raise InterceptError(
                f"no {size} bytes of padding near the guest's page-fault handler "
                f"at linear {gate.handler:#x} for the fault stub"
            )
        if base % PAGE_SIZE == 0 and is_filler(space.read(base, PAGE_SIZE)):
            self.scratch = range(base + PAGE_SIZE - _SCRATCH, base + PAGE_SIZE, 8)
        await self._aim(gate, base)
        await self._target.set_read_watch(self.stub.bell)
        await self._target.set_watch(self._idt + Gate.SIZE * PAGE_FAULT_VECTOR)

    async def refresh(self, space: AddressSpace) -> bool:
        """Put the stub in front again after the guest wrote the gate; tell whether it had to."""
        gate = self.gate(space, PAGE_FAULT_VECTOR)
        if gate.handler == self.stub.entry or not gate.present:
            return False
        await self._aim(gate, self.stub.entry)
        return True

    async def remove(self) -> None:
        """Give the guest its own gate back; the stub stays for who is in it."""
        await self._write_gate(self._gate)

    async def _aim(self, gate: Gate, base: int) -> None:
        self._gate = gate
        self.stub = self._assemble(base, gate.handler)
        log.debug("stub at %#x in front of handler %#x", base, gate.handler)
        await self._target.write_code(base, self.stub.code)
        await self._write_gate(dataclasses.replace(gate, handler=base))

    def _assemble(self, base: int, handler: int) -> Stub:
        return assemble(base, handler, notes=self._notes)

    async def _write_gate(self, gate: Gate) -> None:
        address = self._idt + Gate.SIZE * PAGE_FAULT_VECTOR
        await self._target.write_code(address, pack_gate(gate))


def refuse_fred(cr4: int) -> None:
    """Raise GuestError when a vCPU delivers its exceptions around the IDT."""
    if cr4 & CR4_FRED:
        raise GuestError(
            "the guest has switched FRED on (CR4 bit 32): page faults go through no gate, and no "
            "access is seen; give it a CPU without: -cpu ...,fred=off, or boot Linux with fred=off"
        )
