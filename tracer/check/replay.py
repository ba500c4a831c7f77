"""Carry recorded instructions out again, without a guest, and hold each to its record.

Every record has the code, the registers before, and what each load read. Decode and emulator must
come to the same registers, flags, length and accesses, bit for bit. Of a native step nothing but
its fault and its place can be held to the record: it is counted. What a confidential guest asked
for is held to the instruction as well: see :mod:`tracer.check.asked`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tracer.access.recorded import state_of
from tracer.access.transfer import cut
from tracer.check.asked import contrasts, refused
from tracer.check.divergence import Contrast, Divergence, diverging
from tracer.check.input import contrasts_of_accesses, contrasts_of_code, is_known
from tracer.errors import EmulationError
from tracer.trace.record import (
    Intercept,
    LostRecord,
    MemoryAccess,
    Record,
    RegionRecord,
    UserRecord,
)
from tracer.trace.registers import Deferred, changed_values
from tracer.x86.bus import In, Load, PortAccess, Store
from tracer.x86.decode import decode
from tracer.x86.emulate import execute
from tracer.x86.instruction import Instruction
from tracer.x86.state import GPR, CpuState, Mode, PageFaultCode

_NEEDED = frozenset(("rflags", *GPR))
_MODES = {mode.value: mode for mode in Mode}


@dataclass(slots=True)
class Counts:
    """Count records: ``replayed`` and held to their record, natively ``stepped``, ``incomplete``.

    An incomplete record lacks registers that its instruction sees, as those of an older vetrace do,
    or the instruction.
    """

    replayed: int = 0
    stepped: int = 0
    incomplete: int = 0

    def add(self, other: Counts) -> None:
        """Add the counts of another part of the trace."""
        self.replayed += other.replayed
        self.stepped += other.stepped
        self.incomplete += other.incomplete


class Replay:
    """Replay records as they come, in memory that does not grow with their number.

    ``earlier`` holds the ``region`` and ``user`` records from before, ``vcpus`` is how many the
    guest has where that is known. ``first`` is the first record of an instruction, ``next_seq`` the
    number that the next one must have, None where any will do. ``left_out`` tells that accesses
    before ``first`` were. ``ways`` counts the device accesses by how they were carried out.
    """

    def __init__(
        self,
        earlier: Iterable[Record] = (),
        vcpus: int | None = None,
        next_seq: int | None = None,
    ) -> None:
        self.counts = Counts()
        self.first: Intercept | None = None
        self.next_seq = next_seq
        self.left_out = False
        self.ways: Counter[str] = Counter()
        self._vcpus = vcpus
        self._changed_by_hand = False
        # By name: first and last physical address, and that of offset 0.
        self._regions: dict[str, list[tuple[int, int, int]]] = {}
        for record in earlier:
            self.add(record)

    def add(self, record: Record) -> Divergence | None:
        """Replay one record; return how it diverges, or None."""
        if isinstance(record, Intercept):
            return self._intercept(record)
        if isinstance(record, RegionRecord):
            start, base = record.region.start, record.region.base
            place = start, record.region.end, start if base is None else base
            self._regions.setdefault(record.region.name, []).append(place)
        if isinstance(record, UserRecord) and record.registers:
            self._changed_by_hand = True
        if isinstance(record, LostRecord) and record.seq is not None:
            self.next_seq = record.seq
            self.left_out = self.first is None
        return None

    def _intercept(self, record: Intercept) -> Divergence | None:
        seq = record.seq
        due = seq if self.next_seq is None else self.next_seq
        if self.first is None:
            self.first = record
        wrong = [] if seq == due else [Contrast("seq", str(due), str(seq))]
        if self._vcpus is not None and record.vcpu >= self._vcpus:
            wrong.append(Contrast("vcpu", f"below {self._vcpus}", str(record.vcpu)))
        devices = 0
        for access in record.accesses:
            if access.region is not None:
                devices += 1
                wrong += self._place(access)
        self.next_seq = seq + devices
        self.ways[record.via] += devices
        if record.via == "stepped":
            self.counts.stepped += 1
            wrong += _fault(record, located=True)
        else:
            try:
                wrong += self._executed(record)
            except _Incomplete:
                self.counts.incomplete += 1
            else:
                self.counts.replayed += 1
        if not wrong:
            return None
        return diverging(record, *wrong)

    def _executed(self, record: Intercept) -> list[Contrast]:
        if record.via == "monitor":
            wrong = contrasts_of_accesses(record)
            if wrong:
                return wrong
            if not is_known(record):
                raise _Incomplete
            return contrasts_of_code(record)
        if record.via == "guest":
            wrong = contrasts(record, _first(record))
            if wrong or not record.agrees or refused(record):
                return wrong  # no instruction has been completed by what was asked for
        return _carry_out(record, located=not self._changed_by_hand)

    # A page maps as a whole, and an access to a region lies in it.
    def _place(self, access: MemoryAccess) -> list[Contrast]:
        if access.space not in ("memory", "port"):
            return []
        physical, linear = access.physical, access.linear
        if access.space == "memory" and (physical ^ linear) & 0xFFF:
            return [Contrast("physical", f"…{linear & 0xFFF:03x}", hex(physical))]
        places = self._regions.get(access.region or "")
        if places is not None:
            # A region that moved has several, of which the offset tells one.
            bases = [base for start, end, base in places if start <= physical <= end]
            if not bases:
                known = ", ".join(f"{start:#x}-{end:#x}" for start, end, _ in places)
                return [Contrast(f"physical in {access.region}", known, hex(physical))]
            offsets = [physical - base for base in bases]
            if access.offset not in offsets:
                return _same(f"offset in {access.region}", access.offset, offsets[-1])
        return []


def compiled_again(
    records: Iterable[Record], vcpus: int | None = None
) -> tuple[Counts, Divergence | None]:
    """Replay what compiled sites made, up to the first divergence: the vCPU did that by itself."""
    replay = Replay(vcpus=vcpus)
    for record in records:
        if isinstance(record, Intercept) and record.via != "compiled":
            continue
        replay.next_seq = None  # others lie between
        divergence = replay.add(record)
        if divergence is not None:
            return replay.counts, divergence
    return replay.counts, None


# Plain integers: a flag's complement has the named bits alone, and each operation takes its time.
_W, _U, _RSVD = int(PageFaultCode.W), int(PageFaultCode.U), int(PageFaultCode.RSVD)
_I = int(PageFaultCode.I)
_POSSIBLE = _RSVD | _U | _W | _I | int(PageFaultCode.P)


# The fault is that of poison, at the privilege level of the code, and where it is ``located`` by an
# access of the record: in its bytes and its direction; or it is the instruction that lies there,
# in RAM beside a device. Whether P is set with RSVD is the CPU's way
# of telling; QEMU leaves it clear. Ref: Intel SDM vol. 3A, 4.7.
def _fault(record: Intercept, *, located: bool) -> list[Contrast]:
    code, cr2 = record.error_code, record.cr2
    wrong: list[Contrast] = []
    if not code & _RSVD or code & ~_POSSIBLE or (code & _I and code & _W):
        wrong.append(Contrast("error_code", "RSVD, with P, W, U and I at most", hex(code)))
    elif bool(code & _U) != (record.cpl == 3):
        expected = "3" if code & _U else "0 to 2"
        wrong.append(Contrast("cpl by error_code", expected, str(record.cpl)))
    if not located:
        return wrong
    if code & _I:
        if not record.rip <= cr2 < record.rip + len(record.code):
            wrong.append(Contrast("cr2", "within the instruction", hex(cr2)))
        return wrong
    direction = "write" if code & _W else "read"
    found = set()
    for access in record.accesses:
        if access.linear <= cr2 < access.linear + access.span:
            found.add(access.direction)
    if not found:
        wrong.append(Contrast("cr2", "within an access", hex(cr2)))
    elif not found & {direction, "unknown"}:
        wrong.append(Contrast("direction by error_code", direction, found.pop()))
    return wrong


# The only access that a handler in the guest can make for an instruction: the first, where that is
# made at once. None where there is no such one.
def _first(record: Intercept) -> Load | Store | None:
    mode = _MODES.get(record.mode)
    if mode is None or not record.before.keys() >= _NEEDED:
        return None
    try:
        insn = decode(record.code, record.rip, mode)
        access = next(execute(insn, _state(record, insn)))
    except (EmulationError, StopIteration):
        return None
    if isinstance(access, PortAccess) or len(list(cut(access.linear, access.width))) > 1:
        return None
    return access


class _Incomplete(Exception):
    # The record lacks a register that its instruction sees, or what it read.
    pass


def _carry_out(record: Intercept, *, located: bool) -> list[Contrast]:
    if not all(access.width for access in record.accesses):
        raise _Incomplete  # the guest's end came first
    mode = _MODES.get(record.mode)
    if mode is None or not record.before.keys() >= _NEEDED:
        missing = ", ".join(sorted(_NEEDED - record.before.keys()))
        actual = f"no {missing}" if missing else f"mode {record.mode}"
        return [Contrast("before", "rflags and 16 registers", actual)]
    try:
        insn = decode(record.code, record.rip, mode)
        # A REP goes on at one stop: only its first iteration is where the CPU faulted.
        wrong = _fault(record, located=located and insn.rep is None)
        if record.text != insn.text:
            wrong.append(Contrast("text", record.text, insn.text))
        if insn.length != len(record.code):
            wrong.append(Contrast("length", str(len(record.code)), str(insn.length)))
        cpu = _state(record, insn)
        after, accesses = _execute(insn, cpu, record.accesses)
    except EmulationError as error:
        return [Contrast("outcome", "emulated", str(error))]
    wrong += accesses
    if after is None or isinstance(record.after, Deferred):  # it is the emulator's own
        return wrong
    if record.after != (changed := changed_values(cpu, after)):
        for name in sorted(record.after.keys() | changed.keys(), key=_rank):
            wrong += _same(
                name,
                record.after.get(name, record.before.get(name)),
                changed.get(name, record.before.get(name)),
            )
    return wrong


def _same(name: str, expected: int | None, actual: int | None) -> list[Contrast]:
    if expected == actual:
        return []
    texts = [None if number is None else hex(number) for number in (expected, actual)]
    return [Contrast(name, *texts)]


_ORDER = {name: rank for rank, name in enumerate(("rip", "rflags", *GPR))}


def _rank(name: str) -> tuple[int, str]:
    return _ORDER.get(name, len(_ORDER)), name


def _state(record: Intercept, insn: Instruction) -> CpuState:
    state = state_of(record, insn)
    if state is None:
        raise _Incomplete
    return state


# Run the emulator against the recorded accesses; the state is None when they part.
def _execute(
    insn: Instruction, cpu: CpuState, accesses: list[MemoryAccess]
) -> tuple[CpuState | None, list[Contrast]]:
    emulation = execute(insn, cpu)
    at = 0

    def alike(linear: int, size: int) -> int:
        return _room(accesses[at:], linear, size)

    for access in emulation:
        if isinstance(access, PortAccess):
            # A port is in no record, but what INS had of it has gone to memory.
            if isinstance(access, In):
                emulation.answer = _joined(accesses[at:])
            continue
        whole = 0
        for linear, width in cut(access.linear, access.width, alike):
            recorded = accesses[at] if at < len(accesses) else None
            shift = 8 * (linear - access.linear)
            value = _value(access, shift, width, recorded)
            direction = "read" if isinstance(access, Load) else "write"
            if value is None or not _is_recorded(recorded, direction, linear, width, value):
                expected = None if recorded is None else _told(recorded)
                actual = f"{direction} {width} at {linear:#x}{_equals(value)}"
                return None, [Contrast(f"access {at}", expected, actual)]
            whole |= value << shift
            at += 1
        if isinstance(access, Load):
            emulation.answer = whole
    rest = enumerate(accesses[at:], at)
    return emulation.after, [Contrast(f"access {n}", _told(a), None) for n, a in rest]


# The value that accesses in a row were of together, lowest first.
def _joined(accesses: Sequence[MemoryAccess]) -> int:
    value = shift = 0
    for access in accesses:
        value |= (access.value or 0) << shift
        shift += 8 * access.width
    return value


# The value written or read by the part of an access that begins ``shift`` bits into it.
def _value(
    access: Load | Store, shift: int, width: int, recorded: MemoryAccess | None
) -> int | None:
    if isinstance(access, Load):
        return None if recorded is None else recorded.value
    return access.value >> shift & (1 << 8 * width) - 1


def _is_recorded(
    recorded: MemoryAccess | None, direction: str, linear: int, width: int, value: int
) -> bool:
    return (
        recorded is not None
        and (recorded.direction, recorded.width) == (direction, width)
        and recorded.linear == linear
        and recorded.value == value
        and not value >> 8 * width
    )


# How many of ``size`` bytes from a linear address on were recorded as of one device; the rest is of
# another one in the same page.
def _room(accesses: Sequence[MemoryAccess], linear: int, size: int) -> int:
    room = 0
    for access in accesses:
        if access.linear != linear + room or access.direction != accesses[0].direction:
            break
        if access.region != accesses[0].region:
            return min(room, size)
        room += access.width
    return size


def _told(access: MemoryAccess) -> str:
    return f"{access.direction} {access.width} at {access.linear:#x}{_equals(access.value)}"


def _equals(value: int | None) -> str:
    return "" if value is None else f" = {value:#x}"
