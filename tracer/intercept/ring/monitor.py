"""The monitor in one guest: put into its RAM, entered by each vCPU, left where it goes on alone.

From :meth:`Monitor.enter` on the vCPU runs the guest's code as the guest of AMD's SVM, which QEMU
emulates for any CPU model. All else is as before: GDB, traps and the stub see the guest.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import chain

from tracer.access.region import RegionMap
from tracer.access.space import AddressSpace
from tracer.access.stop import Stopped
from tracer.access.vcpu import DescriptorTable, DescriptorTables, VcpuState
from tracer.access.want import Registers, StepAlone, Vcpu
from tracer.compiled import flagging, layout, module, monitor
from tracer.compiled.diary import Current
from tracer.compiled.exits import intercepts_of, quiet_intercepts
from tracer.compiled.flagging import NO_INPUTS
from tracer.compiled.inputs import INPUT_FIELDS, Input
from tracer.compiled.layout import SLOT_SIZE, block_size
from tracer.compiled.monitor import MonitorCode
from tracer.confidential.ghcb import GHCB_STAND_IN
from tracer.confidential.input_verdict import SEV_MSRS
from tracer.confidential.kind import Kind
from tracer.errors import InterceptError
from tracer.intercept.entry.door import NOTE_MSR
from tracer.intercept.journal import Journal
from tracer.intercept.ring.entrance import go_inside
from tracer.intercept.ring.window import Window
from tracer.intercept.view import GuestView
from tracer.x86 import vmcb
from tracer.x86.idt import GATE_SIZE
from tracer.x86.state import GPR, VIRTUALIZATION_VECTOR, CpuState
from tracer.x86.vmcb import SVME, Entered

_CRYSTAL_HZ = 10**9
"""QEMU has the local APIC's timer go by it (hw/intc/apic.c), and under icount RDTSC."""
_MOST_STEPS = 1 << 10
"""Instructions of the monitor's for one exit, at most, with a string instruction's page walks."""


class Monitor:
    """Own the monitor of one guest, whose ``inputs`` it records in the ring behind ``window``.

    What the code at the linear addresses ``stub`` asks for is vetrace's own. Records tell the
    thread that is ``current``. In a guest of a confidential ``kind`` instructions raise #VE or
    #VC: for the first the code of the TDX module is in place.
    """

    def __init__(
        self,
        window: Window,
        slots: int,
        view: GuestView,
        journal: Journal,
        inputs: Collection[Input],
        stub: range,
        current: Current | None = None,
        *,
        stacks: bool,
        kind: Kind = Kind.PLAIN,
        nested: bool = False,
    ) -> None:
        self.inputs = frozenset(inputs)
        self._view = view
        self._current = current
        self._journal = journal
        self._kind = kind
        self._begun = False
        self._window = window
        self._asked: tuple[int, int | None] = (NO_INPUTS, None)
        self._block = window.physical
        place = window.physical + block_size(slots, stacks=stacks)
        own = range(window.code, window.code + monitor.PLACE)
        self.code = MonitorCode(window.physical, place, view.vcpus, own, stub, stacks, nested)

    def begin(self, code_selector: int) -> None:
        """Write what is the same for all vCPUs; the kernel's code has that selector."""
        code, memory = self.code, self._view.memory
        ports, msrs = Input.PORT in self.inputs, Input.MSR in self.inputs
        free = [NOTE_MSR]
        if self._kind is Kind.SEV_ES:
            free += [GHCB_STAND_IN, *chain.from_iterable(SEV_MSRS)]
            self._begin_encrypted()
        shared = code.shared(ports, msrs, free, code_selector)
        memory.write(code.root(5), shared)
        memory.write(self._block + monitor.PLACE, code.code)
        memory.write(self._block + monitor.word("PORTS"), int(ports).to_bytes(8, "little"))
        self.follow(self._view.regions)
        self._view.monitor = self

    def follow(self, regions: RegionMap) -> None:
        """Know where memory is by now: what lies elsewhere the code does not access by itself."""
        memory = list(regions.ram)
        if self._kind is Kind.PLAIN:
            # Firmware executes in a flash chip; to a host's own pages it is none.
            memory += regions.shown
        memory.sort(key=lambda span: span[0] - span[1])
        found = [range(first, last + 1) for first, last in memory[: layout.RAM_COUNT]]
        self._write(layout.RAM, layout.pack_ram(found))

    def _begin_encrypted(self) -> None:
        self._write(monitor.word("GHCB_MSR"), GHCB_STAND_IN.to_bytes(8, "little"))

    def _begin_domain(self, space: AddressSpace, idt: int) -> None:
        # The kernel's first handler of #VE knows of ports alone; the kernel puts another one there.
        gate = space.read(idt + GATE_SIZE * VIRTUALIZATION_VECTOR, 8)
        self._write(monitor.word("EARLY"), gate)
        self._write(monitor.word("DOMAIN"), (1).to_bytes(8, "little"))
        if not self._view.realtime:
            # In real time its counter goes as fast as the host's, which nobody tells.
            self._write(monitor.word("CRYSTAL"), _CRYSTAL_HZ.to_bytes(8, "little"))
        self._begun = True

    def follow_threads(self, current: Current) -> None:
        """Have records tell the thread that is ``current`` from here on; every vCPU stands."""
        self._current = current
        offset, words = monitor.thread_of(current)
        for vcpu in range(self._view.vcpus):
            self._view.memory.write(self.code.state(vcpu) + offset, words)

    async def enter(self, even_ns: int = 0) -> None:
        """Have the vCPU that stopped go on inside; it stands where it stood.

        With ``even_ns`` the guest's time, which counts instructions, is a multiple of that then.
        Raises InterceptError when it does not come there.
        """
        before = await Registers()
        if before["efer"] & SVME:
            return
        vcpu = await Vcpu()
        state = (await self._view.states())[vcpu]
        gdt, idt = state.tables.gdt, state.tables.idt
        entered = Entered(
            before.values, state.segments, (gdt.base, gdt.limit), (idt.base, idt.limit),
            state.dr6, state.dr7,
        )  # fmt: skip
        code = self.code
        if self._kind is Kind.TDX and not self._begun:
            self._begin_domain(self._view.space_of(before), idt.base)
        encrypted, domain = self._kind is Kind.SEV_ES, self._kind is Kind.TDX
        found = intercepts_of(self.inputs, domain=domain, encrypted=encrypted, nested=code.nested)
        pages = code.of_vcpu(vcpu, entered, found, self._current, dr7=encrypted)
        self._view.memory.write(code.vmcb(vcpu), pages)
        await go_inside(code, self._view.memory, vcpu, state, before, even_ns)

    @property
    def stands(self) -> tuple[int, ...]:
        """Return the addresses at which a vCPU stands in the monitor for somebody to act."""
        return *self._turns, self.label("looked")

    @property
    def _turns(self) -> tuple[int, ...]:
        # A vCPU stays there until somebody has acted, however often it is stepped.
        return self.ring, self.full, self.label("requested")

    def look(self) -> int:
        """Have a vCPU read a word once it may have moved a device; return its linear address.

        That is in the monitor's window, with nested traps.
        """
        return self._rung("LOOK")

    def _rung(self, name: str) -> int:
        # Has the monitor read a word of its own, and returns its linear address.
        physical = self._block + monitor.word(name)
        nested = self.code.nested
        place = self._window.place(physical) if nested else monitor.WINDOW_BASE + physical
        self._write(monitor.word(f"{name}_AT"), place.to_bytes(8, "little"))
        return place

    def covers(self, linear: int | None) -> bool:
        """Tell whether a vCPU at that address is in the monitor."""
        return linear in self.code.span

    async def step_out(self, stop: Stopped) -> Stopped | None:
        """Return the stop as that of the guest, to which the stopped vCPU goes back, or of asking.

        None where it waits in the monitor for another vCPU.
        """
        address = await self.go_back()
        return None if address is None else replace(stop, address=address)

    async def go_back(self) -> int | None:
        """Have the stopped vCPU go back to its guest, or to where it asks; return the address.

        None as for :meth:`step_out`.
        """
        turns = self._turns
        for _ in range(_MOST_STEPS):
            address = await StepAlone()
            if not self.covers(address) or address in turns:
                return address
        return None

    def outside(self, states: Sequence[VcpuState]) -> tuple[VcpuState, ...]:
        """Return the states of vCPUs, those of the guest's where they are in the monitor."""
        own = self._window.guest_code if self.code.nested else range(0)
        return tuple(
            self._guest(number, state) if self.covers(state.rip) or state.rip in own else state
            for number, state in enumerate(states)
        )

    def registers(self, values: Mapping[str, int]) -> Mapping[str, int]:
        """Return registers by GDB's names, for those of the monitor's own the guest's."""
        if not self.code.nested or values["rip"] not in self._window.guest_code:
            return values
        found = self._outside(monitor.vmcb_at(values["rsp"]))
        return {**values, **{name: found[name] for name in values.keys() & found.keys()}}

    def _guest(self, vcpu: int, state: VcpuState) -> VcpuState:
        found = self._outside(self.code.vmcb(vcpu))
        return replace(
            state,
            rip=found["rip"],
            rsp=found["rsp"],
            cr2=found["cr2"],
            cr3=found["cr3"],
            cr4=found["cr4"],
            tables=DescriptorTables(
                DescriptorTable(found["gdt"], found["gdt_limit"]),
                DescriptorTable(found["idt"], found["idt_limit"]),
            ),
        )

    @property
    def full(self) -> int:
        """Return the address at which a vCPU stands that finds no room in the ring."""
        return self.label("full")

    def await_room(self) -> int:
        """Have a vCPU read a word where it finds no room; return its linear address."""
        return self._rung("FULL")

    @property
    def halts_when_full(self) -> bool:
        """Tell whether a vCPU stops there; in real time it turns, as time passes at a stop too."""
        return not self._view.realtime

    # ---- asking

    def for_handler(self, vcpu: int) -> bool:
        """Tell whether a handler of the guest's has asked for what a vCPU stands before."""
        return any(self._view.memory.read(self.code.vmcb(vcpu) + monitor.ASKED, 8))

    def await_asking(self) -> int:
        """Have a vCPU read a word where somebody is to be asked; return its linear address."""
        return self._rung("ASK")

    @property
    def ring(self) -> int:
        """Return the address at which a vCPU stands where somebody is to be asked."""
        return self.label("ring")

    def label(self, name: str) -> int:
        """Return the address of a label of the monitor's code, linear and physical."""
        return self.code.label(name)

    def is_inside(self, cr3: int) -> bool:
        """Tell whether a vCPU with these page tables is in the monitor."""
        return cr3 in (self.code.root(4), self.code.root(5))

    def ask(self, inputs: int, since: int | None = None) -> None:
        """Have these inputs be asked about, from a time-stamp counter on all; every vCPU stands."""
        if (inputs, since) != self._asked:
            self._asked = inputs, since
            self._view.memory.write(self.code.flags, flagging.pages(inputs, since))

    def also(self, inputs: int) -> None:
        """Have further inputs be asked about until :meth:`ask` is called; the guest may run."""
        asked, since = self._asked
        self.ask(asked | inputs, since)

    def record(self, vcpu: int) -> bytes:
        """Return the record of what a vCPU that stands there is about."""
        return self._view.memory.read(self.code.vmcb(vcpu) + monitor.RECORD_PLACE, SLOT_SIZE)

    def of_guest(self, vcpu: int) -> dict[str, int]:
        """Return what registers of a vCPU's guest are, of those that the monitor has others in."""
        gpr = struct.unpack("<16Q", self._view.memory.read(self.code.state(vcpu), 128))
        return {**dict(zip(GPR, gpr, strict=True)), **self._outside(self.code.vmcb(vcpu))}

    def _outside(self, place: int) -> dict[str, int]:
        return vmcb.outside(self._view.memory.read(place, vmcb.SIZE))

    def state(self, vcpu: int, cpu: CpuState) -> CpuState:
        """Return the state that the guest goes on in, of which ``cpu`` tells the rest."""
        told = self.of_guest(vcpu)
        gpr = tuple(told[name] for name in GPR)
        return replace(cpu, gpr=gpr, rip=told["rip"], rflags=told["eflags"])

    def restore(self, vcpu: int, cpu: CpuState) -> None:
        """Have the guest go on in another state."""
        for offset, data in monitor.going_on(cpu):
            self._view.memory.write(self.code.vmcb(vcpu) + offset, data)

    def inject(self, vcpu: int, vector: int, error_code: int | None, linear: int | None) -> None:
        """Have the guest take an exception; ``linear`` becomes CR2."""
        offset, data = vmcb.event_of(vector, error_code)
        self._view.memory.write(self.code.vmcb(vcpu) + offset, data)
        if linear is not None:
            place, word = self.code.vmcb(vcpu) + vmcb.REGISTERS["cr2"], linear.to_bytes(8, "little")
            self._view.memory.write(place, word)

    def decide(self, vcpu: int, what: int) -> None:
        """Say what becomes of the access that a vCPU stands before."""
        place = self.code.vmcb(vcpu) + monitor.DECIDED
        self._view.memory.write(place, what.to_bytes(8, "little"))

    def tell(self, vcpu: int, value: int, width: int, at: int = 0) -> None:
        """Put a value of ``width`` bytes into the record, ``at`` bytes behind its first."""
        place = self.code.vmcb(vcpu) + monitor.RECORD_PLACE + INPUT_FIELDS["VALUE"] + at
        self._view.memory.write(place, value.to_bytes(width, "little"))

    def check(self) -> None:
        """Raise InterceptError where the guest has left for something that nobody knows."""
        code = self._word("UNKNOWN")
        if code:
            raise InterceptError(f"the guest has left for its monitor with exit code {code:#x}")

    def leave(self) -> None:
        """Have the guest go on without being told of; no vCPU runs.

        It stays inside: SVM stays hidden, and nothing else is intercepted.
        """
        code, memory = self.code, self._view.memory
        self._write(monitor.PLACE, code.code)
        self.follow(self._view.regions)
        self._write(monitor.word("CLOSED"), (1).to_bytes(8, "little"))
        self._write(monitor.word("DOMAIN"), bytes(8))
        quiet = code.shared(False, False, (), 0)[monitor.MAPS :]
        memory.write(code.root(5) + monitor.MAPS, quiet)
        for vcpu in range(self._view.vcpus):
            words = code.vmcb(vcpu) + vmcb.INTERCEPTS
            now = int.from_bytes(memory.read(words, 8), "little")
            memory.write(words, quiet_intercepts(now).to_bytes(8, "little"))

    def account(self) -> None:
        """Count what was not recorded, and what firmware had to do."""
        for word, name in (("NESTED", "inputs lost"), ("MANAGED", "smis")):
            count = self._word(word)
            if count:
                self._journal.counts[name] = count

    def count(self, name: str) -> int:
        """Return how often the code has done something: see :func:`tracer.compiled.module.counter`.

        Of a guest of SEV-ES, ``UNASKED`` is for which #VC the host was not asked.
        """
        return self._quadword(module.counter(name))

    def _word(self, name: str) -> int:
        return self._quadword(monitor.word(name))

    def _quadword(self, offset: int) -> int:
        return int.from_bytes(self._view.memory.read(self._block + offset, 8), "little")

    def _write(self, offset: int, data: bytes) -> None:
        self._view.memory.write(self._block + offset, data)
