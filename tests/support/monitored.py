"""A guest of the engine's whose first vCPU is inside the monitor."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

from playbook import play
from ram import ROOT
from scene import AT, CODE, CS, NVME, STATE, STUB, Scene, registers
from stage import Memory, Software

from tracer.access.region import Choice, Region
from tracer.access.space import AddressSpace
from tracer.access.stop import Ran, Stopped
from tracer.access.want import (
    BreakAlone,
    FlushTlb,
    HasMachineCheck,
    HasSvm,
    MakeChanges,
    MapChanged,
    MemoryMap,
    PortMap,
    Registers,
    SetBreakpoint,
    Vcpu,
    VcpuStates,
    WatchReads,
    WatchStores,
    WriteCode,
)
from tracer.compiled import layout, monitor
from tracer.compiled.inputs import Input
from tracer.compiled.layout import RECORD_FIELDS, RING, SLOT_SIZE, control_field
from tracer.intercept.ring.monitor import Monitor
from tracer.intercept.ring.window import Window
from tracer.session.loop import Loop
from tracer.trace.record import Intercept
from tracer.x86.paging import PRESENT, WRITABLE
from tracer.x86.segment import Segment

BLOCK_AT = 0x40_0000
SPAN = 0xFFFF_FF80_0000_0000
TABLE_AT = 0x3F_0000
WINDOW = Window(BLOCK_AT, SPAN + (442 << 30) + BLOCK_AT, SPAN, 442 << 30, TABLE_AT, 444, root=ROOT)
SLOTS = 16
NXE, SVME = 1 << 11, 1 << 12
SERIAL = Region("serial", 0x3F8, 0x3FF, 0x3F8, "serial", "serial")
CLASH = Region("nvme", 0x70, 0x71, 0x70, "nvme", "rtc")
BEHIND = BLOCK_AT + layout.block_size(SLOTS)
SECONDARY = CODE + 0x800
GONE = Ran(Stopped(signal="SIGQUIT"), 0.25)
MAP: Any = (MapChanged(), False)
ALL = frozenset({Input.PORT, Input.MSR, Input.CPUID})
FLAT = {
    name: Segment(CS, 0, 0xFFFFFFFF, 0x00AF9B00) for name in ("es", "cs", "ss", "ds", "fs", "gs")
}
THERE = replace(STATE, segments=FLAT, dr6=0xFFFF0FF0, dr7=0x400)


class Roomy(Software):
    """Software that gives away RAM, and has a place where further vCPUs begin."""

    secondary = SECONDARY

    async def window(self, memory: Any, space: AddressSpace, size: int) -> Window:
        assert size == layout.block_size(SLOTS) + monitor.monitor_size(2)
        memory.write(TABLE_AT, b"\xe3" * 8 * WINDOW.entries)
        return WINDOW


class Run:
    """A guest whose first vCPU is inside."""

    def __init__(self, inputs: frozenset[Input] = ALL, *, svm: bool = True,
                 after: Any = None):  # fmt: skip
        scene = self.scene = Scene()
        scene.gate.remove()
        scene.write(STUB, b"\xcc" * 0x1000)
        scene.ram.data.extend(bytes(layout.block_size(SLOTS) + monitor.monitor_size(2)))
        for page in range(2):
            leaf = scene.space.leaf(AT + 0x1000 * page)
            assert leaf is not None
            entry = NVME.start + 0x1000 * page | PRESENT | WRITABLE
            scene.ram.write(leaf.entry_address, struct.pack("<Q", entry))
        one = self.loop = Loop(scene.view, Memory(scene), Roomy(), Choice())  # type: ignore[arg-type]
        self.records: list[Any] = []
        one.journal.subscribers.append(self.records.append)
        before = registers(efer=NXE, cs=CS)
        inside = registers(efer=NXE | SVME, cs=CS) if after is None else after
        ports: list[Any] = [(PortMap(), [CLASH, SERIAL])] if Input.PORT in inputs else []
        entering: list[Any] = [
            (SetBreakpoint(SECONDARY), 7), (WatchReads, 8), (WatchReads, 9),
            (FlushTlb(ROOT), None),
            (Registers(), before), (Vcpu(), 0), (VcpuStates(), (THERE,)), (FlushTlb, self._root),
            (BreakAlone, self._enter), (Registers(), inside),
        ]  # fmt: skip
        rest: list[Any] = [
            (VcpuStates(), (THERE,)), (Vcpu(), 0),
            (WriteCode, scene.write_code), (WatchReads, 1),
            (WriteCode, scene.write_code), (WatchStores, 2), (WatchStores, 3),
            (BreakAlone, None), (MakeChanges, None), *entering,
        ]  # fmt: skip
        play(
            one.trap(ring=SLOTS, inputs=inputs),
            (MemoryMap(), ([NVME], [(0, 0x3F_FFFF)])), *ports, (HasMachineCheck(), True),
            (Registers(), before), (HasSvm(), svm),
            *(rest if svm else []),
        )  # fmt: skip

    def _root(self, wanted: FlushTlb) -> None:
        self.root = wanted.cr3

    def _enter(self, wanted: BreakAlone) -> None:
        self.entered = wanted

    @property
    def monitor(self) -> Monitor:
        inside = self.loop.traced.monitor
        assert inside is not None
        return inside

    def vmcb(self, vcpu: int = 0) -> int:
        return BEHIND + vcpu * monitor.PER_VCPU

    def leave(self, *rows: bytes) -> None:
        """Leave records in the ring, as the monitor does."""
        ram, size = self.scene.ram, layout.ring_size(SLOTS)
        for number, data in enumerate(rows):
            told = bytearray(data)
            struct.pack_into("<Q", told, 0, size + number * SLOT_SIZE)
            struct.pack_into("<Q", told, RECORD_FIELDS["NUMBER"], size + number * SLOT_SIZE)
            ram.write(BLOCK_AT + RING + number * SLOT_SIZE, bytes(told))
        head = size + len(rows) * SLOT_SIZE
        ram.write(BLOCK_AT + control_field("HEAD"), struct.pack("<Q", head))

    @property
    def intercepts(self) -> list[Intercept]:
        return [record for record in self.records if isinstance(record, Intercept)]
