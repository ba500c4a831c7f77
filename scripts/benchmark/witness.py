"""The comparison of a trace with QEMU's log: what faults in it cost, and what a lag."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import chain

import msgspec

from scripts.benchmark.result import Result
from tracer.check import witness
from tracer.check.comparison import Comparison
from tracer.errors import TraceError
from tracer.trace.record import Intercept, Mark, MemoryAccess, Record, RegionInfo, RegionRecord

RATIO_LIMIT = 3
"""How many times the time of a pair that agrees one that differs may take."""

_SIZE = 10**6
_FAULTS = 1_000
_LAG = 100_000
_REGIONS = {"nvme": 0xFEBF0000, "hpet": 0xFED00000, "ioapic": 0xFEC00000}
_REGISTERS = 64  # in each region
_SEED = 9


def faults_in_a_log() -> Result:
    """Compare a million accesses with a log that agrees, and with one that does not."""
    faults = _faults(random.Random(_SEED))
    clean, found = _timed({})
    if not found.agrees:
        raise TraceError("a log differs from the trace that it was made from")
    faulty, found = _timed(faults)
    expected = [sum(fault == kind for fault in faults.values()) for kind in _KINDS]
    if [found.missing, found.extra, found.different] != expected:
        raise TraceError(f"{found.missing, found.extra, found.different} found, not {expected}")
    ratio = faulty / clean
    return Result(
        f"{_SIZE:,} made-up accesses to three regions, compared with a log that agrees, and with"
        f" one that has {_FAULTS:,} faults (an entry put in, left out or changed) and in one place"
        f" lacks {_LAG:,} entries in a row. Every fault is found, and nothing else. Seconds are of"
        " processor time, without what it takes to make up records and lines.",
        (
            ("agrees", f"{clean:6.2f} s   ({_SIZE / clean:,.0f} accesses a second)"),
            ("differs", f"{faulty:6.2f} s"),
            ("differs : agrees", f"{ratio:6.2f}   (limit {RATIO_LIMIT})"),
        ),
        kept=ratio <= RATIO_LIMIT,
    )


_KINDS = ("missing", "extra", "different")


def _faults(random_: random.Random) -> dict[int, str]:
    # Kinds of fault by the number of the access.
    faults = {n: random_.choice(_KINDS) for n in random_.sample(range(_SIZE), _FAULTS)}
    lag = random_.randrange(_SIZE - _LAG)
    return faults | dict.fromkeys(range(lag, lag + _LAG), "extra")


def _timed(faults: dict[int, str]) -> tuple[float, Comparison]:
    # A comparison, and the seconds that it took beyond making up both sides.
    comparison: list[Comparison] = []
    made = _seconds(lambda: [sum(1 for _ in side) for side in (_records(), _log(faults))])
    whole = _seconds(lambda: comparison.append(witness.compare(_records(), _log(faults))))
    return whole - made, comparison[0]


def _seconds(work: Callable[[], object]) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun


def _access(number: int) -> tuple[str, int, int]:
    # Region, offset and value: no order that repeats soon, and values that tell accesses apart.
    region = tuple(_REGIONS)[number * 7919 % len(_REGIONS)]
    return region, 4 * (number * number // 7 % _REGISTERS), number * 2654435761 & 0xFFFFFFFF


def _records() -> Iterator[Record]:
    for name, start in _REGIONS.items():
        info = RegionInfo(
            name=name, start=start, end=start + 0xFFF, qemu_name=name, device=name,
            traced=True,
        )  # fmt: skip
        yield RegionRecord(time_ns=0, region=info)
    yield Mark(time_ns=0, text="kernel entry", qemu_log_offset=0)
    shape = Intercept(
        seq=0, time_ns=0, vcpu=0, cpl=0, mode=64, rip=0xFFFFFFFF8160A31E,
        symbol="nvme_pci_enable+0x5e", code=b"\x8b\x40\x1c", text="mov eax, dword ptr [rax + 0x1c]",
        cr2=0x0, error_code=0x8, via="emulated", accesses=[], before={}, after={},
    )  # fmt: skip
    for number in range(_SIZE):
        region, offset, value = _access(number)
        access = MemoryAccess(
            direction="read", width=4, linear=0x0, physical=_REGIONS[region] + offset,
            value=value, region=region, offset=offset,
        )  # fmt: skip
        yield msgspec.structs.replace(shape, seq=number, accesses=[access])


def _log(faults: dict[int, str]) -> Iterable[bytes]:
    return chain.from_iterable(_lines(number, faults.get(number)) for number in range(_SIZE))


def _lines(number: int, fault: str | None) -> Iterator[bytes]:
    if fault == "missing":
        yield _line(_SIZE + number)
    if fault != "extra":
        yield _line(number, 1 if fault == "different" else 0)


def _line(number: int, flipped: int = 0) -> bytes:
    region, offset, value = _access(number)
    place = f"addr {_REGIONS[region] + offset:#x} value {value ^ flipped:#x}"
    return f"memory_region_ops_read cpu -1 mr 0x5e0 {place} size 4 name '{region}'\n".encode()
