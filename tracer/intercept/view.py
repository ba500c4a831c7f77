"""The guest as it is at this moment: its memory map, its time, its code segments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from tracer.access.region import Region, RegionMap
from tracer.access.space import AddressSpace
from tracer.access.vcpu import RegisterFile, VcpuState
from tracer.access.want import MapChanged, Tables, VcpuStates
from tracer.intercept.ring.pace import Pace
from tracer.trace.compiled import VIRTUAL, Rate
from tracer.x86.legacy_paging import MARK, legacy_paging_of, marked_paging
from tracer.x86.nested import NestedTables
from tracer.x86.paging import Paging, PhysicalMemory, paging_of
from tracer.x86.state import Mode

_LMA = 1 << 10
"""The bit of EFER of a vCPU in long mode (Intel SDM vol. 3A, 2.2.1)."""


class Outside(Protocol):
    """Know the guest of vCPUs that have left it."""

    def outside(self, states: Sequence[VcpuState]) -> tuple[VcpuState, ...]:
        """Return the states of vCPUs, those of the guest's where they are in its monitor."""
        ...

    def registers(self, values: Mapping[str, int]) -> Mapping[str, int]:
        """Return registers by GDB's names, for those of the monitor's own the guest's."""
        ...

    def follow(self, regions: RegionMap) -> None:
        """Know where memory is by now."""
        ...


class GuestView:
    """Follow one guest.

    ``regions`` is the memory map as last asked for, until it is :meth:`stale`; ``time_ns`` the
    guest's time when it was last told, which ``told`` counts, ``ran`` how long it ran in seconds of
    the host's time. ``poison`` is the mask of the page-table bit that vetrace sets, among those
    above the CPU's ``physical_bits``, ``shared`` that of the bit by which a guest of TDX shares a
    page, 0 in others; ``realtime`` says that the guest's clock is the host's. ``ports`` are the
    regions of I/O ports, where they are traced; the ``monitor`` that the guest runs inside, if any,
    knows it where a vCPU has left it, and its ``nested`` tables have the poison, if there are any.
    """

    def __init__(
        self,
        memory: PhysicalMemory,
        poison: int,
        vcpus: int,
        *,
        realtime: bool = False,
        physical_bits: int = 40,
    ) -> None:
        self.memory = memory
        self.realtime = realtime
        self.poison = poison
        self.physical_bits = physical_bits
        self.vcpus = vcpus
        self.shared = 0
        self.regions = RegionMap((), (), ())
        self.ports: Sequence[Region] = ()
        self.monitor: Outside | None = None
        self.nested: NestedTables | None = None
        self._stale = True
        self.time_ns = 0
        self.told = 0
        self.ran = 0.0
        self._pace = Pace()
        self._modes: dict[int, Mode] = {}

    @property
    def marks(self) -> int:
        """Return the mask of the bits that a poisoned leaf has either of."""
        return paging_of(0, 0, self.poison).marks

    async def states(self) -> tuple[VcpuState, ...]:
        """Learn what each vCPU is about, in order; of one that is in the monitor, its guest."""
        states = await VcpuStates()
        return states if self.monitor is None else self.monitor.outside(states)

    async def stale(self) -> bool:
        """Tell whether the guest, or a person at QEMU's monitor, may have moved devices since."""
        self._stale = self._stale or await MapChanged()
        return self._stale

    def show(self, regions: RegionMap) -> None:
        """Take the memory map as it is now."""
        self.regions = regions
        self._stale = False
        if self.monitor is not None:
            self.monitor.follow(regions)

    def space(self, cr3: int, cr4: int) -> AddressSpace:
        """Return where linear addresses lead for a vCPU with these control registers."""
        paging = paging_of(cr3, cr4, self.poison, self.shared)
        return AddressSpace(self.memory, paging, self.regions, self.nested)

    def space_of(self, registers: RegisterFile) -> AddressSpace:
        """Return where linear addresses lead for the vCPU with these registers."""
        if self.nested is not None and not registers["efer"] & _LMA:
            paging = legacy_paging_of(registers["cr0"], registers["cr3"], registers["cr4"])
            return self.legacy_space(paging)
        return self.space(registers["cr3"], registers["cr4"])

    def space_by(self, tables: int, cr4: int) -> AddressSpace:
        """Return where linear addresses lead by CR3 as a monitor's record has it."""
        if tables & MARK:
            return self.legacy_space(marked_paging(tables))
        return self.space(tables, cr4)

    def legacy_space(self, paging: Paging) -> AddressSpace:
        """Return where linear addresses lead for code outside long mode."""
        return AddressSpace(self.memory, paging, self.regions, self.nested)

    def tell_time(self, counter: int) -> None:
        """Note the guest's time; ``counter`` is its time-stamp counter.

        Under icount QEMU's counter is virtual time in ns (target/i386, cpu_get_tsc). In real time
        it is the host's, of unknown rate, and the time the guest has run stands in.
        """
        self.told += 1
        if not self.realtime:
            self.time_ns = counter
            return
        now = int(self.ran * 1e9)
        if counter:
            self._pace.note(counter, now)
        self.time_ns = max(self.time_ns, now)

    @property
    def rate(self) -> Rate | None:
        """Return how the time-stamp counter tells the guest's time, None while that is not known.

        In real time it is as far from two moments at which both were told as the counter is.
        """
        return self._pace.rate if self.realtime else VIRTUAL

    def tell_time_at(self, counter: int) -> None:
        """Note the guest's time at a moment that only its time-stamp counter tells."""
        self.told += 1
        rate = self.rate
        if rate is not None:
            self.time_ns = max(self.time_ns, rate.at(counter))

    async def mode(self, selector: int, space: AddressSpace) -> Mode:
        """Return the mode of a code segment, from its descriptor in the guest's GDT.

        L is bit 53 and D bit 54 (Intel SDM vol. 3A, 3.4.5). QEMU is asked once, until
        :meth:`forget_segments`.
        """
        mode = self._modes.get(selector)
        if mode is None:
            tables = await Tables() if self.monitor is None else (await self.states())[0].tables
            linear = tables.gdt.base + (selector & 0xFFF8)
            descriptor = int.from_bytes(space.read(linear, 8), "little")
            small = Mode.COMPAT32 if descriptor >> 54 & 1 else Mode.COMPAT16
            mode = Mode.LONG if descriptor >> 53 & 1 else small
            self._modes[selector] = mode
        return mode

    def forget_segments(self) -> None:
        """Look code segments up anew. A guest that loads another IDT may have another GDT too."""
        self._modes.clear()
