"""A guest for the tests of the prompt: everything is real but the guest, GDB and QEMU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from simulated import BASE, Guest, Made, accesses

from tracer.access.space import AddressSpace
from tracer.access.stack import Frame, Stack
from tracer.devices import library
from tracer.errors import GuestCrashed, TracerError
from tracer.repl.commands import command_table
from tracer.repl.context import Context
from tracer.repl.interpreter import Interpreter
from tracer.repl.live import Live
from tracer.repl.result import Screen
from tracer.session.control import Control
from tracer.session.session import Session
from tracer.trace.naming import Naming
from tracer.trace.record import Record
from tracer.x86.state import CpuState

MAPS = library.load()
CRASH = GuestCrashed("the guest panicked: no init")


@dataclass(frozen=True)
class Callers:
    """Know two functions, and one that an interrupt came upon."""

    note: Callable[..., None] = lambda *_: None

    def unwind(self, cpu: CpuState, space: AddressSpace) -> Stack:
        frames = Frame(cpu.rip, True), Frame(BASE + 0x1010, False), Frame(BASE + 0x3010, True)
        return Stack(frames, "no more of it here")


async def trapped(session: Session) -> None:
    """Put the traps in place; the guest stands at its kernel's entry."""
    await session.trap()
    session.loop._traced = replace(session.traced, callers=Callers())


class Talk:
    """Hold a context on a guest and what was said."""

    def __init__(self, *, json: bool = False, error: TracerError | None = None) -> None:
        self.guest = Guest(accesses(), error)
        self.session = self.guest.session()
        self._made = Made()
        self.records: list[Record] = []
        self.control = Control(self.session)
        naming = Naming(MAPS)
        self.context = Context(Live(self.control, naming), command_table(), naming)
        self.said: list[str] = []
        self.complaints: list[str] = []
        self.interpreter = Interpreter(
            self.context, self.said.extend, self.complaints.extend, lambda: Screen(100), json=json
        )

    @property
    def made(self) -> list[Any]:
        """Return what became of each access so far, and the exceptions that were raised."""
        return [*self._made.made, *(("fault", vector) for vector in self.guest.faults)]

    async def start(self) -> Talk:
        """Bring the guest to its kernel's entry."""
        await trapped(self.session)
        self.session.subscribers += [self.records.append, self._made, self.context.take]
        await self.control.start()
        return self

    async def type(self, *lines: str) -> int:
        """Type lines up to the first that fails; return its status."""
        for line in lines:
            status = await self.interpreter.line(line)
            if status:
                return status
        return 0

    @property
    def text(self) -> str:
        """Return all that was said."""
        return "\n".join(self.said)
