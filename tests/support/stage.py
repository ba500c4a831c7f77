"""What traps stand on, over a scene: software, coverage, loads of tables; and other IDTs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from scene import (
    CODE,
    CS,
    HANDLER,
    STATE,
    STUB,
    TABLES,
    Names,
    Scene,
)

from tracer.access.region import Choice
from tracer.access.space import AddressSpace
from tracer.access.stack import Stack
from tracer.access.vcpu import DescriptorTable, DescriptorTables
from tracer.confidential.kind import Kind
from tracer.intercept.coverage import Coverage
from tracer.intercept.entry.interrupt_stack import InterruptStacks
from tracer.intercept.entry.loads import TableLoads
from tracer.intercept.ground import Ground
from tracer.intercept.journal import Journal
from tracer.intercept.ring.window import NoWindow, Window
from tracer.intercept.trap import Untraced
from tracer.linux.mapping import SPARE_LINEAR
from tracer.trace.record import Mark
from tracer.x86.idt import Gate, pack_gate


class Software:
    """Software of which a few functions are known, and no mappings."""

    title, release, sha256 = "software", "1", ""
    spare, stack_in_device, patience = SPARE_LINEAR, False, None
    awaited = ""
    free = look_every = None
    command_line = ""
    current, telling = None, ()
    kind = Kind.PLAIN
    begun, homes = False, ()

    def __init__(self, breakpoints: Any = ()) -> None:
        self.names = Code()
        self.breakpoints = breakpoints
        self.programs: list[AddressSpace] = []
        self.others: list[Any] = []
        self.removed = False
        self.looks = 0

    async def reach_entry(self, memory: Any) -> None:
        """It stands there."""

    def own_tables(self, space: AddressSpace) -> AddressSpace:
        return space

    @property
    def lends_at_most(self) -> None:
        """It has no window."""

    async def window(self, memory: Any, space: AddressSpace, size: int) -> Window:
        raise NoWindow("it has none")

    def ready(self) -> None:
        """It has no room later."""

    def stub_place(self) -> int:
        return STUB

    async def watch(self, ground: Ground, space: AddressSpace, *, late: bool) -> Any:
        return self.breakpoints

    async def follow_errands(self, block: int | None, *, smp: bool) -> None:
        self.block = block

    async def follow_moves(self, block: int) -> None:
        self.moves = block

    def callers(self, publish: Any, *, stacks: bool) -> Any:
        return Nobody()

    def unseen(self, regions: Any) -> Any:
        yield "what nobody knows"

    def leaves(self, space: AddressSpace) -> Any:
        yield from self.others

    async def look(self) -> None:
        self.looks += 1

    async def mapped_by_programs(self, space: AddressSpace) -> None:
        self.programs.append(space)

    def without_idt(self, where: str) -> Untraced:
        return Untraced(f"not traced from {where} on")

    def taken_back(self) -> str | None:
        return None

    async def give_back(self) -> None:
        """Nothing was borrowed."""

    async def remove(self, space: AddressSpace) -> None:
        self.removed = True


class Code(Names):
    symbols = None

    def text(self) -> list[range]:
        return [range(CODE, CODE + 0x40)]

    def function_at(self, linear: int) -> int | None:
        return None


class Nobody:
    state = 0
    started = False

    def note(self, *_: Any) -> None:
        return None

    def note_errand(self, *_: Any) -> None:
        return None

    def unwind(self, *_: Any) -> Stack:
        return Stack((), "nobody")

    def remark(self, space: AddressSpace) -> str:
        return "no stacks"


class Memory:
    """RAM of the scene, and where it is."""

    def __init__(self, scene: Scene) -> None:
        self.read, self.write = scene.ram.read, scene.ram.write
        self.ranges = [(0, len(scene.ram.data) - 1)]

    def holds(self, physical: int, size: int) -> bool:
        return physical < 0x40_0000


class Stage:
    """A scene with what traps stand on."""

    def __init__(self, scene: Scene | None = None, stacks: InterruptStacks | None = None) -> None:
        scene = self.scene = scene or Scene()
        self.software = Software()
        self.journal = Journal(scene.view)
        self.records: list[Any] = []
        self.journal.subscribers.append(self.records.append)
        self.counts = self.journal.counts
        self.coverage = Coverage(
            scene.view, self.journal, Choice(), SPARE_LINEAR, self.software.leaves,
            self.software.mapped_by_programs,
        )  # fmt: skip
        self.loads = TableLoads(
            scene.view, scene.gate, stacks, self.coverage, self.journal, self.software.names,  # type: ignore[arg-type]
            self.software.without_idt,
        )  # fmt: skip
        self.ground = Ground(
            Memory(scene), scene.view, self.journal, self.coverage, scene.gate, self.loads  # type: ignore[arg-type]
        )  # fmt: skip

    @property
    def marks(self) -> list[str]:
        return [record.text for record in self.records if isinstance(record, Mark)]


def other_idt(scene: Scene, limit: int = 0xFFF) -> DescriptorTable:
    base = 0xFFFF_FFFF_8210_0000
    scene.ram.map(base, 0x32_0000)
    scene.write(base + 14 * 16, pack_gate(Gate(HANDLER + 0x80, 0x8E << 40 | CS << 16, 0)))
    return DescriptorTable(base, limit)


def loaded(stage: Stage, table: DescriptorTable) -> Any:
    return replace(STATE, tables=DescriptorTables(TABLES.gdt, table))
