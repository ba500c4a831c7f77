"""Faults put into a trace and its log: each is found, once, and nothing but them; and no input is
too strange to be compared."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec
import trace_sample as sample
from hypothesis import given, settings
from hypothesis import strategies as st

from tracer.check.comparison import Comparison
from tracer.check.witness import compare
from tracer.trace.member import Via
from tracer.trace.record import Intercept, Mark, MemoryAccess, Record, UserRecord
from tracer.x86.bus import Direction

APART = 12
"""Accesses to a region between two faults: more than the eight that end a difference."""


def line(direction: str, address: int, width: int, value: int, name: str, cpu: int = 0) -> bytes:
    return (
        f"memory_region_ops_{direction} cpu {cpu} mr 0x5609916759e0 addr {address:#x}"
        f" value {value:#x} size {width} name '{name}'\n"
    ).encode()


@dataclass
class Pair:
    """A trace and its log, access by access, and what was done to them."""

    accesses: list[list[MemoryAccess]] = field(default_factory=list)
    log: list[list[bytes]] = field(default_factory=list)
    missing: int = 0
    extra: int = 0
    different: int = 0

    def compare(self) -> Comparison:
        records: list[Record] = [sample.region(name) for name in sample.START]
        records.append(Mark(time_ns=0, text="kernel entry", qemu_log_offset=0))
        made = [access for accesses in self.accesses for access in accesses]
        records += [sample.intercept(seq, access) for seq, access in enumerate(made)]
        return compare(records, [entry for entries in self.log for entry in entries])

    def faults(self) -> tuple[int, int, int]:
        return self.missing, self.extra, self.different


def told(access: MemoryAccess) -> list[bytes]:
    """Return the lines of an access: 8 bytes as two entries, unaligned loads as QEMU 7.2 does."""
    assert access.region is not None and access.value is not None
    name, address = sample.QEMU_NAME[access.region], access.physical
    value = access.value
    if address % 4:
        begin = address & -4
        whole = value << 8 * (address - begin)
        return [line("read", begin + n, 4, whole >> 8 * n & 0xFFFFFFFF, name) for n in (0, 4)]
    return [
        line(access.direction, address + n, 4, value >> 8 * n & 0xFFFFFFFF, name)
        for n in range(0, access.width, 4)
    ]


@st.composite
def shapes(draw: st.DrawFn) -> tuple[str, int, int, Direction]:
    name = draw(st.sampled_from(["nvme", "hpet"]))
    width = draw(st.sampled_from([4, 4, 8]))
    offset = draw(st.sampled_from([0x20, 0x28, 0x30]))
    direction: Direction = draw(st.sampled_from(["read", "write"]))
    if draw(st.booleans()) and width == 4:
        return name, offset + draw(st.integers(1, 3)), 4, "read"
    return name, offset, width, direction


@st.composite
def pairs(draw: st.DrawFn, most: int = 150) -> Pair:
    """Return a faithful pair in which every access has another value."""
    some = draw(st.lists(shapes(), min_size=1, max_size=30))
    pair = Pair()
    for number in range(draw(st.integers(1, most))):
        name, offset, width, direction = some[number * number // 7 % len(some)]
        value = number * 2654435761 & 0xFFFFFF | 0x1000000
        access = sample.device(name, offset, width, direction, value | value << 32 * (width == 8))
        pair.accesses.append([access])
        pair.log.append(told(access))
    return pair


def strange(region: str, number: int) -> MemoryAccess:
    """Make an access that no pair has."""
    return sample.device(region, 0x104, 4, "read", 0x70000000 + number)


FAULTS = ["drop", "lose", "change", "move", "add", "add to the log", "burst", "lag", "log lags"]


def spoil(pair: Pair, at: int, fault: str, count: int) -> None:
    """Put a fault before, or into, the access at a position."""
    (access,) = pair.accesses[at]
    many = [strange(access.region or "", 1000 * at + n) for n in range(count)]
    match fault:
        case "drop":  # what the log tells in two entries is two accesses, for all it knows
            pair.accesses[at] = []
            pair.missing += len(pair.log[at])
        case "lose":
            pair.log[at] = []
            pair.extra += 1
        case "change":
            value = (access.value or 0) ^ 1 << 20
            pair.accesses[at] = [msgspec.structs.replace(access, value=value)]
            pair.different += 1
        case "move":
            physical = access.physical + 0x100
            pair.accesses[at] = [msgspec.structs.replace(access, physical=physical)]
            pair.different += 1
        case "add":
            pair.accesses[at] = [many[0], access]
            pair.extra += 1
        case "add to the log":
            pair.log[at] = [*told(many[0]), *pair.log[at]]
            pair.missing += 1
        case "burst":
            pair.accesses[at] = [*many, access]
            lines = [b"".join(told(each)).replace(b"value 0x7", b"value 0x6") for each in many]
            pair.log[at] = [*lines, *pair.log[at]]
            pair.different += count
        case "lag":
            pair.log[at] = [*(entry for each in many for entry in told(each)), *pair.log[at]]
            pair.missing += count
        case "log lags":
            pair.accesses[at] = [*many, access]
            pair.extra += count


@settings(deadline=None)
@given(pairs())
def test_a_faithful_pair_agrees(pair: Pair) -> None:
    comparison = pair.compare()
    assert comparison.agrees and comparison.traced == len(pair.accesses)


@settings(deadline=None, max_examples=150)
@given(pairs(), st.data())
def test_each_fault_is_found_once_and_nothing_else(pair: Pair, data: st.DataObject) -> None:
    regions = [access.region for (access,) in pair.accesses]
    before = dict.fromkeys(regions, data.draw(st.integers(0, APART)))  # accesses since a fault
    after = {region: regions.count(region) for region in regions}
    for at, region in enumerate(regions):
        before[region] += 1
        after[region] -= 1
        if before[region] > APART < after[region] and data.draw(st.booleans()):
            spoil(pair, at, data.draw(st.sampled_from(FAULTS)), data.draw(st.integers(1, 300)))
            before[region] = 0
    comparison = pair.compare()
    assert (comparison.missing, comparison.extra, comparison.different) == pair.faults()
    assert comparison.cut is None
    balanced(comparison)


def test_a_lag_of_a_hundred_thousand_is_one_fault() -> None:
    for fault in ("lag", "log lags"):
        pair = Pair()
        for number in range(200):
            access = sample.device("hpet", 0x20, 4, "read", number)
            pair.accesses.append([access])
            pair.log.append(told(access))
        (pair.accesses[100],) = ([sample.device("nvme", 0x20, 4, "read", 1)],)
        pair.log[100] = told(pair.accesses[100][0])
        for number in range(50):  # so that the lagging region goes on
            access = sample.device("nvme", 0x24, 4, "read", number)
            pair.accesses.append([access])
            pair.log.append(told(access))
        spoil(pair, 100, fault, 100_000)
        comparison = pair.compare()
        assert (comparison.missing, comparison.extra, comparison.different) == pair.faults()


def balanced(comparison: Comparison) -> None:
    """Check that every access and every entry was counted once."""
    for counts in comparison.regions.values():
        assert counts.traced + counts.missing == counts.witnessed + counts.extra
        assert min(counts.missing, counts.extra, counts.different) >= 0


# ---- whatever comes

# Few places and few values, so that much fits and little agrees.
addresses = st.integers(sample.START["nvme"] - 4, sample.START["nvme"] + 20)
log_lines = st.one_of(
    st.builds(
        line,
        st.sampled_from(["read", "write"]),
        addresses,
        st.sampled_from([1, 2, 4, 8, 16, 99]),
        st.integers(0, 3),
        st.sampled_from(["nvme", "apic-msi", "", "it's"]),
        st.sampled_from([-1, 0, 1]),
    ),
    st.builds(
        lambda direction, at, size, name: (
            f"Invalid {direction} at addr 0x{at:X}, size {size}, region '{name}', reason: no\n"
        ).encode(),
        st.sampled_from(["read", "write"]),
        st.integers(0, 0x20),
        st.sampled_from([1, 2, 4, 8]),
        st.sampled_from(["nvme", "(null)", "hpet"]),
    ),
    st.binary(max_size=40).map(lambda data: data + b"\n"),
)


@st.composite
def made_accesses(draw: st.DrawFn) -> MemoryAccess:
    width = draw(st.sampled_from([0, 0, 1, 2, 4, 8, 10, 16, 32, 64, 108, 512, 65536]))
    known = width and draw(st.booleans())
    direction: Direction = draw(st.sampled_from(["read", "write", "unknown"]))
    physical = draw(addresses)
    return MemoryAccess(
        direction=direction,
        width=width,
        linear=0x0,
        physical=physical,
        value=draw(st.integers(0, 3)) if known else None,
        region="nvme",
        offset=max(physical - sample.START["nvme"], 0),
        extent=draw(st.sampled_from([None, 1, 8, 64, 4096])) if not width else None,
        device=draw(st.sampled_from([None, None, 1])) if known else None,
        skipped=draw(st.sampled_from([False] * 9 + [True])),
    )


@st.composite
def made_records(draw: st.DrawFn) -> list[Record]:
    records: list[Record] = [sample.region("nvme")]
    offset = draw(st.sampled_from([None, 0, 7, 300]))
    records.append(Mark(time_ns=0, text="kernel entry", qemu_log_offset=offset))
    texts = ["mov eax, [rdi]", "rep insb byte ptr [rdi], dx", "fxsave ptr [rdi]", "(bad)"]
    seq = 0
    for accesses in draw(st.lists(st.lists(made_accesses(), min_size=1, max_size=3), max_size=40)):
        via: Via = draw(st.sampled_from(["emulated", "stepped"]))
        record: Intercept = sample.intercept(
            seq, *accesses, via=via, text=draw(st.sampled_from(texts))
        )
        records.append(record)
        seq += len(accesses)
    if draw(st.booleans()):
        records.append(UserRecord(time_ns=0, text=draw(st.sampled_from(["poke", "detach"]))))
    return records


@settings(deadline=None, max_examples=100)
@given(made_records(), st.lists(log_lines, max_size=80), st.binary(max_size=30))
def test_nothing_is_too_strange(records: list[Record], log: list[bytes], end: bytes) -> None:
    comparison = compare(records, [*log, end] if end else log)
    balanced(comparison)
    assert comparison.traced >= 0
