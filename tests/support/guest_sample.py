"""A guest for the tests of the prompt: a real control over a session that is made up.

It makes a few accesses to an NVMe controller, one after the other, then powers off.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import stop_sample
import trace_sample as sample

from tracer.access.decision import Give, Inject, Pending, Retry, Skip
from tracer.access.recorded import memory_access
from tracer.access.region import Choice
from tracer.access.space import AddressSpace
from tracer.access.transfer import Transfer
from tracer.devices import library
from tracer.errors import GuestCrashed, TracerError
from tracer.gdb.target import RegisterFile
from tracer.linux.orc import Frame, Stack
from tracer.linux.symbols import Symbol, function_names, table_of
from tracer.repl.commands import command_table
from tracer.repl.desk import Desk
from tracer.repl.interpreter import Interpreter
from tracer.repl.result import Paper
from tracer.session.control import Control
from tracer.trace.naming import Naming
from tracer.trace.record import Mark, Record, UserRecord
from tracer.x86.state import GPR, CpuState, Mode

READ, WRITE = "8b06", "8916"
MAPS = library.load()
BASE = 0xFFFF_FFFF_8100_0000


def symbols() -> Any:
    """Return a kernel of three functions."""
    names = ("_text", "nvme_pci_reg_read32", "nvme_reset_work", "linux_banner")
    return table_of(
        [Symbol(BASE + 0x1000 * n, "T", name) for n, name in enumerate(names)], BASE + 0x10000
    )


class FakeSession:
    """Stand in for a session: ``plan`` are the accesses that its guest makes."""

    def __init__(self, plan: Sequence[Pending], error: TracerError | None = None) -> None:
        self.plan = list(plan)
        self.error = error
        self.subscribers: list[Any] = []
        self.counts: Counter[str] = Counter()
        self.warnings: list[str] = []
        self.choice = Choice()
        self.overseer: Any = None
        self.expired = ""
        self.interrupting = False
        self.released = False
        self.made: list[tuple[str, int | None]] = []
        self.asked: list[Choice] = []
        self.device = {0x1C: 1, 0x8: 0x10400}
        space = stop_sample.space()
        self.space = space
        self.view = SimpleNamespace(regions=space.regions, time_ns=0, mode=self._mode)
        self.names = SimpleNamespace(
            kernel=symbols(),
            lookup=lambda at, space: self._name(at),
            functions=lambda space: function_names(symbols()),
            modules=lambda space: ["nvme"],
        )
        self.kernel = SimpleNamespace(release="6.1.0-test")
        self.machine = SimpleNamespace(version="7.2")
        values = dict.fromkeys(("cs", "ss", "cr0", "cr4", "cr2", "cr3", "efer"), 0)
        values |= {"rip": BASE, "eflags": 0x46, **dict.fromkeys(GPR, 0)}
        self.file = RegisterFile(values)
        self.target = SimpleNamespace(registers=self._registers)

    async def _mode(self, selector: int, space: AddressSpace) -> Mode:
        return Mode.LONG

    async def _registers(self) -> RegisterFile:
        return self.file

    def _name(self, linear: int) -> str | None:
        name = self.names.kernel.lookup(linear)
        return None if name is None else str(name)

    async def run(self) -> None:
        """Make the accesses, each as its overseer decides."""
        await self.overseer.halted("kernel entry", 0, await self._registers(), self.space)
        for pending in self.plan:
            if self.released:
                break
            self.view.time_ns = pending.time_ns
            decision = await self.overseer.before(pending)
            value = pending.transfer.value
            offset = pending.transfer.physical - stop_sample.DEVICE
            if pending.transfer.direction == "read":
                value = self.device.get(offset, 0)
            if isinstance(decision, Give | Skip):
                value = decision.value
            told = "skip" if isinstance(decision, Skip) else pending.transfer.direction
            if isinstance(decision, Inject):
                told = f"fault {decision.vector}"
            if isinstance(decision, Retry):
                told = f"retry {decision.cpu.gpr[0]:#x}"
            self.made.append((told, value))
            answered = replace(pending, transfer=replace(pending.transfer, value=value))
            if told == "read":
                later = await self.overseer.answered(answered)
                if isinstance(later, Give):
                    answered = replace(
                        pending, transfer=replace(pending.transfer, value=later.value)
                    )
                    self.made[-1] = ("read", later.value)
            self._publish(
                sample.intercept(
                    pending.seq, memory_access(answered.transfer), text="mov eax, dword ptr [rsi]"
                )
            )
            await self.overseer.completed(CpuState(rip=pending.cpu.rip + 2))
            if isinstance(decision, Inject):
                await self.overseer.halted("fault", 0, await self._registers(), self.space)
        if self.error is not None:
            raise self.error

    def _publish(self, record: Record) -> None:
        for subscriber in self.subscribers:
            subscriber(record)

    def publish(self, record: UserRecord) -> None:
        """Take note of what the person did."""
        self._publish(record)

    def mark(self, text: str, qemu_log_offset: int | None = None) -> None:
        """Note something."""
        self._publish(Mark(time_ns=self.view.time_ns, text=text))

    def release(self) -> None:
        """Let the guest go."""
        self.released = True

    async def interrupt(self) -> None:
        """Stop at the next access."""
        self.interrupting = True

    async def choose(self, choice: Choice, space: AddressSpace) -> None:
        """Trace something else."""
        self.choice = choice
        self.asked.append(choice)

    async def reach(self, transfer: Transfer, space: AddressSpace, *, waits: bool) -> int | None:
        """Reach the device for the person."""
        offset = transfer.physical - stop_sample.DEVICE
        if transfer.direction == "write":
            self.device[offset] = transfer.value or 0
            return None
        return self.device.get(offset, 0)

    def unwind(self, cpu: CpuState, space: AddressSpace) -> Stack:
        """Return two functions, and one that an interrupt came upon."""
        frames = Frame(cpu.rip, True), Frame(BASE + 0x1010, False), Frame(BASE + 0x3010, True)
        return Stack(frames, "no more of it here")


def accesses(count: int = 6) -> list[Pending]:
    """Return reads of CSTS and writes of CC, in turn."""
    made: list[Pending] = []
    for seq in range(count):
        offset = 0x14 if seq % 2 else 0x1C
        cpu = stop_sample.state(rsi=stop_sample.LINEAR + offset)
        pending = stop_sample.stop(WRITE if seq % 2 else READ, cpu)
        time_ns = 1_000_000_000 + seq * 1_000_000
        made.append(replace(pending, seq=seq, time_ns=time_ns, symbol="nvme_reset_work+0x1c"))
    return made


class Talk:
    """Hold a desk on a guest and what was said."""

    def __init__(self, *, json: bool = False, error: TracerError | None = None) -> None:
        self.session = FakeSession(accesses(), error)
        self.records: list[Record] = []
        self.session.subscribers.append(self.records.append)
        self.control = Control(self.session)  # type: ignore[arg-type]
        self.desk = Desk(self.control, command_table(), Naming(MAPS))
        self.session.subscribers.append(self.desk.take)
        self.said: list[str] = []
        self.complaints: list[str] = []
        self.interpreter = Interpreter(
            self.desk, self.said.extend, self.complaints.extend, lambda: Paper(100), json=json
        )

    async def start(self) -> Talk:
        """Bring the guest to its kernel's entry."""
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


CRASH = GuestCrashed("the guest panicked: no init")
