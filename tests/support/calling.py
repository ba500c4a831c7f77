"""A guest for playbooks that calls what is below it, by an instruction that QEMU does not have."""

from __future__ import annotations

from typing import Any

from playbook import play
from scene import CODE, CS, HANDLER, IDT_AT, STACK, STUB, TABLES, Callers, Names, Scene

from tracer.access.want import WatchReads, WatchStores, WriteCode
from tracer.intercept.entry.gate import PageFaultGate
from tracer.intercept.interceptor import Interceptor
from tracer.intercept.journal import Journal
from tracer.x86.idt import Gate, pack_gate

CALLER = CODE + 0x800
OUTER, INNER = STACK - 0x400, STACK - 0xC00
"""A fault's spill lies at the first, that of a fault in the middle of its handler at the second."""
ASKING = 0x200
"""How far below the spill of its fault a handler makes its calls."""


def gate_to(handler: int, ist: int = 0) -> bytes:
    """Return an interrupt gate, by default one that stays on its stack."""
    return pack_gate(Gate(handler, 0x8E << 40 | CS << 16 | ist << 32, 0))


class Calling(Scene):
    """A scene whose guest calls; a subclass says by what, and what is below it."""

    def plant(self, call: bytes, msr: int | None = None) -> None:
        """Put the stub in front of the handlers of #PF and #UD, and begin to record."""
        self.ram.write(IDT_AT + 14 * 16, self.own)
        self.ram.write(IDT_AT + 6 * 16, gate_to(HANDLER + 0x40))
        self.gate = PageFaultGate(self.ram, spare=0, notes=False, call=call, msr=msr)
        planted = (WriteCode, self.write_code)
        play(self.gate.place(self.space, TABLES.idt, STUB, CS), planted, (WatchReads, 1))
        watched = (planted, (WatchStores, 2), (WatchStores, 3))
        play(self.gate.follow(self.space, TABLES.idt), *watched, *watched)
        self.stub = self.gate.stub
        self.journal = Journal(self.view)
        self.journal.subscribers.append(self.records.append)
        self.interceptor = Interceptor(
            self.view, Names(), Callers(), self.journal.counts, self.journal.publish  # type: ignore[arg-type]
        )  # fmt: skip
        self.entered = False
        self.moment = 0

    def of(self, kind: type) -> list[Any]:
        """Return the records of a kind."""
        return [record for record in self.records if isinstance(record, kind)]
