"""Blocks of a trace: how fast a ring is drained into them, and they are read, against JSON."""

from __future__ import annotations

import contextlib
import io
import resource
import struct
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import cast

import msgspec

from scripts.benchmark.result import Result
from scripts.benchmark.trace import bench_header, made_up
from tracer.access.region import Region, RegionMap
from tracer.access.space import AddressSpace
from tracer.cli.main import main
from tracer.compiled import layout
from tracer.compiled.common import common_code
from tracer.compiled.layout import RECORD, SLOT_SIZE, SLOTS, control_field
from tracer.errors import TraceError
from tracer.intercept.journal import Journal
from tracer.intercept.names import Names
from tracer.intercept.ring.rows import Told
from tracer.intercept.ring.sites import CompiledSites
from tracer.intercept.ring.window import Window
from tracer.intercept.system import Callers
from tracer.intercept.view import GuestView
from tracer.trace.record import End, Record
from tracer.trace.summary import Summary
from tracer.trace.writer import TraceWriter
from tracer.x86.decode import decode
from tracer.x86.state import CpuState, Mode

WRITE_LIMIT, READ_LIMIT = 3.0, 2.0
"""How many times as fast as JSON blocks are to be written, and read by each command."""

_RECORDS = 10**6
_LONG = 5
_WINDOW = Window(0, 0xFFFF_FFEE_8000_0000, 0xFFFF_FF80_0000_0000, 442 << 30, 0, 444)
_DEVICE = 0xFEBF0000
_READ_ERROR = 0x8


class _Guest:
    # A guest without a CPU, whose ring is full whenever somebody looks.

    def __init__(self, journal_to: Callable[[Journal], None]) -> None:
        self._ram = bytearray(layout.block_size(SLOTS))
        region = Region("nvme", _DEVICE, _DEVICE + 0xFFF, _DEVICE, "nvme", "nvme")
        view = GuestView(self, 1 << 51, 1)
        view.show(RegionMap([region], [(region.start, region.end)], ()))
        self.journal = Journal(view)
        journal_to(self.journal)
        self._next = 0
        self.seconds = 0.0
        common = common_code(smp=False, la57=False)
        told = Told(
            cast(Callers, self), cast(Names, self), lambda: cast(AddressSpace, self), self._take
        )
        self.sites = CompiledSites(_WINDOW, common, SLOTS, view, self.journal, told)
        self.sites.begin(0)
        self.sites.tell_places()
        shape = made_up(0)
        insn = decode(shape.code, shape.rip, Mode.LONG)
        self.sites.consider(insn, CpuState((0,) * 16, insn.rip, 0x2), cast(AddressSpace, self))
        # Any order will do that does not repeat soon.
        self._rows = bytearray().join(_row(n * n // 7 % 64) for n in range(SLOTS))
        self._sequence = layout.ring_size(SLOTS)

    def _take(self, accesses: int) -> int:
        self._next += accesses
        return self._next - accesses

    def lookup(self, linear: int, space: object) -> str | None:
        return made_up(0).symbol

    def read(self, address: int, size: int) -> bytes:
        return bytes(self._ram[address : address + size]) if address < 1 << 32 else bytes(size)

    def write(self, physical: int, data: bytes) -> None:
        self._ram[physical : physical + len(data)] = data

    def run(self, records: int) -> None:
        for at in range(0, records, SLOTS):
            some = min(SLOTS, records - at)
            for slot in range(some):
                struct.pack_into("<QQ", self._rows, slot * SLOT_SIZE, self._sequence, 1000 * at)
                self._sequence += SLOT_SIZE
            self._ram[layout.RING : layout.RING + some * SLOT_SIZE] = self._rows[: some * SLOT_SIZE]
            self.write(control_field("HEAD"), struct.pack("<Q", self._sequence))
            self.seconds += _seconds(self.sites.drain)


def _row(number: int) -> bytes:
    shape = made_up(number)
    access = shape.accesses[0]
    registers = [value for name, value in shape.before.items() if name != "rflags"]
    return RECORD.pack(
        0, 0, access.linear, _WINDOW.base + access.physical, 0, 0, 0, _READ_ERROR,
        0, shape.before["rflags"], 0, *registers, (access.value or 0).to_bytes(32, "little"),
        bytes(32),
    )  # fmt: skip


def speed_of_blocks() -> Result:
    """Measure compiled records in blocks against the same ones in JSON: written, and read."""
    rows: list[tuple[str, str]] = []
    kept = True
    with tempfile.TemporaryDirectory(prefix="bench-of-vetrace-") as name:
        blocks, lines = Path(name) / "blocks.vtrace.zst", Path(name) / "json.vtrace.zst"
        drained = _drain(blocks, _RECORDS)
        before = _peak()
        long = _drain(Path(name) / "long.vtrace.zst", _LONG * _RECORDS)
        growth = _peak() - before
        written = _write(lines)
        ratio = written / drained
        kept = kept and ratio >= WRITE_LIMIT
        rows.append(("JSON written, records a second", f"{_RECORDS / written:,.0f}"))
        rows.append(("ring drained and written, counted", f"{_RECORDS / drained:,.0f}"))
        rows.append(("the two, in times", f"{ratio:.1f}   (limit {WRITE_LIMIT:.0f})"))
        rows.append((f"{_LONG} times as many", f"{_LONG * _RECORDS / long:,.0f} a second"))
        rows.append(("and memory", f"{growth:,.0f} MiB more"))
        for command in ("show", "stats", "diff"):
            each = [_seconds(partial(_run, command, path)) for path in (lines, blocks)]
            ratio = each[0] / each[1]
            kept = kept and ratio >= READ_LIMIT
            rates = ", ".join(f"{_RECORDS / seconds:,.0f}" for seconds in each)
            rows.append((f"{command}, JSON and blocks, a second", rates))
            rows.append(("the two, in times", f"{ratio:.1f}   (limit {READ_LIMIT:.0f})"))
    return Result(
        "Made-up records of one compiled site that reads 64 registers: as JSON, record by record,"
        " and as blocks that are drained from a full ring, counted and compressed. The commands"
        " read each of the two files; seconds are of processor time.",
        tuple(rows),
        kept=kept,
    )


def _drain(path: Path, records: int) -> float:
    with TraceWriter(path, bench_header()) as trace:
        guest = _Guest(lambda journal: journal.scribes.extend([trace.append, Summary().take]))
        guest.run(records)
        if guest.journal.counts["compiled"] != records:
            raise TraceError(f"{guest.journal.counts['compiled']} accesses drained of {records}")
        guest.journal.end("poweroff")
    return guest.seconds


def _write(path: Path) -> float:
    shapes = [msgspec.structs.replace(made_up(number), via="compiled") for number in range(64)]
    end: Record = End(time_ns=0, outcome="poweroff", counts={"accesses": _RECORDS})

    def write() -> None:
        with TraceWriter(path, bench_header()) as trace:
            for seq in range(_RECORDS):
                shape = shapes[seq * seq // 7 % len(shapes)]
                trace.append(msgspec.structs.replace(shape, seq=seq, time_ns=1000 * seq))
            trace.append(end)

    return _seconds(write)


def _run(command: str, path: Path) -> None:
    paths = [str(path)] * (1 + (command == "diff"))
    with contextlib.redirect_stdout(io.StringIO()):
        if main([command, *paths]):
            raise TraceError(f"vetrace {command} failed")


def _seconds(work: Callable[[], None]) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
