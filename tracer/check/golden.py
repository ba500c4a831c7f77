"""Golden traces: what a driver's accesses are held to, and how they are recorded.

A golden is a trace like any other, cut down to some regions. It is compared as ``vetrace diff``
does it. Nothing here needs pytest: :mod:`tracer.pytest_plugin` is its edge to a test suite.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import zstandard

from tracer.check.diff import Differ, Rules, Side, compare
from tracer.check.lines import region_diff_lines
from tracer.check.survival import assert_survives
from tracer.devices import library
from tracer.errors import TraceError, TracerError, UsageError
from tracer.host.named_file import file_named
from tracer.host.typed import typed
from tracer.host.whole_file import new_file
from tracer.query.sieve import Sieve
from tracer.query.words import Selection, choose
from tracer.trace import codec
from tracer.trace.event import Events
from tracer.trace.mask import parse_mask
from tracer.trace.reader import TraceReader
from tracer.trace.record import End, Header, Intercept, MapRecord, Mark, Record, RegionRecord
from tracer.trace.varying import PASSING, VARYING

_HUNKS = 10  # shown of a region
_LEFT_OUT = "`ignore` leaves them out, or they vary with time, as a timer's do; `exact` keeps those"
# In an argument of QEMU's a comma separates, and two are one in a path.
_HOST_FOLDER = re.compile(r"(^|=)/(?:(?:[^,]|,,)*/)?")


@dataclass(frozen=True, slots=True)
class Held:
    """Tell what was held to what: a trace, its golden, and the words of ``vetrace diff`` for it."""

    trace: Path
    golden: Path
    words: tuple[str, ...] = ()


class GoldenMismatch(AssertionError):
    """Tell that a trace is not what its golden says; the message has the diff.

    ``held`` is None where there is no golden.
    """

    def __init__(self, message: str, held: Held | None = None) -> None:
        super().__init__(message)
        self.held = held


@dataclass(frozen=True, slots=True)
class Recording:
    """Name a trace file, and where the goldens are that a test holds it to.

    Relative names of goldens start from ``folder``. With ``record`` they are written instead of
    held to, and ``written`` gets the paths of those that changed. ``settled`` has those that an
    earlier test wrote or matched: they are held to, lest two tests overwrite each other's golden.
    """

    path: Path
    folder: Path = Path()
    record: bool = False
    written: list[Path] = field(default_factory=list)
    settled: set[Path] = field(default_factory=set)

    @property
    def header(self) -> Header:
        """Return the trace's first record: kernel, command line, versions. Raises TraceError."""
        with TraceReader(self.path) as trace:
            return trace.header

    @property
    def kernel(self) -> str:
        """Return the release of the guest's kernel, such as ``6.1.0-56-cloud-amd64``."""
        return self.header.kernel

    def records(self) -> list[Record]:
        """Return every record after the header. Raises TraceError when the trace is not whole."""
        return list(_whole(self.path)[1])

    @typed
    def assert_matches_trace(
        self,
        golden: Path | str,
        *,
        region: str | None = None,
        mask: Sequence[str] = (),
        ignore: Sequence[str] = (),
        exact: bool = False,
        alternatives: Sequence[Path | str] = (),
    ) -> None:
        """Hold this trace to a golden, as the function of this name does, or record it."""
        __tracebackhide__ = True
        path = self.folder / file_named(golden)
        changed = assert_matches_trace(
            self.path, path, region=region, mask=mask, ignore=ignore, exact=exact,
            alternatives=[self.folder / other for other in alternatives],
            record=self.record and path not in self.settled,
        )  # fmt: skip
        if changed:
            self.written.append(path)
        if changed or not alternatives:
            self.settled.add(path)

    @typed
    def assert_survives(self, profile: str | None = None, *, region: str | None = None) -> None:
        """Hold this trace to a confidential guest's handler, as the function of this name does."""
        __tracebackhide__ = True
        with TraceReader(self.path) as trace:
            assert_survives(trace, profile, region=region)


@typed
def assert_matches_trace(
    trace: Path | str,
    golden: Path | str,
    *,
    region: str | None = None,
    mask: Sequence[str] = (),
    ignore: Sequence[str] = (),
    exact: bool = False,
    alternatives: Sequence[Path | str] = (),
    record: bool = False,
) -> bool:
    """Raise :exc:`GoldenMismatch`, with the diff, when a trace does not match its golden.

    ``region`` is a region's name, its device's, or a glob; without it all regions count. ``mask``,
    ``ignore`` and ``exact`` are the options of ``vetrace diff``. ``alternatives`` are goldens of
    which one may match in its place, such as those of other releases of a kernel. With ``record``
    a golden that is missing or does not match, and has no alternative that does, is written, in one
    step; otherwise it is left as it is. Return whether it was written. Raise :exc:`TraceError` when
    a trace cannot be read to its end or has no such access, and ValueError when a mask is no mask.
    """
    __tracebackhide__ = True
    trace, golden, *others = map(Path, (trace, golden, *alternatives))
    rules = Rules(
        varying=(*map(parse_mask, mask), *(() if exact else VARYING)),
        passing=(*map(parse_mask, ignore), *(() if exact else PASSING)),
    )
    try:
        if record:
            return _record(trace, golden, others, region, rules)
        words = (
            *(() if region is None else (f"--region={region}",)),
            *(f"--mask={rule}" for rule in mask), *(f"--ignore={rule}" for rule in ignore),
            *(("--exact",) if exact else ()),
        )  # fmt: skip
        _hold(trace, golden, others, region, rules, words)
    except TracerError as error:
        # In a test suite the place in vetrace says nothing: the traceback ends in the test.
        kind = UsageError if isinstance(error, UsageError) else TraceError
        raise kind(str(error)) from None
    return False


def _hold(
    trace: Path,
    golden: Path,
    others: Sequence[Path],
    region: str | None,
    rules: Rules,
    words: tuple[str, ...],
) -> None:
    __tracebackhide__ = True
    known = [path for path in (golden, *others) if path.exists()]
    if not known:
        raise GoldenMismatch(f"there is no golden {golden}: make it with pytest --vetrace-record")
    diffs = (difference(path, trace, region, rules) for path in known)
    first = next(diffs)
    if first and all(diffs):
        told = [f"nor {path}" for path in known[1:]]
        message = "\n".join([first[0], *told, *first[1:]])
        raise GoldenMismatch(message, Held(trace, known[0], words))


def difference(
    golden: Path, trace: Path, region: str | None = None, rules: Rules | None = None
) -> list[str]:
    """Return the lines that tell how a trace differs from a golden: none when it matches.

    Raise :exc:`TraceError` when one cannot be read to its end, or has no such access.
    """
    differ = Differ(rules)
    was, expected = _sides(differ, golden, region)
    now, actual = _sides(differ, trace, region)
    lines: list[str] = []
    for name in sorted(expected.keys() | actual.keys()):
        result = compare(name, expected.get(name, Side()), actual.get(name, Side()))
        if not result.agrees:
            lines += region_diff_lines(result, _HUNKS, ("the golden", "this trace"), "vetrace diff")
    if not lines:
        return []
    title = f"{trace} does not match the golden {golden}"
    return [title, *_other_versions(was, now), *lines]


def excerpt(records: Iterable[Record], region: str | None = None) -> Iterator[Record]:
    """Yield what a golden keeps of a trace: its regions, marks, and the accesses to ``region``.

    An instruction is kept whole, so that it can be replayed; accesses are numbered from 0 again.
    """
    sieve = Sieve(_selection(region))
    counts: Counter[str] = Counter(accesses=0, intercepts=0, emulated=0, stepped=0)
    for record in records:
        wanted = sieve.wanted(record)
        match record:
            case Intercept() if wanted:
                seq = counts["accesses"]
                devices = len(record.device_accesses())
                counts.update({"accesses": devices, "intercepts": 1, record.via: devices})
                yield msgspec.structs.replace(record, seq=seq)
            case MapRecord() if any(map(sieve.can_be_in, record.regions)):
                yield record
            case RegionRecord():
                yield record
            case Mark():
                yield msgspec.structs.replace(record, qemu_log_offset=None, qemu_log_from=None)
            case End():
                kept = {name: record.counts.get(name, 0) for name in ("stops", "hooks")}
                yield msgspec.structs.replace(record, counts={**counts, **kept})


def golden_header(header: Header) -> Header:
    """Return a header without the folders of the machine that recorded the trace."""
    arguments, software = (
        [_HOST_FOLDER.sub(r"\1", word) for word in words]
        for words in (header.qemu_args, header.software)
    )
    return msgspec.structs.replace(header, qemu_args=arguments, software=software)


def _record(
    trace: Path, golden: Path, others: Sequence[Path], region: str | None, rules: Rules
) -> bool:
    header, records = _whole(trace)
    kept = list(excerpt(records, region))
    _side_by_region(Differ(rules), trace, region, kept)  # lest a golden be none afterwards
    for path in (golden, *others):
        # The trace has been read: it is a golden that cannot be, or is empty.
        with contextlib.suppress(TraceError):
            if path.exists() and not difference(path, trace, region, rules):
                return False
    data = b"".join(map(codec.encode, (golden_header(header), *kept)))
    if golden.suffix == ".zst":
        data = zstandard.ZstdCompressor(level=19, write_checksum=True).compress(data)
    with new_file(golden, None) as draft:
        draft.write_bytes(data)
    return True


def _whole(path: Path) -> tuple[Header, list[Record]]:
    with TraceReader(path) as trace:
        records = list(trace)
    if trace.damage is not None:
        raise TraceError(f"{path}: {trace.damage}; record it again")
    return trace.header, records


def _sides(differ: Differ, path: Path, region: str | None) -> tuple[Header, dict[str, Side]]:
    header, records = _whole(path)
    return header, _side_by_region(differ, path, region, records)


def _side_by_region(
    differ: Differ, path: Path, region: str | None, records: Sequence[Record]
) -> dict[str, Side]:
    sieve = Sieve(_selection(region), library.load())
    events = Events(sieve)
    sides = differ.read(event for record in records for event in events.add(record))
    if sides:
        return sides
    known = Sieve(_selection(region))
    if any(isinstance(record, Intercept) and known.wanted(record) for record in records):
        raise TraceError(f"{path}: no access is left to compare: {_LEFT_OUT}")
    raise TraceError(_nothing(path, region, records))


def _selection(region: str | None) -> Selection:
    return Selection() if region is None else choose(region=region)


def _nothing(path: Path, region: str | None, records: Sequence[Record]) -> str:
    known = {a.region for r in records if isinstance(r, Intercept) for a in r.accesses if a.region}
    announced = {r.region.name for r in records if isinstance(r, RegionRecord)}
    what = "an access" if region is None else f"an access to {region}"
    has = ", ".join(sorted(known or announced)) or "none at all"
    return f"{path} has not {what} that could be compared; its regions: {has}"


def _other_versions(was: Header, now: Header) -> Iterator[str]:
    for name in ("kernel", "kernel_sha256", "command_line", "clock", "qemu"):
        before, after = getattr(was, name), getattr(now, name)
        if before != after:
            yield f"{name}: {before} → {after}"
