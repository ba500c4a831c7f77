"""Trace records: what one run saw and did, a JSON object a line.

``docs/trace-format.md`` is the contract, which this module implements, with
:mod:`tracer.trace.call` for confidential guests and :mod:`tracer.trace.compiled` for compiled
sites. Addresses, register values and data are numbers here, and hex text in the file: see
:mod:`tracer.trace.wire`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec

from tracer.trace.call import Hypercall, SharedRecord, TdcallRecord, VmgexitRecord
from tracer.trace.compiled import BlockRecord, PlacesRecord, SiteRecord
from tracer.trace.member import Count, Extent, Space, Vcpu, Via, Width
from tracer.trace.queue import QueueRecord
from tracer.trace.waiting import WaitRecord
from tracer.trace.wire import Code, Hex
from tracer.x86.bus import Direction

FORMAT_VERSION = 3


class RegionInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Describe one physical region: ``start`` and ``end`` (inclusive) are physical addresses.

    ``within`` names the devices that ``device`` is a part of, the nearest first, ``types`` QEMU's
    types of all of these that no device is called by. ``base`` is the physical address of offset
    0 where that is not ``start``, as another region covers the beginning. ``space`` is where the
    addresses lie.
    """

    name: str
    start: Hex
    end: Hex
    qemu_name: str
    device: str
    traced: bool
    within: list[str] = []
    types: list[str] = []
    base: Hex | None = None
    space: Space = "memory"

    @property
    def owners(self) -> tuple[str, ...]:
        """Return every name that stands for a device which the region belongs to."""
        return (self.device, *self.within, *self.types)


class Header(
    msgspec.Struct, frozen=True, kw_only=True, tag="header", tag_field="type", omit_defaults=True
):
    """Open a trace: the format's version, and what ran.

    ``software`` are the words of the command line that put more into the guest, or run it.
    """

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
    software: list[str] = []


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


class Intercept(
    msgspec.Struct, frozen=True, kw_only=True, tag="mmio", tag_field="type", omit_defaults=True
):
    """Record one execution of an instruction that touched a traced region.

    One iteration of a REP instruction is one execution. ``seq`` numbers the first device access
    of the record; further device accesses of the same record count on from it, so that every
    device access of a trace has a number of its own. ``before`` holds RFLAGS and the sixteen
    general-purpose registers; ``after`` only what changed. Both may be
    :class:`tracer.trace.registers.Deferred`.
    ``stack`` is the ``id`` of a :class:`StackRecord` before it, ``thread`` what a row has of the
    thread that made it. Where ``via`` is ``guest``,
    ``asked`` is the call by which the guest asked for the access, and ``agrees`` tells whether it
    is the one that the instruction makes; ``accesses`` has what was asked for. ``cause`` is what
    sent an interrupt, which readers add: see :mod:`tracer.trace.cause`.
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
    cause: str | None = None

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
    """Note a moment of the run in words: kernel entry, a user's mark.

    With ``last`` another guest, which is not traced, begins there.
    """

    time_ns: Count
    text: str
    qemu_log_offset: int | None = None
    qemu_log_from: int | None = None
    last: bool = False


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
    | WaitRecord
    | QueueRecord
    | End
)
"""Everything that a run tells, in its order."""


Line = Record | SiteRecord | PlacesRecord | BlockRecord
"""Everything that may follow the header: of blocks, and what they need, intercepts are made."""
