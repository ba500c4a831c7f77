"""Records of the monitor's as records of the trace.

They are of ports, MSRs, CPUID, the time-stamp counter, interrupts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec.structs import replace

from tracer.compiled.inputs import Given, Input, InputSite, given, state_behind
from tracer.compiled.message import Message, came_of_message, message_of
from tracer.compiled.ring import Raw
from tracer.errors import EmulationError, TraceError
from tracer.trace.compiled import SiteRecord
from tracer.trace.configuration import DATA, REGION, Latch
from tracer.trace.member import Space
from tracer.trace.record import Intercept, MemoryAccess, RegionInfo
from tracer.trace.registers import Deferred, changed_values, register_values
from tracer.x86.bus import Direction
from tracer.x86.instruction import Instruction
from tracer.x86.state import CpuState, Mode

INPUT_SPACES: dict[Input, Space] = {
    Input.PORT: "port",
    Input.MSR: "msr",
    Input.CPUID: "cpuid",
    Input.TSC: "tsc",
    Input.IRQ: "irq",
}
"""Where each kind of input has its addresses. All but ports are regions of the same name."""
KIND_OF_SPACE = {space: kind for kind, space in INPUT_SPACES.items()}

SUBLEAVES = frozenset(
    {
        0x4, 0x7, 0xB, 0xD, 0xF, 0x10, 0x12, 0x14, 0x17, 0x18, 0x1A, 0x1B, 0x1D, 0x1E, 0x1F, 0x20,
        0x21, 0x23, 0x24, 0x8000001D, 0x80000020, 0x80000026,
    }
)  # fmt: skip
"""Leaves of CPUID that heed ECX: the offset tells a subleaf of these alone.

Ref: Intel SDM vol. 2A, CPUID; AMD64 Architecture Programmer's Manual vol. 3, appendix E.
"""

RAISED = "the CPU raised an exception in its place"
"""The note of an access that was not made."""

LEFT_OUT = "not carried out, as was asked for"
CHANGED = "another value, as was asked for"
"""The notes of an access of which somebody who was asked has decided so."""

Find = Callable[[int, Direction], tuple[str, int] | None]
"""Returns the region of a port and the offset in it, None where nothing is announced."""


_VECTORS = 256
_ADDRESSES = 1 << 32

MESSAGE_WIDTH = 4
"""Bytes of a message's data."""


def messages() -> RegionInfo:
    """Return the region of messages as it is announced: its offsets are physical addresses."""
    return RegionInfo(
        name="msi", start=0, end=_ADDRESSES - 1, qemu_name="", device="msi", traced=True,
        space="msi",
    )  # fmt: skip


def interrupts() -> RegionInfo:
    """Return the region of interrupts as it is announced, where QEMU's log tells of them as well.

    Its offsets are vectors.
    """
    return RegionInfo(
        name="irq", start=0, end=_VECTORS - 1, qemu_name="", device="irq", traced=True, space="irq"
    )


def input_site(site: InputSite, time_ns: int, symbol: str | None = None) -> SiteRecord:
    """Return the line that tells of a site of inputs."""
    insn = site.insn
    manner = site.manner
    return SiteRecord(
        time_ns=time_ns,
        number=site.number,
        rip=site.place.rip,
        symbol=symbol,
        code=b"" if insn is None else insn.code,
        text=mnemonic_of(site.kind, site.manner.direction) if insn is None else insn.text,
        asked="write" if manner.write else "read",
        width=manner.width,
        space=INPUT_SPACES[site.kind],
        mode=site.place.mode.value,
    )


def mnemonic_of(kind: Input, direction: Direction) -> str:
    """Return how an instruction is called whose bytes are not known, by what it did alone."""
    writes = direction == "write"
    match kind:
        case Input.PORT:
            return "out" if writes else "in"
        case Input.MSR:
            return "wrmsr" if writes else "rdmsr"
        case Input.CPUID:
            return "cpuid"
        case Input.TSC:
            return "rdtsc"
        case Input.IRQ:
            return "interrupt"


def accesses_of(kind: Input, address: int, alias: int = 0) -> int:
    """Return how many accesses a record of a kind has that is about that port, register or leaf.

    ``alias`` is the row's, which tells whether an interrupt came of a message.
    """
    match kind:
        case Input.CPUID:
            return 4
        case Input.IRQ if came_of_message(alias):
            return 2
        case Input.PORT if address in DATA:
            return 2
        case _:
            return 1


def kind_of(told: SiteRecord) -> Input | None:
    """Return the kind of input that a site is of, None for memory. Raises TraceError for others."""
    if told.space == "memory":
        return None
    if told.space not in KIND_OF_SPACE or told.asked is None or told.width is None:
        raise TraceError(f"site {told.number}: no access to {told.space} is told by it")
    return KIND_OF_SPACE[told.space]


def intercept_of_input(
    told: SiteRecord,
    kind: Input,
    raw: Raw,
    seq: int,
    time_ns: int,
    find: Find,
    insn: Instruction | None,
    stack: int | None,
    latch: Latch | None = None,
    cause: str | None = None,
) -> Intercept:
    """Return the record of one access; ``find`` knows ports.

    ``latch`` is as it was before, ``cause`` what sent an interrupt.
    """
    says = given(raw, kind)
    if says.cpl > 3:
        raise TraceError(f"an input at privilege level {says.cpl}")
    accesses = accesses_made(kind, says, find)
    if kind is Input.PORT and says.address in DATA:
        accesses.append(configuration_access(accesses[0], latch or Latch()))
    message = message_of(raw) if kind is Input.IRQ else None
    if message is not None:
        accesses.insert(0, message_access(message))
    return Intercept(
        seq=seq,
        time_ns=time_ns,
        vcpu=raw.vcpu,
        cpl=says.cpl,
        mode=told.mode,
        rip=told.rip,
        symbol=told.symbol,
        code=told.code,
        text=told.text,
        cr2=0,
        error_code=0,
        via="monitor",
        accesses=accesses,
        before=Deferred(_before, told, raw),
        after=Deferred(_after, told, kind, says, raw, insn),
        note=RAISED if says.manner.raised else None,
        stack=stack,
        thread=raw.thread or None,
        cause=cause,
    )


def accesses_made(kind: Input, says: Given, find: Find) -> list[MemoryAccess]:
    """Return the accesses that a record of a kind tells of.

    Those to configuration space and of a message are not among them.
    """
    space = INPUT_SPACES[kind]
    width = 4 if kind is Input.CPUID else says.manner.width
    region, offset = _place(kind, says, space, find)
    return [
        MemoryAccess(
            direction=says.direction,
            width=width,
            linear=0,
            physical=says.address,
            value=None if says.manner.raised and not says.manner.write else value,
            region=region,
            offset=offset + width * number,
            skipped=bool(says.manner.raised),
            space=space,
        )
        for number, value in enumerate(says.values)
    ]


# ECX says something to some leaves alone. To others programs leave in it what is there, which is
# no other place. An offset has 64 bits.
def _leaf(address: int) -> int:
    leaf = address & 0xFFFF_FFFF
    return leaf | (address & 0xFFF_FFFF << 32 if leaf in SUBLEAVES else 0)


# It is there whether configuration space was reached or not: a row has as many accesses as it has,
# whatever came before it.
def configuration_access(port: MemoryAccess, latch: Latch) -> MemoryAccess:
    """Return the access to configuration space that one to a port of :data:`DATA` is."""
    address, reached = latch.lead(port.physical, port.width)
    return replace(
        port,
        physical=address,
        region=REGION,
        offset=address,
        skipped=port.skipped or not reached,
        space="config",
    )


# An address that is not known is told as 0, where no message goes.
def message_access(message: Message) -> MemoryAccess:
    """Return the access that the message of an interrupt is: of a device, and no vCPU's."""
    address = message.address or 0
    return MemoryAccess(
        direction="read",
        width=MESSAGE_WIDTH,
        linear=0,
        physical=address,
        value=message.data,
        region="msi",
        offset=address,
        space="msi",
    )


def interrupt_of(accesses: Sequence[MemoryAccess]) -> MemoryAccess | None:
    """Return the access of a record that is an interrupt, None where none is."""
    last = accesses[-1] if accesses else None
    return last if last is not None and last.space == "irq" else None


# A register of an MSR has 8 bytes, a leaf of CPUID 16: maps of registers tell them so.
def _place(kind: Input, says: Given, space: Space, find: Find) -> tuple[str, int]:
    match kind:
        case Input.PORT:
            return find(says.address, says.direction) or ("port", says.address)
        case Input.MSR:
            return space, 8 * says.address
        case Input.CPUID:
            return space, 16 * _leaf(says.address)
        case Input.TSC:
            return space, 0
        case Input.IRQ:
            return space, says.address


def _state(told: SiteRecord, raw: Raw) -> CpuState:
    return CpuState(raw.gpr, told.rip, raw.rflags, mode=Mode(told.mode))


def _before(told: SiteRecord, raw: Raw) -> dict[str, int]:
    return register_values(_state(told, raw))


def _after(
    told: SiteRecord, kind: Input, says: Given, raw: Raw, insn: Instruction | None
) -> dict[str, int]:
    before = _state(told, raw)
    return changed_values(before, state_behind(kind, says, before, insn))


def instruction_of(told: SiteRecord) -> Instruction | None:
    """Return the instruction of a site of inputs, None where its bytes are not known."""
    from tracer.x86.decode import decode  # capstone: a trace without blocks does not wait for it

    try:
        return decode(told.code, told.rip, Mode(told.mode)) if told.code else None
    except EmulationError:
        return None
