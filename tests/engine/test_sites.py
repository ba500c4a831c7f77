"""Compiled sites in the loop: what is written for them, and how what they leave is published."""

from __future__ import annotations

import struct
import tracemalloc
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import trace_sample as sample
from playbook import play
from ram import POISON, ROOT
from scene import (
    APIC,
    AT,
    CODE,
    DEVICE,
    NVME,
    READ,
    STACK,
    STATE,
    STUB,
    WRITE,
    Scene,
    registers,
)
from stage import Memory, Nobody, Software

from tracer.access.decision import Go, Leeway, Origin
from tracer.access.region import Choice
from tracer.access.space import AddressSpace
from tracer.access.stop import Ran, Stopped
from tracer.access.vcpu import SetRegister
from tracer.access.want import (
    AskAnswered,
    AskBefore,
    AskCompleted,
    AskWhere,
    Await,
    BreakAlone,
    Detach,
    FlushAllTlbs,
    FlushTlb,
    GuestTime,
    HasMachineCheck,
    Hold,
    MakeChanges,
    MapChanged,
    MemoryMap,
    ReadPhysical,
    Registers,
    StackAndTables,
    Start,
    Vcpu,
    VcpuStates,
    WatchReads,
    WatchStores,
    WriteCode,
    WritePhysical,
)
from tracer.compiled import layout
from tracer.compiled.diary import STARTED, Current, Errand, What
from tracer.compiled.layout import DISTANCE, RECORD, control_field
from tracer.errors import InterceptError
from tracer.intercept.poison import poison_everything
from tracer.intercept.ring.pace import Pace
from tracer.intercept.ring.window import Window
from tracer.intercept.trap import LetGo
from tracer.session.loop import Loop
from tracer.trace.reader import TraceReader
from tracer.trace.record import Intercept, Mark
from tracer.trace.summary import Summary
from tracer.trace.writer import TraceWriter
from tracer.x86.decode import decode
from tracer.x86.paging import PRESENT, WRITABLE
from tracer.x86.state import GPR, CpuState, Mode

BLOCK_AT = 0x40_0000
SPAN = 0xFFFF_FF80_0000_0000
TABLE_AT = 0x3F_0000
WINDOW = Window(BLOCK_AT, SPAN + (442 << 30) + BLOCK_AT, SPAN, 442 << 30, TABLE_AT, 444, root=ROOT)
SLOTS = 16
NXE = 1 << 11
MAP: Any = (MapChanged(), False)
REGIONS: Any = (MemoryMap(), ([NVME, APIC], [(0, 0x3F_FFFF)]))
SPILLED: Any = (StackAndTables(), (STACK - 0x400, ROOT))
GONE = Ran(Stopped(signal="SIGQUIT"), 0.25)


class Roomy(Software):
    """Software that gives away RAM."""

    async def window(self, memory: Any, space: AddressSpace, size: int) -> Window:
        assert size in (layout.block_size(SLOTS), layout.block_size(SLOTS, stacks=True))
        memory.write(TABLE_AT, b"\xe3" * 8 * WINDOW.entries)
        return WINDOW


class Run:
    """A guest that is being traced, with room for compiled sites behind its RAM."""

    def __init__(self, software: Any = None, *, efer: int = NXE, **how: Any):
        scene = self.scene = Scene()
        scene.gate.remove()
        scene.write(STUB, b"\xcc" * 0x1000)
        scene.ram.data.extend(bytes([0x5A]) * layout.block_size(SLOTS, stacks=True))
        for page in range(2):
            leaf = scene.space.leaf(AT + 0x1000 * page)
            assert leaf is not None
            entry = DEVICE + 0x1000 * page | PRESENT | WRITABLE
            scene.ram.write(leaf.entry_address, struct.pack("<Q", entry))
        one = self.loop = Loop(scene.view, Memory(scene), software or Roomy(), Choice())  # type: ignore[arg-type]
        one.asks = how.pop("asks", False)
        self.records: list[Any] = []
        one.journal.subscribers.append(self.records.append)
        play(
            one.trap(ring=SLOTS, **how),
            REGIONS, (HasMachineCheck(), True), (Registers(), registers(efer=efer)),
            (VcpuStates(), (STATE,)), (Vcpu(), 0),
            (WriteCode, scene.write_code), (WatchReads, 1),
            (WriteCode, scene.write_code), (WatchStores, 2), (WatchStores, 3),
            (BreakAlone, None), (MakeChanges, None), (FlushTlb(ROOT), None),
        )  # fmt: skip

    @property
    def stub(self) -> Any:
        return self.loop.traced.gate.stub

    @property
    def intercepts(self) -> list[Intercept]:
        return [record for record in self.records if isinstance(record, Intercept)]

    @property
    def counts(self) -> Any:
        return self.loop.journal.counts

    def bell(self, code: str, linear: int, error: int = READ, **how: Any) -> Ran:
        self.scene.fault(code, linear, error, **how)
        return Ran(Stopped("read-watchpoint-trigger", 1, self.stub.stop, 1, "SIGTRAP"), 0.5)

    def word(self, name: str) -> int:
        data = self.scene.ram.read(BLOCK_AT + control_field(name), 8)
        return int.from_bytes(data, "little")

    def entry(self) -> int:
        """Return the offset in the block of the first site's entry."""
        return next(
            place for place in range(layout.SITES, layout.RING, layout.SITE_SIZE)
            if self.scene.ram.read(BLOCK_AT + place, 8) == struct.pack("<Q", CODE)
        )  # fmt: skip

    def leave(self, site: int, value: int, *, tsc: int, rsi: int = AT, **how: int) -> None:
        """Be the guest: leave a record of a site, as a thunk does."""
        head = self.word("HEAD")
        assert head < self.word("LIMIT"), "the ring is full or shut"
        gpr = [0] * len(GPR)
        gpr[GPR.index("rsi")] = rsi
        record = RECORD.pack(
            head, tsc, rsi, SPAN + DEVICE + (rsi - AT), site, how.get("vcpu", 0), 0, READ,
            how.get("thread", 0), 0x202, head, *gpr,
            value.to_bytes(32, "little"), value.to_bytes(32, "little"),
        )  # fmt: skip
        place = layout.RING + head % layout.ring_size(SLOTS)
        self.scene.ram.write(BLOCK_AT + place, record)
        data = struct.pack("<Q", head + layout.SLOT_SIZE)
        self.scene.ram.write(BLOCK_AT + control_field("HEAD"), data)

    def number(self, value: int) -> None:
        """Give the first record of the ring another number."""
        self.scene.ram.write(BLOCK_AT + layout.RING, struct.pack("<Q", value))

    def first(self, *then: Any) -> None:
        """Run to an access, which goes the slow way, and on."""
        play(
            self.loop.run(),
            (Start(()), None), (Await, None), (Await, self.bell("8b06", AT, rsi=AT)), MAP,
            SPILLED, (ReadPhysical(DEVICE, 4), 5),
            (Start, None), *then, (Await, GONE),
        )  # fmt: skip


def test_the_block_is_written_before_the_guest_goes_on() -> None:
    run = Run()
    ram, stub = run.scene.ram, run.stub
    assert run.word("SLOW") == stub.spill and run.word("MARKS") == POISON
    assert run.word("LIMIT") == 2 * layout.ring_size(SLOTS) and run.loop.sites is not None
    code = run.loop.sites._common.code
    assert ram.read(BLOCK_AT + layout.CODE, len(code)) == code
    assert not any(ram.read(BLOCK_AT + layout.RING, layout.ring_size(SLOTS)))
    assert stub.fast.linear in range(WINDOW.code + layout.CODE, WINDOW.code + layout.THUNKS)
    assert stub.covers(WINDOW.code + layout.THUNKS) and not stub.covers(SPAN - 1)


def test_an_instruction_goes_the_slow_way_once_and_its_records_are_published_in_order() -> None:
    run = Run()

    def two(_: Any) -> None:
        run.leave(0, 7, tsc=2000)
        run.leave(0, 8, tsc=2010, rsi=AT + 0x10)

    run.first((Await, two), (Await, lambda _: run.leave(0, 9, tsc=2020)))
    assert [record.via for record in run.intercepts] == ["emulated"] + 3 * ["compiled"]
    assert [record.seq for record in run.intercepts] == [0, 1, 2, 3]
    assert [record.accesses[0].value for record in run.intercepts] == [5, 7, 8, 9]
    assert [record.time_ns for record in run.intercepts][1:] == [2000, 2010, 2020]
    assert run.intercepts[2].accesses[0].physical == DEVICE + 0x10
    assert run.intercepts[1].after == {"rip": CODE + 2, "rax": 7}
    assert run.intercepts[1].symbol == "driver+0x0"
    assert run.counts["compiled"] == 3 and run.counts["accesses"] == 4


def test_what_the_guest_told_before_a_stop_is_published_before_what_the_stop_tells() -> None:
    run = Run()
    first = run.bell("8b06", AT, rsi=AT)

    def later(_: Any) -> Ran:
        run.leave(0, 7, tsc=2000)
        return run.bell("8b4604", AT + 4, rsi=AT, rip=CODE + 0x20, tsc=3000)

    play(
        run.loop.run(),
        (Start, None), (Await, first), MAP,
        SPILLED, (ReadPhysical(DEVICE, 4), 5),
        (Start, None), (Await, later), MAP,
        SPILLED, (ReadPhysical(DEVICE + 4, 4), 6),
        (Start, None), (Await, GONE),
    )  # fmt: skip
    assert [record.time_ns for record in run.intercepts] == [1000, 2000, 3000]
    assert [record.seq for record in run.intercepts] == [0, 1, 2]


def test_the_guest_may_make_as_many_records_again_once_they_are_taken() -> None:
    run = Run()

    def fill(_: Any) -> None:
        for number in range(SLOTS):
            run.leave(0, number, tsc=2000 + number)
        with pytest.raises(AssertionError, match="full"):
            run.leave(0, 0, tsc=0)

    run.first((Await, fill), (Await, fill), (Await, fill))
    assert len(run.intercepts) == 1 + 3 * SLOTS


def test_where_a_device_may_have_moved_that_is_known_once_a_stop_has_looked() -> None:
    run = Run()
    assert run.loop.system.moves == WINDOW.block  # type: ignore[attr-defined]

    def moves(_: Any) -> None:
        told = struct.pack("<Q", run.word("SITES") | layout.MOVED)
        run.scene.ram.write(BLOCK_AT + control_field("SITES"), told)

    def stops(_: Any) -> Ran:
        assert run.word("SITES") & layout.MOVED
        return run.bell("8b06", AT, rsi=AT, tsc=3000)

    def known(_: Any) -> None:
        assert run.word("SITES") == WINDOW.block + layout.SITES

    run.first(
        (Await, moves), (Await, stops), MAP, SPILLED, (ReadPhysical(DEVICE, 4), 5),
        (Start, None), (Await, known),
    )  # fmt: skip


def test_the_last_records_of_a_guest_that_is_gone_are_published() -> None:
    run = Run()

    def gone(_: Any) -> Ran:
        run.leave(0, 7, tsc=2000)
        raise ConnectionError

    with pytest.raises(ConnectionError):
        play(
            run.loop.run(),
            (Start, None), (Await, run.bell("8b06", AT, rsi=AT)), MAP,
            SPILLED, (ReadPhysical(DEVICE, 4), 5),
            (Start, None), (Await, gone),
        )  # fmt: skip
    assert [record.via for record in run.intercepts] == ["emulated", "compiled"]


def test_a_record_that_is_committed_while_it_is_read_is_read_again() -> None:
    run = Run()
    ram = run.scene.ram
    read, torn = ram.read, []

    def copied_backwards(physical: int, size: int) -> bytes:
        # The number, which comes first in a record, is copied last.
        data = read(physical, size)
        ring = BLOCK_AT + layout.RING
        if physical >= ring and size and not torn:
            torn.append(data)
            return data[:8] + bytes(layout.SLOT_SIZE - 8) + data[layout.SLOT_SIZE :]
        return data

    def leave(_: Any) -> None:
        run.leave(0, 7, tsc=2000)
        ram.read = copied_backwards  # type: ignore[method-assign]

    run.first((Await, leave))
    assert torn and [record.accesses[0].value for record in run.intercepts] == [5, 7]
    assert run.intercepts[1].time_ns == 2000


def test_a_disagreement_of_the_emulator_is_told_with_the_bytes() -> None:
    run = Run()
    run.first((Await, lambda _: run.leave(0, 7, tsc=2000, rsi=AT)))
    assert not run.counts["disagreements"]
    run = Run()
    # `mov [rsi], eax` of a register that is 0, and 7 is written.
    play(
        run.loop.run(),
        (Start, None), (Await, run.bell("8906", AT, WRITE, rsi=AT)), MAP,
        SPILLED, (WritePhysical(DEVICE, 4, 0), None),
        (Start, None), (Await, lambda _: run.leave(0, 7, tsc=2000)), (Await, GONE),
    )  # fmt: skip
    assert run.counts["disagreements"] == 1
    told = [record.text for record in run.records if isinstance(record, Mark)]
    assert any("disagrees" in text and "[89 06]" in text for text in told)


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"software": Software()}, "it has none"),
        ({"efer": 0}, "EFER.NXE"),
    ],
)  # fmt: skip
def test_a_guest_without_compiled_sites_says_why_and_takes_stops(how: Any, why: str) -> None:
    run = Run(how.pop("software", None), **how)
    assert run.loop.sites is None and run.stub.entry == run.stub.spill
    assert any(why in text for text in run.loop.journal.warnings if "takes a stop" in text)


class Asked(Nobody):
    """Who is told of stacks, and numbers them."""

    state = 0x1234
    stack_end = 0x5000

    def __init__(self) -> None:
        self.told: list[Any] = []

    def note(self, *told: Any) -> Any:
        self.told.append(told)
        return len(self.told) - 1


def test_the_stack_that_an_access_was_under_is_told_before_its_record() -> None:
    asked = Asked()

    class Chained(Roomy):
        def callers(self, publish: Any, *, stacks: bool) -> Any:
            assert stacks
            return asked

    run = Run(Chained(), stacks=True)
    assert run.word("STATE") == asked.state
    assert run.word("STACKS") == WINDOW.block + layout.block_size(SLOTS)
    stack = struct.pack("<4Q", 8, 8, 0, 3) + b"\x11" * 8

    def leave(_: Any) -> None:
        place = layout.stack_place(SLOTS, run.word("HEAD"))
        run.scene.ram.write(BLOCK_AT + place, stack)
        run.leave(0, 7, tsc=2000)

    run.first((Await, leave))
    assert [record.stack for record in run.intercepts] == [0, 1]
    cpu, space, time_ns, copy, _ = asked.told[1]
    assert (cpu.rip, time_ns, copy.state) == (CODE, 2000, 3)
    assert copy.read(cpu.gpr[4], 8) == b"\x11" * 8
    assert space.paging.cr3 == ROOT
    run.loop.part()
    assert run.counts["block"] == layout.block_size(SLOTS, stacks=True)


def test_what_is_told_with_a_stack_stands_between_its_record_and_the_one_before() -> None:
    class Telling(Asked):
        publish: Any

        def note(self, *told: Any) -> Any:
            if len(self.told) == 3:
                told[4]()
                self.publish(Mark(time_ns=told[2], text="told"))
            return super().note(*told)

    asked = Telling()

    class Chained(Roomy):
        def callers(self, publish: Any, *, stacks: bool) -> Any:
            asked.publish = publish
            return asked

    run = Run(Chained(), stacks=True)

    def leave(_: Any) -> None:
        for number in range(4):
            run.leave(0, number, tsc=2000 + number)

    run.first((Await, leave))
    told = [(record.time_ns, record.stack) for record in run.intercepts]
    assert told[1:] == [(2000, 1), (2001, 2), (2002, 3), (2003, 4)]
    assert [record.seq for record in run.intercepts] == [0, 1, 2, 3, 4]
    texts = [getattr(record, "text", "") for record in run.records]
    at = texts.index("told")
    assert [*map(type, run.records[at - 1 : at + 2])] == [Intercept, Mark, Intercept]
    assert run.records[at].time_ns == run.records[at + 1].time_ns == 2002


def test_the_guest_has_room_again_before_all_stacks_are_unwound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tracer.intercept.ring.sites._AT_ONCE", 2)
    rooms: list[int] = []

    class Looking(Asked):
        def note(self, *told: Any) -> Any:
            rooms.append(run.word("ROOM"))
            return super().note(*told)

    class Chained(Roomy):
        def callers(self, publish: Any, *, stacks: bool) -> Any:
            return Looking()

    run = Run(Chained(), stacks=True)

    def leave(_: Any) -> None:
        for number in range(3):
            run.leave(0, number, tsc=2000 + number)

    run.first((Await, leave))
    assert rooms[1] == rooms[2] == rooms[3] - 2 * layout.SLOT_SIZE
    assert [record.stack for record in run.intercepts] == [0, 1, 2, 3]


THREAD, WORKER = 0x8801, 0x8802
FIRST, SECOND = 0xFFFF_FFFF_8123_0000, 0xFFFF_FFFF_8124_0000


class Sent(Nobody):
    """Who is told of errands."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def note_errand(self, errand: Any, space: AddressSpace, time_ns: int) -> None:
        self.told.append(errand)
        self.started = errand == STARTED


class Telling(Run):
    """The same with threads that tell of their errands."""

    def __init__(self) -> None:
        sent = self.sent = Sent()

        class Errant(Roomy):
            current = Current(0x1FB81, range(1 << 63, 1 << 64))

            def callers(self, publish: Any, *, stacks: bool) -> Any:
                return sent

        super().__init__(Errant())

    def diary(self, name: str) -> int:
        data = self.scene.ram.read(BLOCK_AT + layout.diary_word(name), 8)
        return int.from_bytes(data, "little")

    def tell(self, *entry: int) -> None:
        """Be the guest: tell the diary."""
        head = self.diary("HEAD")
        assert head < self.diary("LIMIT")
        place = layout.DIARY + head % layout.DIARY_SLOTS * layout.DIARY_ENTRY.size
        self.scene.ram.write(BLOCK_AT + place, layout.DIARY_ENTRY.pack(*entry))
        data = struct.pack("<Q", head + 1)
        self.scene.ram.write(BLOCK_AT + layout.diary_word("HEAD"), data)


def test_each_row_is_told_with_the_errand_that_its_thread_was_on() -> None:
    run = Telling()

    def rows(_: Any) -> None:
        run.tell(1900, FIRST, THREAD, What.BEGIN, 0)
        run.leave(0, 1, tsc=2000, thread=THREAD)
        run.leave(0, 2, tsc=2010, thread=THREAD)
        run.tell(2015, SECOND, WORKER, What.BEGIN, 1)
        run.leave(0, 3, tsc=2020, thread=WORKER)
        run.leave(0, 4, tsc=2030, thread=THREAD)
        run.tell(2035, FIRST, THREAD, What.END, 0)
        run.leave(0, 5, tsc=2040, thread=THREAD)
        run.leave(0, 6, tsc=2050)  # of code that has no thread

    run.first((Await, rows))
    one, other = Errand(0, FIRST), Errand(1, SECOND)
    assert run.sent.told == [one, other, one, None]
    assert [record.thread for record in run.intercepts] == [
        None, THREAD, THREAD, WORKER, THREAD, THREAD, None,
    ]  # fmt: skip
    assert [record.accesses[0].value for record in run.intercepts] == [5, 1, 2, 3, 4, 5, 6]
    assert run.diary("LIMIT") == 3 + layout.DIARY_SLOTS


def test_what_a_thread_told_earlier_holds_and_what_it_tells_later_does_not() -> None:
    run = Telling()

    def begun(_: Any) -> None:
        run.tell(1900, FIRST, THREAD, What.BEGIN, 0)

    def first(_: Any) -> None:
        run.leave(0, 1, tsc=2000, thread=THREAD)

    def ended(_: Any) -> None:
        run.leave(0, 2, tsc=2100, thread=THREAD)
        run.tell(2200, FIRST, THREAD, What.END, 0)

    run.first((Await, begun), (Await, first), (Await, None), (Await, ended), (Await, first))
    assert run.sent.told == [Errand(0, FIRST), Errand(0, FIRST), None]


def test_once_the_kernel_has_started_nobody_reads_the_diary_and_nobody_waits_for_that() -> None:
    run = Telling()

    def started(_: Any) -> None:
        run.leave(0, 1, tsc=1990, thread=THREAD)
        run.tell(2000, 0, THREAD, What.RUNNING, 0)
        run.leave(0, 2, tsc=2010, thread=THREAD)
        run.leave(0, 3, tsc=2020)

    def more(_: Any) -> None:
        for number in range(3 * layout.DIARY_SLOTS):
            run.tell(3000 + number, FIRST, THREAD, What.BEGIN, 0)
        run.leave(0, 4, tsc=9000, thread=THREAD)

    run.first((Await, started), (Await, more))
    assert run.sent.told == [None, STARTED]
    assert len(run.intercepts) == 5


def test_a_guest_whose_threads_tell_nothing_does_not_wait_either() -> None:
    run = Run()
    run.first()
    limit = run.scene.ram.read(BLOCK_AT + layout.diary_word("LIMIT"), 8)
    assert int.from_bytes(limit, "little") > 1 << 62


def test_a_row_that_reaches_no_device_opens_no_phase() -> None:
    run = Telling()
    far = 0x1000_0000  # no device is there

    def rows(_: Any) -> None:
        run.tell(1900, FIRST, THREAD, What.BEGIN, 0)
        run.leave(0, 1, tsc=2000, thread=THREAD, rsi=AT + far)
        run.leave(0, 2, tsc=2010, thread=WORKER)

    run.first((Await, rows))
    assert run.sent.told == [None] and run.counts["neighbours"] == 1


def test_a_diary_that_the_guest_has_written_to_ends_the_run() -> None:
    run = Telling()

    def forge(_: Any) -> None:
        data = struct.pack("<Q", 1 << 40)
        run.scene.ram.write(BLOCK_AT + layout.diary_word("HEAD"), data)

    with pytest.raises(InterceptError, match="has written to it"):
        play(
            run.loop.run(),
            (Start(()), None), (Await, None), (Await, run.bell("8b06", AT, rsi=AT)), MAP,
            SPILLED, (ReadPhysical(DEVICE, 4), 5),
            (Start, None), (Await, forge),
        )  # fmt: skip


def test_what_is_vetraces_own_is_not_poisoned() -> None:
    scene = Scene()
    scene.ram.map(SPAN + (DEVICE & -(1 << 30)), DEVICE & -(1 << 30), PRESENT | WRITABLE, 3)
    others = [AddressSpace(scene.ram, scene.space.paging, scene.view.regions).leaf(SPAN + DEVICE)]
    assert others[0] is not None
    done = play(poison_everything(scene.space, [], own=[WINDOW.span]))
    assert not scene.poisoned(SPAN + DEVICE) and not done.leaves and not done.refused
    play(poison_everything(scene.space, []))
    assert scene.poisoned(SPAN + DEVICE)


def test_a_site_whose_neighbours_change_is_entered_again_and_one_that_does_not_is_not() -> None:
    run = Run()
    run.first()
    sites = run.loop.sites
    assert sites is not None
    entry = next(
        place for place in range(layout.SITES, layout.RING, layout.SITE_SIZE)
        if run.scene.ram.read(BLOCK_AT + place, 8) == struct.pack("<Q", CODE)
    )  # fmt: skip
    before = run.scene.ram.read(BLOCK_AT + entry, layout.SITE_SIZE)
    run.scene.write(CODE + 4, b"\xcc")
    insn = decode(bytes.fromhex("8b06") + bytes(13), CODE, Mode.LONG)
    sites.consider(insn, CpuState((0,) * 16, CODE, 0x202), run.scene.space)
    after = run.scene.ram.read(BLOCK_AT + entry, layout.SITE_SIZE)
    assert before != after and len(sites) == 1
    # A vCPU on the fast way may be reading the entry.
    run.scene.write(CODE + 4, b"\xcd")
    run.scene.ram.write(BLOCK_AT + control_field("HEAD"), b"\xff" * 8)
    sites.consider(insn, CpuState((0,) * 16, CODE, 0x202), run.scene.space)
    assert run.scene.ram.read(BLOCK_AT + entry, layout.SITE_SIZE) == after


def cut_off(run: Run, linear: int, site: int = 0) -> None:
    """Be the guest, and end in the middle of an access, of registers that say it is at ``AT``."""
    head = run.word("HEAD")
    run.leave(site, 7, tsc=2000, thread=THREAD)
    place = BLOCK_AT + layout.RING + head % layout.ring_size(SLOTS)
    run.scene.ram.write(place, bytes(8))
    run.scene.ram.write(place + layout.RECORD_FIELDS["LINEAR"], struct.pack("<Q", linear))
    run.scene.ram.write(BLOCK_AT + control_field("HEAD"), b"\xff" * 8)


def test_a_load_that_was_under_way_at_the_end_may_have_been_made() -> None:
    run = Run()
    run.first((Await, lambda _: cut_off(run, AT)))
    run.loop.part()
    first, last = run.intercepts
    (access,) = last.accesses
    assert (access.direction, access.physical, access.value) == ("read", DEVICE, None)
    assert (access.width, access.extent, last.seq, last.via) == (0, 4, 1, "compiled")
    assert (last.rip, last.after) == (first.rip, {}) and "not known" in (last.note or "")
    assert last.thread is None
    assert (run.counts["accesses"], run.counts["compiled"]) == (2, 1)


def test_accesses_that_come_after_gdb_was_told_of_the_end_are_taken() -> None:
    run = Run()
    run.first()
    run.leave(0, 7, tsc=2000)
    assert len(run.intercepts) == 1
    run.loop.part()
    assert [record.accesses[0].value for record in run.intercepts] == [5, 7]


@pytest.mark.parametrize(("linear", "site"), [(AT + 8, 0), (AT, 1)])
def test_what_an_older_record_has_left_is_not_taken_for_it(linear: int, site: int) -> None:
    run = Run()
    run.first((Await, lambda _: cut_off(run, linear, site)))
    run.loop.part()
    assert len(run.intercepts) == 1


def test_the_end_tells_of_sites_and_of_what_was_slow() -> None:
    run = Run()
    run.first()
    play(
        run.loop.run(),
        (Start, None), (Await, run.bell("f736", AT, rsi=AT, rax=7, rip=CODE + 0x40, tsc=9)), MAP,
        SPILLED, (ReadPhysical(DEVICE, 4), 5),
        (Start, None), (Await, GONE),
    )  # fmt: skip
    run.loop.part()
    assert run.counts["sites"] == 1 and run.counts["entries"] == 444
    assert run.counts["block"] == layout.block_size(SLOTS)
    assert run.counts["not compiled: a quotient may not fit (#DE)"] == 1
    assert run.loop.sites is not None
    told = list(run.loop.sites.told())
    assert told[0].startswith("1 compiled sites, of ") and f"{BLOCK_AT:#x}" in told[0]
    assert told[1].startswith("444 entries") and f"{TABLE_AT:#x}" in told[1]
    assert told[2:] == ["1 instructions take a stop each time: a quotient may not fit (#DE)"]
    for number in range(len(layout.REASONS)):
        place = BLOCK_AT + layout.CONTROL + layout._COUNTERS + 8 * number
        run.scene.ram.write(place, struct.pack("<Q", 3000))
    told = [line for line in run.loop.sites.told() if "3,000 accesses took a stop: " in line]
    assert len(set(told)) == len(layout.REASONS)


def test_a_guest_that_is_let_go_finds_the_ring_shut() -> None:
    class Going:
        def number_at(self, linear: int | None) -> int | None:
            return None

        def claims(self, stop: Stopped) -> bool:
            return True

        async def handle(self, stop: Stopped) -> LetGo:
            return LetGo()

    run = Run(Roomy([Going()]))
    stop = Ran(Stopped("breakpoint-hit", 1, CODE, 9, "SIGTRAP"), 0.5)
    play(
        run.loop.run(),
        (Start, None), (Await, stop), MAP,
        (MakeChanges(()), None), (VcpuStates(), (STATE,)), (Registers(), registers()),
        (VcpuStates(), (STATE,)),
        (FlushAllTlbs(), None), (Detach(), None),
    )  # fmt: skip
    assert run.word("LIMIT") == 0
    assert WINDOW.code == WINDOW.block + DISTANCE


# ---- time


def test_in_real_time_the_counter_tells_the_time_between_two_moments() -> None:
    pace = Pace()
    assert pace.rate is None
    pace.note(1 << 30, 1_000_000)
    assert pace.rate is None
    pace.note((1 << 30) + 10, 1_000_500)  # too near to tell a pace
    assert pace.rate is None
    pace.note((1 << 30) + (3 << 20), 1_000_000 + (1 << 20))
    assert pace.rate is not None
    assert pace.rate.at((1 << 30) + (3 << 20)) == 1_000_000 + (1 << 20)
    assert pace.rate.at((1 << 30) + (6 << 20)) == 1_000_000 + (2 << 20)


def test_time_never_goes_back() -> None:
    view = Scene().view
    view.realtime = True
    view.ran = 1.0
    view.tell_time(1 << 30)
    view.ran = 2.0
    view.tell_time(2 << 30)
    assert view.time_ns == 2_000_000_000
    view.tell_time_at(3 << 30)
    assert view.time_ns == 3_000_000_000
    view.tell_time_at(1 << 30)
    view.tell_time(0)
    assert view.time_ns == 3_000_000_000


# ---- a person


def asked(
    run: Run, places: Any, records: int | None = None, until: int | None = None, *interests: Any
) -> Any:
    return (AskWhere(run.loop.view.regions), Leeway(places, records, until, interests))


GOING: Any = [
    MAP, SPILLED, (AskBefore, Go()), (ReadPhysical(DEVICE, 4), 5), (AskAnswered, Go()),
    (AskCompleted, lambda it: it.cpu),
]  # fmt: skip


def test_where_nobody_wants_the_guest_held_it_makes_accesses_by_itself() -> None:
    run = Run(asks=True)
    stops = layout.STOPS

    def byte(physical: int) -> int:
        return run.scene.ram.read(BLOCK_AT + stops + physical % layout.STOP_PLACES, 1)[0]

    def look(_: Any) -> Ran:
        assert run.word("LIMIT") > run.word("HEAD")
        # Whatever reaches the byte has a stop, up to 31 bytes before it.
        wanted = DEVICE + 0x20
        assert [byte(wanted - back) for back in (0, 1, 31, 32)] == [1, 1, 1, 0]
        assert byte(wanted + 3) and not byte(wanted + 4)
        return GONE

    play(
        run.loop.run(),
        (GuestTime(), None), (Registers(), registers()), (Hold, None),
        asked(run, [range(DEVICE + 0x20, DEVICE + 0x24)]), (Start, None), (Await, look),
    )  # fmt: skip


def test_who_steps_has_each_access_take_a_stop() -> None:
    run = Run(asks=True)

    def shut(_: Any) -> Ran:
        assert run.word("LIMIT") == 0
        return GONE

    def opened(_: Any) -> Ran:
        assert run.word("LIMIT")
        return GONE

    held: Any = [(GuestTime(), None), (Registers(), registers()), (Hold, None)]
    play(run.loop.run(), *held, asked(run, None), (Start, None), (Await, shut))
    play(run.loop.run(), *held, asked(run, []), (Start, None), (Await, opened))


def test_a_time_to_stop_at_is_looked_at_in_front_of_each_thunk() -> None:
    run = Run(asks=True)
    assert run.loop.sites is not None
    common = run.loop.sites._common

    def thunk() -> int:
        data = run.scene.ram.read(BLOCK_AT + run.entry() + layout.SITE_FIELDS["THUNK"], 8)
        return int.from_bytes(data, "little") - WINDOW.code

    def timed(_: Any) -> None:
        assert thunk() == common.deadline and run.word("DEADLINE") == 5000
        assert run.word("AFTER") == WINDOW.code + common.behind
        assert run.word("LIMIT") > run.word("HEAD")

    def plain(_: Any) -> Ran:
        assert thunk() in range(layout.THUNKS, layout.SITES)
        return GONE

    held: Any = [(GuestTime(), None), (Registers(), registers()), (Hold, None)]
    play(
        run.loop.run(), *held, asked(run, []), (Start, None), (Await, run.bell("8b06", AT, rsi=AT)),
        *GOING, asked(run, [], until=5000), (Start, None), (Await, timed),
        (Await, lambda _: run.bell("8b06", AT, rsi=AT, tsc=9)), *GOING,
        asked(run, []), (Start, None), (Await, plain),
    )  # fmt: skip


@dataclass(frozen=True)
class InCode:
    """Be interested in what an instruction does by its first byte."""

    opcode: int

    def may_come_from(self, origin: Origin) -> bool:
        return origin.insn.code[0] == self.opcode and origin.symbol is not None


def test_sites_that_somebody_is_interested_in_lead_to_the_slow_way_and_others_do_not() -> None:
    run = Run(asks=True)
    assert run.loop.sites is not None
    common = run.loop.sites._common
    loads, stores, times = InCode(0x8B), InCode(0x89), count(2000)

    def is_held() -> bool:
        data = run.scene.ram.read(BLOCK_AT + run.entry() + layout.SITE_FIELDS["THUNK"], 8)
        thunk = int.from_bytes(data, "little") - WINDOW.code
        assert thunk == common.stopped or thunk in range(layout.THUNKS, layout.SITES)
        return thunk == common.stopped

    def look(held: bool, ran: Any = None) -> Any:
        def see(_: Any) -> Any:
            assert is_held() is held
            assert run.word("LIMIT")
            return run.bell("8b06", AT, rsi=AT, tsc=next(times)) if ran is None else ran

        return see

    held: Any = [(GuestTime(), None), (Registers(), registers()), (Hold, None)]
    first: Any = (Await, run.bell("8b06", AT, rsi=AT))
    play(
        # It is compiled while somebody is interested in it already.
        run.loop.run(), *held, asked(run, [], None, None, loads), (Start, None), first, *GOING,
        asked(run, [], None, None, stores, loads), (Start, None), (Await, look(True)), *GOING,
        asked(run, [], None, None, stores), (Start, None), (Await, look(False)), *GOING,
        asked(run, [], None, None, loads), (Start, None), (Await, look(True)), *GOING,
        asked(run, []), (Start, None), (Await, look(False, GONE)),
    )  # fmt: skip
    # An entry that a vCPU may be reading is left alone.
    stops = run.loop.sites.stops
    run.scene.ram.write(BLOCK_AT + control_field("HEAD"), b"\xff" * 8)
    assert stops.of(()) and not stops.of((loads,)) and not is_held()


def test_in_real_time_the_pace_tells_the_counter_to_stop_at() -> None:
    run = Run(asks=True)
    view = run.loop.view
    view.realtime = True
    for counter, ran in ((1 << 30, 1.0), ((1 << 30) + (4 << 20), 1.5)):
        view.ran = ran
        view.tell_time(counter)

    def timed(_: Any) -> Ran:
        rate = view.rate
        assert rate is not None and run.word("LIMIT")
        deadline = run.word("DEADLINE")
        assert rate.at(deadline - 1) < 2_000_000_000 <= rate.at(deadline)
        return GONE

    play(
        run.loop.run(), (Registers(), registers()), (Hold, None),
        asked(run, [], until=2_000_000_000), (Start, None), (Await, timed),
    )  # fmt: skip


def test_while_nobody_knows_the_pace_a_time_to_stop_at_has_each_access_take_a_stop() -> None:
    run = Run(asks=True)
    run.loop.view.realtime = True

    def shut(_: Any) -> Ran:
        assert run.word("LIMIT") == 0
        return GONE

    held: Any = [(Registers(), registers()), (Hold, None)]
    play(run.loop.run(), *held, asked(run, [], until=5000), (Start, None), (Await, shut))


def test_no_more_records_are_made_than_nobody_need_be_asked_about() -> None:
    run = Run(asks=True)

    def left(_: Any) -> int:
        return (run.word("LIMIT") - run.word("HEAD")) // layout.SLOT_SIZE

    def one(_: Any) -> None:
        assert left(_) == 3
        run.leave(0, 7, tsc=2000)

    def two(_: Any) -> None:
        # What was taken made no room for more.
        assert left(_) == 2
        run.leave(0, 7, tsc=2010)
        run.leave(0, 7, tsc=2020)

    def none(_: Any) -> Ran:
        assert left(_) == 0
        return GONE

    held: Any = [(GuestTime(), None), (Registers(), registers()), (Hold, None)]
    play(
        run.loop.run(), *held, asked(run, []), (Start, None), (Await, run.bell("8b06", AT, rsi=AT)),
        MAP, SPILLED, (AskBefore, Go()), (ReadPhysical(DEVICE, 4), 5), (AskAnswered, Go()),
        (AskCompleted, lambda it: it.cpu),
        asked(run, [], 3), (Start, None), (Await, one), (Await, two), (Await, none),
    )  # fmt: skip
    assert run.counts["compiled"] == 3


@pytest.mark.parametrize("at", [0, 0x10, 0xFFF0, 0xFFFF])
@pytest.mark.parametrize("size", [1, 4, 0xFFF])
def test_stops_are_marked_around_the_end_of_the_table(at: int, size: int) -> None:
    run = Run()
    sites = run.loop.sites
    assert sites is not None
    sites.stops.at([range(0x50_0000 + at, 0x50_0000 + at + size)])
    table = run.scene.ram.read(BLOCK_AT + layout.STOPS, layout.STOP_PLACES)
    wanted = {(at + offset) % layout.STOP_PLACES for offset in range(-31, min(size, 1 << 16))}
    assert {place for place, byte in enumerate(table) if byte} == wanted
    sites.stops.at([])
    assert not any(run.scene.ram.read(BLOCK_AT + layout.STOPS, layout.STOP_PLACES))


def test_configuration_has_words_of_its_own() -> None:
    run = Run()
    run.first()
    assert run.loop.sites is not None and run.loop.sites.stops.at(
        [], range(0xB000_0000, 0xC000_0000)
    )
    assert run.word("SETUP") == SPAN + 0xB000_0000 and run.word("SETUP_SIZE") == 0x1000_0000


def test_the_largest_ranges_have_words_of_their_own() -> None:
    run = Run()
    run.first()
    sites = run.loop.sites
    assert sites is not None

    def wide() -> list[tuple[int, int]]:
        return [(run.word(f"WIDE{n}") - SPAN, run.word(f"EXTENT{n}")) for n in range(4)]

    def first() -> int:
        return BLOCK_AT + run.entry() + layout.SITE_FIELDS["FIRST"]

    run.scene.ram.write(first(), struct.pack("<Q", AT))
    wanted = [
        range(0x1000 * n, 0x1000 * n + 0x1000 * size) for n, size in ((2, 1), (20, 9), (50, 3))
    ]
    far = [range(0x7800, 0x9900), range(1 << 40, 1 << 41), range(0x3_0010, 0x3_0014)]
    assert sites.stops.at([*wanted, *far])
    # Whole pages, the largest first, as far as the window reaches; the others by bytes.
    assert wide() == [(0x14000, 0x9000), (0x32000, 0x3000), (0x7000, 0x3000), (0x2000, 0x1000)]
    table = run.scene.ram.read(BLOCK_AT + layout.STOPS, layout.STOP_PLACES)
    bytes_at = {place for place, byte in enumerate(table) if byte}
    assert bytes_at == {*range(0x10000 - 15, 0x10000), *range(0x14)}
    # Sites look up anew whether a stop is wanted where they lead.
    assert run.scene.ram.read(first(), 8) == struct.pack("<Q", layout.NOWHERE)
    always = run.scene.ram.read(BLOCK_AT + layout.ALWAYS, layout.PAGE + layout.LONGEST)
    assert set(always) == {1}
    # An entry that a vCPU may be reading is left alone.
    run.scene.ram.write(BLOCK_AT + control_field("HEAD"), b"\xff" * 8)
    assert sites.stops.at([*wanted, *far]) and not sites.stops.at([])
    assert wide()[0] == (0x14000, 0x9000)


def test_a_guest_that_is_let_go_loses_the_leaves_when_no_vcpu_needs_them() -> None:
    for rip, stays in ((CODE, False), (WINDOW.code + layout.THUNKS, True)):
        run = Run(asks=True)

        def let_go(_: Any, loop: Loop = run.loop) -> None:
            loop.release()

        play(
            run.loop.run(),
            (GuestTime(), None), (Registers(), registers()), (Hold, let_go),
            (MakeChanges(()), None), (VcpuStates(), (STATE, replace(STATE, rip=rip))),
            (Registers(), registers()), (VcpuStates(), (STATE, replace(STATE, rip=rip))),
            (FlushAllTlbs(), None), (Detach(), None),
        )  # fmt: skip
        assert run.word("LIMIT") == 0
        assert any("stay" in text for text in run.loop.journal.warnings) is stays
        assert any(run.scene.ram.read(WINDOW.table, 8 * 444)) is stays
        assert any(run.scene.ram.read(BLOCK_AT, layout.block_size(SLOTS))) is stays
        run.loop.part()
        assert run.counts["block"] == layout.block_size(SLOTS), "it is told all the same"


# ---- several vCPUs


def test_an_access_that_takes_a_stop_waits_for_another_vcpu_to_finish_its_own() -> None:
    run = Run()
    head = run.word("HEAD")
    other, own = ((~vcpu & (1 << 64) - 1).to_bytes(8, "little") for vcpu in (1, 0))
    place = BLOCK_AT + control_field("HEAD")
    stop = run.bell("8b06", AT, rsi=AT)
    run.scene.ram.write(place, other)

    def finished(_: Any) -> Ran:
        run.scene.ram.write(place, struct.pack("<Q", head))
        return stop

    again = (SetRegister("rip", run.stub.stop - 7),)
    play(
        run.loop.run(),
        (Start(()), None), (Await, stop), MAP, SPILLED,
        (Start(again), None), (Await, stop), MAP, SPILLED,
        (Start(again), None), (Await, finished), MAP, SPILLED, (ReadPhysical(DEVICE, 4), 5),
        # The same stop, told once more, changes nothing, whoever is in the middle of what.
        (Start, lambda _: run.scene.ram.write(place, other)), (Await, stop), MAP, SPILLED,
        (Start(()), None), (Await, GONE),
    )  # fmt: skip
    assert len(run.intercepts) == 1 and run.counts["midway"] == 2
    assert run.intercepts[0].note is None
    # An access of an NMI's handler within one of the same vCPU has nobody to wait for.
    run = Run()
    stop = run.bell("8b06", AT, rsi=AT)
    run.scene.ram.write(place, own)
    play(
        run.loop.run(),
        (Start(()), None), (Await, stop), MAP, SPILLED, (ReadPhysical(DEVICE, 4), 5),
        (Start, None), (Await, GONE),
    )  # fmt: skip
    assert len(run.loop.sites or ()) == 0, "no site is written while one is in use"
    assert "NMI" in (run.intercepts[0].note or "")


def test_who_never_finishes_is_not_waited_for_without_end() -> None:
    run = Run()
    stop = run.bell("8b06", AT, rsi=AT)
    run.scene.ram.write(BLOCK_AT + control_field("HEAD"), b"\xfe" + 7 * b"\xff")
    rounds: list[Any] = 64 * [(Start, None), (Await, stop), MAP, SPILLED]
    play(
        run.loop.run(),
        (Start, None), (Await, stop), MAP, SPILLED, *rounds,
        (ReadPhysical(DEVICE, 4), 5), (Start, None), (Await, GONE),
    )  # fmt: skip
    assert len(run.intercepts) == 1


def test_a_program_is_told_of_as_the_reason() -> None:
    run = Run()
    sites = run.loop.sites
    assert sites is not None
    insn = decode(bytes.fromhex("8b06") + bytes(13), CODE, Mode.LONG)
    for _ in range(2):
        sites.consider(insn, CpuState((0,) * 16, CODE, 0x202, cpl=3), run.scene.space)
    assert len(sites) == 0 and list(sites.slow.values()) == [1]


# ---- a hostile guest


@pytest.mark.parametrize(
    ("forge", "why"),
    [
        (lambda run: run.leave(7, 0, tsc=1), "site 7"),
        (lambda run: run.leave(0, 0, tsc=1, rsi=AT - (1 << 50)), "an access at 0x[0-9a-f]{16},"),
        (lambda run: run.scene.ram.write(BLOCK_AT + control_field("HEAD"), bytes(8)), "were lost"),
        (lambda run: (run.leave(0, 0, tsc=1), run.number(0x55)), "were lost"),
    ],
)
def test_a_guest_that_writes_to_the_ring_is_told_of(forge: Any, why: str) -> None:
    run = Run()

    def write(_: Any) -> None:
        forge(run)

    with pytest.raises(InterceptError, match=why):
        play(
            run.loop.run(),
            (Start, None), (Await, run.bell("8b06", AT, rsi=AT)), MAP,
            SPILLED, (ReadPhysical(DEVICE, 4), 5), (Start, None), (Await, write),
        )  # fmt: skip


# ---- the trace file


def test_memory_does_not_grow_with_the_records_that_are_drained_and_read(tmp_path: Path) -> None:
    path = tmp_path / "run.vtrace.zst"
    run = Run()
    run.loop.journal.subscribers.clear()
    summary = Summary()
    peaks = []

    def rounds(_: Any) -> None:
        assert run.loop.sites is not None
        for number in range(SLOTS * 200):
            run.leave(0, number, tsc=2000 + number)
            if number % SLOTS == SLOTS - 1:
                run.loop.sites.drain()
        peaks.append(tracemalloc.get_traced_memory()[0])

    with TraceWriter(path, sample.HEADER) as writer:
        run.loop.journal.scribes += [writer.append, summary.take]
        tracemalloc.start()
        try:
            run.first((Await, rounds), (Await, rounds), (Await, rounds))
        finally:
            tracemalloc.stop()
    assert summary.compiled == 3 * 200 * SLOTS
    assert peaks[2] - peaks[1] < 128 << 10, "3,200 records would take more than six times that"
    last, count = None, 0
    tracemalloc.start()
    try:
        with TraceReader(path) as trace:
            for record in trace:
                count += isinstance(record, Intercept)
                last = record if isinstance(record, Intercept) else last
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    assert last is not None and last.seq == count - 1 == summary.accesses - 1
