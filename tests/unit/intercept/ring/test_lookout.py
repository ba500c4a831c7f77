"""A look at the loop around a read: which reads are looked at, and what is told of them."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import block_sample
import pytest
import trace_sample as sample
from msgspec.structs import replace
from poll_code import DEVICE, SYMBOLS, Ram, name, registers

from tracer.access.region import Region, RegionMap
from tracer.access.transfer import Transfer
from tracer.compiled.flagging import flag_of_msr
from tracer.devices import library
from tracer.intercept.ring.lookout import Lookout
from tracer.trace.block import Blocks
from tracer.trace.compiled import Rate
from tracer.trace.member import Space, Via
from tracer.trace.naming import Naming
from tracer.trace.polls import Polls
from tracer.trace.queue import QueueRecord
from tracer.trace.record import Intercept, MemoryAccess, Record
from tracer.trace.waiting import WaitRecord
from tracer.x86.bus import Direction
from tracer.x86.state import GPR

MS = 1_000_000
CSTS, MAIN_CNT = 0x1C, 0xF0


def lookout(vcpus: int = 1) -> tuple[Lookout, list[Record]]:
    told: list[Record] = []
    view: Any = SimpleNamespace(vcpus=vcpus, time_ns=0)
    names: Any = SimpleNamespace(lookup=lambda linear, space: name(linear))
    journal: Any = SimpleNamespace(publish=told.append)
    return Lookout(view, names, journal, Naming(library.load())), told


def read(number: int, region: str = "nvme", offset: int = CSTS, apart_ns: int = MS) -> Intercept:
    access = replace(sample.device(region, offset, 4, "read", 0x80), linear=DEVICE)
    known = dict(zip(GPR, registers(rdi=DEVICE), strict=True))
    return replace(
        sample.intercept(number, access),
        time_ns=number * apart_ns,
        rip=SYMBOLS["busy"],
        before={"rflags": 2, **known},
    )


def space(read: Callable[[int, int], bytes]) -> Any:
    return SimpleNamespace(read=read)


def test_a_poll_that_lasts_is_looked_at_once() -> None:
    watch, told = lookout()
    for number in range(20):
        watch.take(read(number))
    (physical,) = watch.due()
    assert physical == sample.START["nvme"] + CSTS
    ram = space(Ram(SYMBOLS["caller"] + 0x31))
    watch.behind(read(20), ram)
    watch.behind(read(21), ram)
    (wait,) = told
    assert isinstance(wait, WaitRecord)
    assert (wait.register, wait.loop, wait.seq) == ("CSTS", "caller+0x2c", 20)
    assert [(each.mask, each.value) for each in wait.awaited] == [(0x80, None)]
    assert [(each.symbol, each.said) for each in wait.gives_up] == [("caller+0x27", "rbx")]
    watch.take(wait)
    assert watch.due() == []
    (poll,) = watch.waiting()
    assert poll.told == wait


def test_short_polls_and_clocks_are_not() -> None:
    watch, told = lookout()
    for number in range(20):
        watch.take(read(number, apart_ns=1000))
        watch.take(read(number, "hpet", MAIN_CNT))
    assert watch.due() == []
    watch.behind(read(20, "hpet", MAIN_CNT), space(Ram()))
    assert told == []
    assert [poll.region for poll in watch.waiting()] == ["nvme"]


def test_code_that_cannot_be_read_is_no_loop_and_waits_for_nothing() -> None:
    watch, told = lookout()
    for number in range(20):
        watch.take(read(number))
    watch.behind(read(20), space(lambda linear, size: b""))
    (wait,) = told
    assert isinstance(wait, WaitRecord) and not wait.awaited
    watch.take(wait)
    assert watch.waiting() == []


def test_a_program_is_looked_at_in_its_own_memory() -> None:
    watch, told = lookout()
    for number in range(20):
        watch.take(replace(read(number), cpl=3))
    watch.behind(replace(read(20), cpl=3), space(Ram(SYMBOLS["caller"] + 0x31)))
    (wait,) = told
    assert isinstance(wait, WaitRecord)
    assert [(each.mask, each.value) for each in wait.awaited] == [(0x80, None)]


PORT = 0x3FD
LSR = bytes.fromhex("ec a8 20 74 fb c3")  # in al, dx; test al, 0x20; jz -5; ret
STATUS = bytes.fromhex("0f 32 0f ba e0 0c 72 f8 c3")  # rdmsr; bt eax, 12; jc -8; ret


def read_input(number: int, space: Space, address: int, width: int) -> Intercept:
    access = MemoryAccess(
        direction="read", width=width, linear=0, physical=address, value=0,
        region="isa-serial.serial" if space == "port" else space,
        offset=address - 0x3F8 if space == "port" else 8 * address, space=space,
    )  # fmt: skip
    known = dict(zip(GPR, registers(rdx=PORT), strict=True))
    return replace(
        sample.intercept(number, access), time_ns=number * MS, rip=0x1000,
        before={"rflags": 2, **known}, via="monitor",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "address", "width", "code", "flag", "mask", "value"),
    [
        ("port", PORT, 1, LSR, PORT, 0x20, 0x20),
        ("msr", 0x830, 8, STATUS, flag_of_msr(0x830), 0x1000, 0),
    ],
)
def test_an_input_that_is_polled_is_looked_at(
    kind: Space, address: int, width: int, code: bytes, flag: int, mask: int, value: int
) -> None:
    def ram(linear: int, size: int) -> bytes:
        return code[linear - 0x1000 :][:size] if 0x1000 <= linear < 0x1000 + len(code) else b""

    watch, told = lookout()
    assert watch.due_inputs() == 0
    for number in range(20):
        watch.take(read_input(number, kind, address, width))
    assert watch.due() == [] and watch.due_inputs() == 1 << flag
    no_regions: Any = SimpleNamespace(ports=())
    assert watch.inputs(no_regions) == 1 << flag
    watch.behind(read_input(20, kind, address, width), space(ram))
    (wait,) = told
    assert isinstance(wait, WaitRecord) and wait.head == 0x1000
    assert [(each.mask, each.value or 0) for each in wait.awaited] == [(mask, value)]
    assert watch.due_inputs() == 0


def test_a_register_in_configuration_space_is_reached_by_its_data_port() -> None:
    watch, _ = lookout()
    for number in range(20):
        watch.take(read_input(number, "config", 0x8006, 2))
    assert watch.due_inputs() == 1 << 0xCFE


def test_what_tells_the_time_is_not_waited_for() -> None:
    watch, _ = lookout()
    for number in range(20):
        watch.take(read_input(number, "tsc", 0, 8))
        watch.take(read_input(number, "cpuid", 7, 4))
        watch.take(read_input(number, "msr", 0x10, 8))
    assert watch.due_inputs() == 0 and watch.waiting() == []


def test_of_a_long_block_the_rows_between_are_counted() -> None:
    whole, some = lookout(2)[0], lookout(1)[0]
    for line in block_sample.lines(1000):
        whole.take(line)
        some.take(line)
    for watch in (whole, some):
        (poll,) = watch.polls.open()
        assert (poll.turns, poll.value) == (1000, 999)


def test_rows_of_which_no_record_is_made_are_the_same_polls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Two loops and a write between, of two vCPUs; values and times are each row's own.
    other = block_sample.LINEAR + 8
    rows = [
        block_sample.row(site, tsc=100 + 8 * number + site, vcpu=vcpu, rdi=at, read=number // 3)
        for number in range(40)
        for site, at, vcpu in (
            (0, block_sample.LINEAR, 0),
            (2, other, 0),
            (0, block_sample.LINEAR, 1),
        )
    ]
    rows[60] = block_sample.row(1, tsc=270, rdi=other, written=1)
    sites = [("8b07", 0x1000), ("8907", 0x2000), ("8b07", 0x3000)]
    *opening, _, _, _ = block_sample.lines(1)
    opening += [block_sample.site(n, code, rip=rip) for n, (code, rip) in enumerate(sites)]
    rate = Rate(counter=0, time_ns=0, ticks=1, span_ns=MS)
    blocks = [block_sample.block(*rows, rate=rate), block_sample.block(*rows, seq=120, rate=rate)]
    seen, intercepts, expected = lookout(2)[0], Blocks(), Polls()
    for line in (*opening, *blocks):
        for record in intercepts.records(line):
            expected.add(record)
    with monkeypatch.context() as patch:
        patch.setattr(Polls, "add", lambda polls, record: [])
        for line in (*opening, *blocks):
            seen.take(line)
    assert len(list(expected.all())) >= 3
    assert list(seen.polls.all()) == list(expected.all())
    assert seen.polls.open() == expected.open()


def test_a_block_that_another_access_comes_in_is_followed_row_by_row() -> None:
    watch, _ = lookout()
    rows = [block_sample.row(tsc=number) for number in range(1000)]
    rows[500] = block_sample.row(1, rdi=block_sample.LINEAR + 8, rax=1)
    *opening, _, _ = block_sample.lines(1)
    for line in (*opening, block_sample.site(1, "8907", rip=0x2000), block_sample.block(*rows)):
        watch.take(line)
    (poll,) = watch.polls.open()
    assert poll.turns == 499


DESC, USED = 0x1000, 0x2000
MMIO, PCI = "virtio-mmio", "virtio-blk"
MMIO_SETUP = (
    (MMIO, 0x28, 4, 0x1000), (MMIO, 0x30, 4, 0), (MMIO, 0x38, 4, 8), (MMIO, 0x3C, 4, 0x1000),
    (MMIO, 0x40, 4, 1), (MMIO, 0x50, 4, 0),
)  # fmt: skip
PCI_SETUP = (
    (f"{PCI}.common", 0x16, 2, 0), (f"{PCI}.common", 0x18, 2, 8),
    *((f"{PCI}.common", at, 4, value) for at, value in (
        (0x20, DESC), (0x24, 0), (0x28, DESC + 128), (0x2C, 0), (0x30, USED), (0x34, 0))),
    (f"{PCI}.notify", 0, 2, 0),
)  # fmt: skip


class Queued:
    """A guest with a virtqueue of 8, whose device has done with two chains."""

    def __init__(self, setup: Iterable[tuple[str, int, int, int]]) -> None:
        self.watch, self.told = lookout()
        self._ram = bytearray(0x10000)
        self._view: Any = self.watch._view
        self._view.shared = 0
        self._view.memory = SimpleNamespace(read=lambda at, size: bytes(self._ram[at : at + size]))
        self._view.regions = RegionMap([Region("nvme", 0xFEB0_0000, 0xFEB0_1FFF, 0xFEB0_0000,
                                        PCI, "")], (), ())  # fmt: skip
        self.watch.follow_queues(Naming(library.load()), tell=True)
        self._seq = 0
        for region, offset, width, value in setup:
            self.make("write", region, offset, width, value, via="monitor")
        self._ram[USED : USED + 20] = struct.pack("<HHIIII", 0, 2, 0, 513, 1, 7)

    def make(
        self, direction: Direction, region: str, offset: int, width: int, value: int,
        via: Via = "compiled",
    ) -> list[QueueRecord]:  # fmt: skip
        """Return what is told behind an access."""
        self._take(MemoryAccess(direction=direction, width=width, linear=0, physical=offset,
                                value=value, region=region, offset=offset), via)  # fmt: skip
        return self._settled()

    def interrupt(self, cause: str) -> list[QueueRecord]:
        self._take(replace(sample.irq(0x25), direction="read"), "monitor", cause)
        return self._settled()

    def _take(self, access: MemoryAccess, via: Via, cause: str | None = None) -> None:
        record = replace(sample.intercept(self._seq, access, via=via), cause=cause)
        self._seq += 1
        self.watch.take(record)

    def _settled(self) -> list[QueueRecord]:
        self.told.clear()
        self.watch.settle()
        return [record for record in self.told if isinstance(record, QueueRecord)]


@pytest.mark.parametrize(
    ("setup", "region", "offset", "width"),
    [(MMIO_SETUP, MMIO, 0x60, 4), (PCI_SETUP, f"{PCI}.isr", 0, 1)],
)
def test_what_is_done_is_told_where_the_driver_reads_that_its_device_has_interrupted(
    setup: Iterable[tuple[str, int, int, int]], region: str, offset: int, width: int
) -> None:
    guest = Queued(setup)
    assert guest.make("write", region, offset, width, 1) == []
    assert guest.make("read", region, offset, width, 0) == []
    assert guest.make("read", "virtio-net.isr", 0, 1, 1) == []
    (told,) = guest.make("read", region, offset, width, 1)
    assert [entry.text for entry in told.entries] == [
        "chain 0 is done, 513 bytes written", "chain 1 is done, 7 bytes written",
    ]  # fmt: skip
    assert (told.seq, told.queue, told.number, told.late) == (len([*setup]) + 3, "VQ", 0, False)
    assert guest.make("read", region, offset, width, 1) == []


def write_to(region: Region, physical: int) -> Transfer:
    return Transfer("write", 0, physical, 4, 0, region, traced=True, ram=False)


def test_doorbells_are_where_their_regions_are_by_now() -> None:
    watch, _ = lookout()
    assert watch.places(RegionMap((), (), ())) == []
    watch._view = Queued(()).watch._view
    watch.follow_queues(Naming(library.load()), tell=True)
    for start in (0x1000, 0x8000):
        region = Region("virtio-mmio", start, start + 0x1FF, start, "virtio-mmio", "")
        regions = RegionMap([region], [(region.start, region.end)], ())
        bell = start + 0x50
        assert watch.places(regions) == watch.places(regions) == [range(bell, bell + 4)]
        assert watch.rings(write_to(region, bell)) and not watch.rings(write_to(region, bell + 4))
    assert watch.places(RegionMap([region], (), ())) == []


def test_a_read_that_took_no_stop_tells_late_what_is_done() -> None:
    (told,) = Queued(PCI_SETUP).make("read", f"{PCI}.isr", 0, 1, 1, via="monitor")
    assert told.late and len(told.entries) == 2


def test_what_is_done_is_told_where_a_function_interrupts_by_its_capability() -> None:
    guest = Queued(PCI_SETUP)
    assert guest.interrupt("00:03.0 msi") == []  # where it lies was not seen
    for value in (0xFFFF_FFFF, 0xFEB0_0000):
        guest.make("write", "ecam", 3 << 15 | 0x10, 4, value)
    assert guest.interrupt("00:02.0 msi") == guest.interrupt("ioapic pin 3") == []
    (told,) = guest.interrupt("00:03.0 msi or ioapic pin 3")
    assert told.late and len(told.entries) == 2
    assert guest.interrupt("00:03.0 msi") == []
