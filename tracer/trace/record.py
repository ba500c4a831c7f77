"""Trace records: what one run saw and did, a JSON object a line.

``docs/trace-format.md`` is the contract; this module is its only implementation. Addresses,
register values and data are numbers here, and hex text in the file: see :mod:`tracer.trace.wire`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Literal

import msgspec

from tracer.trace.wire import Code, Hex, Packed
from tracer.x86.bus import Direction

FORMAT_VERSION = 3


_LAST = (1 << 63) - 1

Count = Annotated[int, msgspec.Meta(ge=0, le=_LAST)]
"""A number of things, or of nanoseconds."""


Width = Annotated[int, msgspec.Meta(ge=0, le=1 << 16)]
"""Bytes of one access; 0 where they are not known, only the :data:`Extent` that they lie in."""


Extent = Annotated[int, msgspec.Meta(ge=1, le=1 << 16)]
"""Bytes within which accesses were made that are not known one by one."""


Space = Literal["memory", "port", "config", "irq"]
"""The target of an access: device memory, an I/O port, PCI configuration space, an interrupt."""


Via = Literal["emulated", "stepped", "compiled", "guest"]
"""How an access was carried out: by the emulator, by the vCPU in a native step or at a compiled
site, or for a confidential guest, whose kernel decoded the instruction and asked its host."""

Vcpu = Annotated[int, msgspec.Meta(ge=0, lt=1 << 16)]


class RegionInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Describe one physical region: ``start`` and ``end`` (inclusive) are physical addresses.

    ``within`` names the devices that ``device`` is a part of, the nearest first, ``types`` QEMU's
    types of all of these that no device is called by.
    """

    name: str
    start: Hex
    end: Hex
    qemu_name: str
    device: str
    traced: bool
    within: list[str] = []
    types: list[str] = []

    @property
    def owners(self) -> tuple[str, ...]:
        """Return every name that stands for a device which the region belongs to."""
        return (self.device, *self.within, *self.types)


class Header(msgspec.Struct, frozen=True, kw_only=True, tag="header", tag_field="type"):
    """Open a trace: the format's version, and what ran."""

    version: int
    tool: str
    created: str
    clock: Literal["icount", "realtime"]
    kernel: str
    kernel_sha256: str
    command_line: str
    memory: int
    vcpus: int
    qemu: str
    gdb: str
    qemu_args: list[str]


class RegionRecord(
    msgspec.Struct, frozen=True, kw_only=True, tag="region", tag_field="type", omit_defaults=True
):
    """Announce a physical region the first time it is known, or when it moved."""

    time_ns: Count
    region: RegionInfo


class MapRecord(
    msgspec.Struct, frozen=True, kw_only=True, tag="map", tag_field="type", omit_defaults=True
):
    """Tell that the guest mapped ``size`` bytes of a traced region.

    ``id`` is the number that a log gave the mapping, in a trace that was imported.
    """

    time_ns: Count
    linear: Hex
    physical: Hex
    size: Count
    regions: list[str]
    by: str
    id: Count | None = None


class MemoryAccess(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Record one access of an instruction, to a device (``region`` set) or to guest RAM.

    ``width`` is in bytes. ``value`` is absent when a natively stepped instruction hid it. Where it
    is hidden which bytes were accessed, ``width`` is 0 and ``extent`` tells within how many from
    the address on there were any number of accesses in this direction, of any width.
    ``offset`` is relative to the start of the region. Where a person stepped in, ``value`` is still
    what the instruction read or wrote; ``device`` is what the device gave or got in its place, and
    ``skipped`` says that the access never reached it. ``space`` is where the address lies.
    """

    direction: Direction
    width: Width
    linear: Hex
    physical: Hex
    value: Hex | None = None
    region: str | None = None
    offset: Hex | None = None
    device: Hex | None = None
    skipped: bool = False
    extent: Extent | None = None
    space: Space = "memory"

    @property
    def span(self) -> int:
        """Return how many bytes from the address on the access may have touched."""
        return self.width or self.extent or 1


class Hypercall(msgspec.Struct, frozen=True, kw_only=True):
    """Hold the registers of a call by name: what is ``given``, and what comes back."""

    given: Mapping[str, Hex] = msgspec.field(name="in")
    returned: Mapping[str, Hex] = msgspec.field(name="out")


class Intercept(
    msgspec.Struct, frozen=True, kw_only=True, tag="mmio", tag_field="type", omit_defaults=True
):
    """Record one execution of an instruction that touched a traced region.

    One iteration of a REP instruction is one execution. ``seq`` numbers the first device access
    of the record; further device accesses of the same record count on from it, so that every
    device access of a trace has a number of its own. ``before`` holds RFLAGS and the sixteen
    general-purpose registers; ``after`` only what changed. Both may be :class:`Deferred`.
    ``stack`` is the ``id`` of a :class:`StackRecord` before it, ``thread`` what a row has of the
    thread that made it. Where ``via`` is ``guest``,
    ``asked`` is the call by which the guest asked for the access, and ``agrees`` tells whether it
    is the one that the instruction makes; ``accesses`` has what was asked for.
    """

    seq: Count
    time_ns: Count
    vcpu: Vcpu
    cpl: Annotated[int, msgspec.Meta(ge=0, le=3)]
    mode: Literal[16, 32, 64]
    rip: Hex
    symbol: str | None = None
    code: Code
    text: str
    cr2: Hex
    error_code: Hex
    via: Via
    accesses: list[MemoryAccess]
    before: Mapping[str, Hex]
    after: Mapping[str, Hex]
    note: str | None = None
    stack: Count | None = None
    thread: Hex | None = None
    asked: Hypercall | None = None
    agrees: bool | None = None

    def device_accesses(self) -> list[tuple[int, MemoryAccess]]:
        """Return the accesses that reached a device, each with the number it has in the trace."""
        reached = [access for access in self.accesses if access.region is not None]
        return list(enumerate(reached, self.seq))

    @property
    def site(self) -> str:
        """Return the call site: its symbol and offset, else its linear address."""
        return self.symbol or hex(self.rip)

    @property
    def imported(self) -> bool:
        """Tell whether the record is from a log, which has neither code nor registers."""
        return not self.code and not self.before


BY_FRAME_POINTERS = "by frame pointers"
"""How a stack was made that may lack the caller of a function without a frame."""


class StackFrame(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Name a function under way: where it goes on, a linear address, and what is there."""

    rip: Hex
    symbol: str | None = None

    @property
    def site(self) -> str:
        """Return the call site: its symbol and offset, else its linear address."""
        return self.symbol or hex(self.rip)


class StackRecord(
    msgspec.Struct, frozen=True, kw_only=True, tag="stack", tag_field="type", omit_defaults=True
):
    """Tell which kernel functions called each other, the innermost first.

    ``lost`` says in words why the outermost ones are missing. ``by`` is absent where ORC tables
    tell every caller.
    """

    time_ns: Count
    id: Count
    frames: list[StackFrame]
    lost: str | None = None
    by: str | None = None


class Mark(
    msgspec.Struct, frozen=True, kw_only=True, tag="mark", tag_field="type", omit_defaults=True
):
    """Note a moment of the run in words: kernel entry, a user's mark."""

    time_ns: Count
    text: str
    qemu_log_offset: int | None = None
    qemu_log_from: int | None = None


class UserRecord(
    msgspec.Struct, frozen=True, kw_only=True, tag="user", tag_field="type", omit_defaults=True
):
    """Tell what the person at the prompt did to the guest: ``text`` is the command.

    ``accesses`` are those that the debugger made for it, at no linear address (0). ``registers``
    holds what was set.
    """

    time_ns: Count
    text: str
    vcpu: Vcpu = 0
    accesses: list[MemoryAccess] = []
    registers: dict[str, Hex] = {}


class LostRecord(
    msgspec.Struct, frozen=True, kw_only=True, tag="lost", tag_field="type", omit_defaults=True
):
    """Tell that records are missing here: the writer of an imported log lost events.

    ``count`` is how many, ``vcpu`` whose they were; each is absent where the log does not say.
    With a ``seq`` they are accesses that were left out as nobody wanted them, all before that one.
    """

    time_ns: Count
    vcpu: Vcpu | None = None
    count: Count | None = None
    seq: Count | None = None


class TdcallRecord(
    msgspec.Struct, frozen=True, kw_only=True, tag="tdcall", tag_field="type", omit_defaults=True
):
    """Record a call of the TDX module, or through it of the host, that is no device access.

    ``leaf`` is what RAX had, ``name`` the specification's for it, with that of what the host is
    asked. ``given`` are the registers that the call takes, ``returned`` those that it gives back.
    The calls by which a #VE tells of itself are counted alone.
    """

    time_ns: Count
    vcpu: Vcpu
    rip: Hex
    symbol: str | None = None
    leaf: Hex
    name: str
    given: Mapping[str, Hex] = msgspec.field(name="in")
    returned: Mapping[str, Hex] = msgspec.field(name="out")
    note: str | None = None

    @property
    def site(self) -> str:
        """Return the call site: its symbol and offset, else its linear address."""
        return self.symbol or hex(self.rip)


class VmgexitRecord(
    msgspec.Struct, frozen=True, kw_only=True, tag="vmgexit", tag_field="type", omit_defaults=True
):
    """Record a call by which an SEV-ES guest asks its host for what is no device access.

    With ``protocol`` it is a request of the MSR protocol, and the only field is ``msr``. ``code``
    is its number, else SW_EXITCODE, and ``name`` the specification's for it. ``given`` are the
    fields that are valid, ``returned`` those that the host sets.
    """

    time_ns: Count
    vcpu: Vcpu
    rip: Hex
    symbol: str | None = None
    protocol: bool = False
    code: Hex
    name: str
    given: Mapping[str, Hex] = msgspec.field(name="in")
    returned: Mapping[str, Hex] = msgspec.field(name="out")
    note: str | None = None

    @property
    def site(self) -> str:
        """Return the call site: its symbol and offset, else its linear address."""
        return self.symbol or hex(self.rip)


CallRecord = TdcallRecord | VmgexitRecord
"""A confidential guest's call that is no device access."""


class SharedRecord(
    msgspec.Struct, frozen=True, kw_only=True, tag="shared", tag_field="type", omit_defaults=True
):
    """Tell what becomes of RAM that a confidential guest shares with its host.

    ``map``: it asked for ``size`` bytes at ``physical`` to be made shared, or private again.
    ``touch``: it touched such RAM through a shared mapping of ``size`` bytes, at ``linear``, for
    the first time. ``converted`` tells whether it had asked for that before; where not, private and
    shared contents are two, on hardware, and here one.
    """

    time_ns: Count
    vcpu: Vcpu
    rip: Hex
    symbol: str | None = None
    what: Literal["map", "touch"]
    physical: Hex
    size: Hex
    shared: bool
    linear: Hex | None = None
    converted: bool | None = None

    @property
    def site(self) -> str:
        """Return the call site: its symbol and offset, else its linear address."""
        return self.symbol or hex(self.rip)


RELEASED = "detach"
"""The text of the record after which a guest runs on without being traced."""


class End(
    msgspec.Struct, frozen=True, kw_only=True, tag="end", tag_field="type", omit_defaults=True
):
    """Close a trace: how the run ended and what was counted.

    ``outcome`` is ``poweroff``, ``interrupted``, or the error in words. ``counts`` has at least
    ``accesses``, ``intercepts``, ``emulated``, ``stepped``, ``stops`` and ``hooks``.
    """

    time_ns: Count
    outcome: str
    counts: dict[str, int]


class SiteRecord(
    msgspec.Struct, frozen=True, kw_only=True, tag="site", tag_field="type", omit_defaults=True
):
    """Tell what all records of a compiled site have in common: its instruction, 64-bit code.

    ``number`` is what the rows of a :class:`BlockRecord` call it. Where a confidential guest's
    kernel decodes the instruction, ``asked`` and ``width`` tell the access that it asks for.
    """

    time_ns: Count
    number: Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]
    rip: Hex
    symbol: str | None = None
    code: Code
    text: str
    asked: Literal["read", "write"] | None = None
    width: Annotated[int, msgspec.Meta(ge=1, le=8)] | None = None


class Place(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Say that accesses at physical ``start`` to ``end`` (inclusive) are to a traced ``region``.

    ``base`` is the physical address of the region's offset 0. Where ``reads`` is false only writes
    reach the device.
    """

    region: str
    start: Hex
    end: Hex
    base: Hex
    reads: bool = True


class PlacesRecord(
    msgspec.Struct, frozen=True, kw_only=True, tag="places", tag_field="type", omit_defaults=True
):
    """Tell where traced regions are, sorted and disjoint, for the blocks that follow."""

    time_ns: Count
    places: list[Place]


class Rate(msgspec.Struct, frozen=True, kw_only=True):
    """Map a time-stamp counter to the guest's time: it advances ``span_ns`` in ``ticks``.

    At ``counter`` the time is ``time_ns``.
    """

    counter: Hex
    time_ns: Count
    ticks: Annotated[int, msgspec.Meta(ge=1, le=_LAST)]
    span_ns: Count

    def at(self, counter: int) -> int:
        """Return the guest's time in nanoseconds at a value of the counter."""
        time_ns = self.time_ns + (counter - self.counter) * self.span_ns // self.ticks
        return time_ns if time_ns < _LAST else _LAST  # a guest may set its counter

    def counter_at(self, time_ns: int) -> int:
        """Return the first value of the counter, from 1 on, at which it is that time or later."""
        if not self.span_ns:
            return 1
        ahead = -((self.time_ns - time_ns) * self.ticks // self.span_ns)
        return min(max(self.counter + ahead, 1), _LAST)


VIRTUAL = Rate(counter=0, time_ns=0, ticks=1, span_ns=1)
"""The counter under icount: it is virtual time in ns (QEMU, target/i386, cpu_get_tsc)."""


class BlockRecord(
    msgspec.Struct, frozen=True, kw_only=True, tag="block", tag_field="type", omit_defaults=True
):
    """Hold what compiled sites have left behind: ``rows`` as the guest wrote them.

    ``seq`` numbers the first device access, of which there are ``accesses``. ``window`` is the
    linear address that the guest's window has physical address 0 at. No record is before
    ``time_ns``; without a ``rate`` that is the time of all. ``stacks`` has, where it is not empty,
    the call chain of each row, or None.

    Ref: :mod:`tracer.compiled.layout` (a row), :mod:`tracer.trace.block` (what is made of it).
    """

    seq: Count
    time_ns: Count
    accesses: Count
    window: Hex
    rows: Packed
    rate: Rate | None = None
    stacks: list[Count | None] = []


Record = (
    RegionRecord
    | MapRecord
    | StackRecord
    | Intercept
    | Mark
    | UserRecord
    | LostRecord
    | TdcallRecord
    | VmgexitRecord
    | SharedRecord
    | End
)
"""Everything that a run tells, in its order."""


Line = Record | SiteRecord | PlacesRecord | BlockRecord
"""Everything that may follow the header: of blocks, and what they need, intercepts are made."""


class Deferred(Mapping[str, int]):
    """Hold registers that ``make`` works out of ``given``, once somebody looks at them."""

    __slots__ = ("_given", "_made", "_make")

    def __init__(self, make: Callable[..., Mapping[str, int]], *given: object) -> None:
        self._make = make
        self._given = given

    def __getitem__(self, name: str) -> int:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return repr(dict(self._values))

    @property
    def _values(self) -> Mapping[str, int]:
        try:
            return self._made
        except AttributeError:
            self._made: Mapping[str, int] = self._make(*self._given)
            return self._made
