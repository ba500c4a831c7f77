"""The stub of a guest that runs in a monitor: there, with no gate of the guest's in front of it."""

from __future__ import annotations

from collections.abc import Mapping

from tracer.access.want import WatchReads
from tracer.compiled import layout
from tracer.compiled.common import CommonCode
from tracer.compiled.monitor import MonitorCode
from tracer.intercept.entry.sight import Sight
from tracer.intercept.entry.stub import Fast, Nested, assemble
from tracer.intercept.ring.window import Window
from tracer.x86.paging import PhysicalMemory
from tracer.x86.state import PAGE_SIZE


class MonitorPost:
    """Own the stub in a guest's monitor, to which nested faults go by themselves.

    It is a :class:`~tracer.intercept.entry.post.Post`. None of the guest's IDTs has anything of it.
    """

    spare = 0

    def __init__(
        self, memory: PhysicalMemory, window: Window, code: MonitorCode, common: CommonCode
    ) -> None:
        self._memory = memory
        self.sight = Sight(memory, window, code.pair)
        self.ringers: Mapping[int, range] = {}
        self._code = code
        base = window.code + layout.MODULE
        fast = Fast(window.code + common.fast, window.guest_code)
        nested = Nested(code.done, code.run, code.span)
        self.stub = assemble(base, notes=False, fast=fast, nested=nested)

    async def settle(self) -> None:
        """Put the stub in place, behind the monitor."""
        code = self._code
        self._memory.write(code.block + layout.MODULE, self.stub.code)
        tables = code.pair_tables()
        self._memory.write(code.pair + PAGE_SIZE - len(tables), tables)
        await WatchReads(self.stub.bell)

    def remove(self) -> None:
        """Do nothing: the guest has its own gates."""
