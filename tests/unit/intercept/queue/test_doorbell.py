"""Doorbells of rings, of queues that entries make and of virtqueues; hostile guests."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest
import trace_sample as sample
from msgspec.structs import replace

from tracer.access.region import Region
from tracer.devices import library
from tracer.devices.file import parse
from tracer.devices.map import RegisterMaps
from tracer.devices.queue import Virtqueue
from tracer.errors import UsageError
from tracer.intercept.queue.doorbell import MOST_ENTRIES, Doorbells
from tracer.trace.naming import Naming
from tracer.trace.queue import QueueRecord, queue_lines, queue_object
from tracer.trace.record import MemoryAccess, RegionInfo, RegionRecord

PAGE = (Path(__file__).parents[4] / "docs" / "registers.md").read_text()
RAM_SIZE = 0x10_0000


class Guest:
    """A guest with RAM and a driver that accesses registers by their names."""

    def __init__(self, maps: RegisterMaps) -> None:
        self.ram = bytearray(RAM_SIZE)
        self.naming = Naming(maps)
        self.bells = Doorbells(self.naming, self._read)
        self._seq = 0

    def _read(self, physical: int, size: int) -> bytes:
        if physical + size > RAM_SIZE:
            raise LookupError(physical)
        return bytes(self.ram[physical : physical + size])

    def put(self, physical: int, data: bytes) -> None:
        self.ram[physical : physical + len(data)] = data

    def write(self, region: str, offset: int, width: int, value: int) -> QueueRecord | None:
        access = MemoryAccess(
            direction="write", width=width, linear=0, physical=0, value=value, region=region,
            offset=offset,
        )  # fmt: skip
        record = replace(sample.intercept(self._seq, access), accesses=[access])
        self._seq += 1
        named = self.naming.add(access)
        self.bells.learn(access, named)
        ahead = self.bells.ahead(record, record.seq, access, named)
        told = self.bells.rung(record, record.seq, access, named)
        assert ahead == told  # and what is foretold changes nothing
        return told


def command(opcode: int, cid: int, prp1: int = 0, dw10: int = 0) -> bytes:
    """Be an NVMe command."""
    return struct.pack("<BBHI16xQQI20x", opcode, 0, cid, 1, prp1, 0, dw10)


def by_descriptor(cid: int, psdt: int, address: int, length: int, kind: int) -> bytes:
    """Be an NVMe read whose data a scatter gather list's descriptor tells (NVMe 1.4, 4.4)."""
    return struct.pack("<BBHI16xQI3xB24x", 2, psdt << 6, cid, 1, address, length, kind << 4)


ASQ, ACQ, SQ1 = 0x1000, 0x2000, 0x3000


def nvme(count: int = 32) -> Guest:
    guest = Guest(library.load())
    guest.write("nvme", 0x24, 4, (count - 1) << 16 | (count - 1))
    guest.write("nvme", 0x28, 4, ASQ)
    guest.write("nvme", 0x2C, 4, 0)
    guest.write("nvme", 0x30, 8, ACQ)
    guest.write("nvme", 0x14, 4, 0x460061)
    return guest


def rung(told: QueueRecord | None) -> QueueRecord:
    assert told is not None
    return told


def texts(told: QueueRecord | None) -> list[str]:
    return [each.text or "" for each in rung(told).entries]


def test_new_commands_are_told_once() -> None:
    guest = nvme()
    guest.put(ASQ, command(6, 1, 0x8000) + command(9, 2))
    assert texts(guest.write("nvme", 0x1000, 4, 1)) == ["OPC=identify CID=1 NSID=1 PRP1=0x8000"]
    (second,) = rung(guest.write("nvme", 0x1000, 4, 2)).entries
    assert (second.kind, second.index, second.physical) == ("ADMIN", 1, ASQ + 64)
    assert second.data == command(9, 2)
    assert second.fields["OPC"] == 9 and second.fields["CID"] == 2
    assert rung(guest.write("nvme", 0x1000, 4, 2)).entries == []


def test_the_ring_begins_again() -> None:
    guest = nvme(4)
    guest.write("nvme", 0x1000, 4, 3)
    guest.put(ASQ + 3 * 64, command(6, 7))
    guest.put(ASQ, command(6, 8))
    assert [each.index for each in rung(guest.write("nvme", 0x1000, 4, 1)).entries] == [3, 0]


def test_a_command_makes_a_queue_and_a_reset_ends_it() -> None:
    guest = nvme()
    guest.put(ASQ, command(1, 1, SQ1, 1 | 7 << 16))
    guest.write("nvme", 0x1000, 4, 1)
    guest.put(SQ1, command(2, 0x2A, 0x9000, 0x100))
    told = rung(guest.write("nvme", 0x1008, 4, 1))
    assert (told.queue, told.number) == ("SQ", 1)
    assert texts(told) == ["OPC=read CID=0x2a NSID=1 PRP1=0x9000 SLBA=0x100"]
    assert "lies outside its 8 entries" in (rung(guest.write("nvme", 0x1008, 4, 8)).note or "")
    guest.write("nvme", 0x14, 4, 0x460060)
    assert rung(guest.write("nvme", 0x1008, 4, 1)).note == "where it is was not seen"


def test_where_the_data_are_is_told_in_the_form_that_the_command_has() -> None:
    guest = nvme()
    guest.put(ASQ, command(1, 1, SQ1, 1 | 7 << 16))
    guest.write("nvme", 0x1000, 4, 1)
    guest.put(SQ1, by_descriptor(5, 1, 0x51CA000, 0x20000, 0))
    guest.put(SQ1 + 64, by_descriptor(6, 2, 0x51CA000, 64, 3))
    guest.put(SQ1 + 128, command(2, 7, 0x9000))
    assert texts(rung(guest.write("nvme", 0x1008, 4, 3))) == [
        "OPC=read PSDT=1 CID=5 NSID=1 SGL1=0x51ca000 SGL1LEN=0x20000 SGL1ID=data-block",
        "OPC=read PSDT=2 CID=6 NSID=1 SGL1=0x51ca000 SGL1LEN=0x40 SGL1ID=last-segment",
        "OPC=read CID=7 NSID=1 PRP1=0x9000",
    ]


def test_a_guest_makes_a_queue_by_a_field_of_another_form() -> None:
    guest = nvme()
    made = bytearray(command(1, 1, SQ1, 1 | 7 << 16))
    made[1] = 1 << 6
    guest.put(ASQ, bytes(made))
    told = rung(guest.write("nvme", 0x1000, 4, 1))
    assert "PRP1" not in texts(told)[0] and "SGL1=0x3000" in texts(told)[0]


def test_completions() -> None:
    guest = nvme()
    guest.put(ACQ, struct.pack("<IIHHHH", 5, 0, 1, 0, 0x1C, 1))
    assert texts(guest.write("nvme", 0x1004, 4, 1)) == ["DW0=5 SQHD=1 CID=0x1c P=1"]


def completion(cid: int, phase: int) -> bytes:
    """Be an NVMe completion."""
    return struct.pack("<IIHHHH", 0, 0, 1, 0, cid, phase)


def done(guest: Guest, device: str) -> list[tuple[str, int, list[int]]]:
    """Return what a device is done with, when it interrupts; the next looks are foretold."""
    ahead = [*guest.bells.copy().completed(device)]
    told = [*guest.bells.completed(device)]
    assert ahead == told
    return [(each.queue, each.number, [entry.index for entry in each.entries]) for each in told]


def test_completions_are_told_when_their_device_interrupts() -> None:
    guest = nvme(4)
    assert done(guest, "nvme") == []
    guest.write("nvme", 0x1000, 4, 1)
    guest.put(ACQ, completion(1, 1) + completion(2, 1))
    assert done(guest, "another") == []
    assert done(guest, "nvme") == [("ADMIN-CQ", 0, [0, 1])]
    assert done(guest, "nvme") == []
    # The doorbell tells what the driver has taken note of, whoever told it before.
    assert len(rung(guest.write("nvme", 0x1004, 4, 1)).entries) == 1
    # One entry stays free; what stands there is of the lap before.
    guest.put(ACQ + 32, completion(3, 1) + completion(4, 0))
    assert done(guest, "nvme") == [("ADMIN-CQ", 0, [2])]
    guest.write("nvme", 0x1004, 4, 3)
    guest.put(ACQ + 48, completion(4, 1))
    guest.put(ACQ, completion(5, 0))
    assert done(guest, "nvme") == [("ADMIN-CQ", 0, [3, 0])]
    # A driver that polls is ahead of whoever looks.
    guest.put(ACQ, completion(5, 0) + completion(6, 0) + completion(7, 0) + completion(8, 1))
    guest.write("nvme", 0x1004, 4, 2)
    assert done(guest, "nvme") == [("ADMIN-CQ", 0, [2])]


def test_completions_of_a_queue_that_was_made() -> None:
    guest = nvme()
    guest.put(ASQ, command(5, 1, SQ1, 1 | 7 << 16))
    guest.write("nvme", 0x1000, 4, 1)
    guest.put(SQ1, completion(9, 1))
    assert done(guest, "nvme") == [("CQ", 1, [0])]
    guest.put(SQ1 + 16, completion(9, 1))
    guest.write("nvme", 0x14, 4, 0x460060)
    assert done(guest, "nvme") == []


def test_completions_of_queues_that_were_set_up_before() -> None:
    guest = Guest(library.load())
    guest.bells.begin(
        Region("nvme", 0, 0x3FFF, 0, "nvme", "nvme"), {"AQA": 0x3_0003, "ASQ": ASQ, "ACQ": ACQ}
    )
    guest.put(ACQ, completion(1, 0) + completion(2, 0) + completion(3, 1))
    guest.write("nvme", 0x1000, 4, 1)
    assert done(guest, "nvme") == []  # in which lap the device is, nobody knows
    guest.write("nvme", 0x1004, 4, 1)
    assert done(guest, "nvme") == [("ADMIN-CQ", 0, [1])]


def test_a_hostile_guest_has_a_ring_that_is_done_for_ever() -> None:
    guest = nvme(4096)
    guest.write("nvme", 0x1000, 4, 1)
    guest.put(ACQ, completion(1, 1) * 4096)
    assert len(done(guest, "nvme")[0][2]) == MOST_ENTRIES
    for _ in range(4096 // MOST_ENTRIES - 1):
        assert len(done(guest, "nvme")[0][2]) in (MOST_ENTRIES, MOST_ENTRIES - 1)
    assert done(guest, "nvme") == []
    guest.write("nvme", 0x30, 8, RAM_SIZE)
    assert done(guest, "nvme") == []


@pytest.mark.parametrize(("base", "entries"), [(0xFFFF_F000, 0), (RAM_SIZE - 64, 1)])
def test_a_ring_outside_ram(base: int, entries: int) -> None:
    guest = nvme()
    guest.write("nvme", 0x28, 8, base)
    told = rung(guest.write("nvme", 0x1000, 4, 2))
    assert told.note == f"physical {base + 64 * entries:#x} is not RAM"
    assert len(told.entries) == entries


def test_no_more_entries_are_told_than_a_reader_can_take() -> None:
    guest = nvme(4096)
    told = rung(guest.write("nvme", 0x1000, 4, 4000))
    assert len(told.entries) == MOST_ENTRIES
    assert told.note == f"{4000 - MOST_ENTRIES} more entries"


DESC, AVAIL, USED = 0x4000, 0x5000, 0x6000


def virtio(size: int = 8, avail: int = AVAIL) -> Guest:
    guest = Guest(library.load())
    common = "virtio-blk.common"
    guest.write(common, 0x16, 2, 1)
    guest.write(common, 0x18, 2, size)
    for offset, value in ((0x20, DESC), (0x28, avail), (0x30, USED)):
        guest.write(common, offset, 4, value)
        guest.write(common, offset + 4, 4, 0)
    return guest


def notify(guest: Guest) -> QueueRecord:
    return rung(guest.write("virtio-blk.notify", 4, 2, 1))


def test_a_descriptor_chain_and_what_was_used() -> None:
    guest = virtio()
    guest.put(DESC, struct.pack("<QIHHQIHH", 0xA000, 16, 1, 1, 0xB000, 512, 2, 0))
    guest.put(AVAIL, struct.pack("<HHH", 0, 1, 0))
    told = notify(guest)
    assert (told.queue, told.number) == ("VQ", 1)
    assert texts(told) == ["device reads 16 bytes at 0xa000", "device writes 512 bytes at 0xb000"]
    assert [each.chain for each in told.entries] == [0, 0]
    guest.put(AVAIL, struct.pack("<HHHH", 0, 2, 0, 1))
    guest.put(USED, struct.pack("<HHII", 0, 1, 0, 513))
    assert texts(notify(guest)) == [
        "chain 0 is done, 513 bytes written", "device writes 512 bytes at 0xb000",
    ]  # fmt: skip
    guest.put(USED, struct.pack("<HHIIII", 0, 2, 0, 513, 1, 7))
    assert done(guest, "virtio-net") == []
    assert done(guest, "virtio-blk") == [("VQ", 1, [1])] and done(guest, "virtio-blk") == []
    assert notify(guest).entries == []


@pytest.mark.parametrize(
    ("region", "writes", "bell"),
    [
        ("virtio-mmio", [(0x28, 4, 0x1000), (0x30, 4, 1), (0x38, 4, 8), (0x3C, 4, 0x400),
                         (0x40, 4, DESC >> 12)], (0x50, 4)),
        ("old", [(0x0E, 2, 1), (0x0C, 2, 8), (0x08, 4, DESC >> 12)], (0x10, 2)),
    ],
)  # fmt: skip
def test_a_legacy_virtqueue_is_where_its_page_says(
    region: str, writes: list[tuple[int, int, int]], bell: tuple[int, int]
) -> None:
    guest = Guest(library.load())
    info = RegionInfo(name="old", start=0, end=0x1F, qemu_name="virtio-pci", device="virtio-blk",
                      traced=True)  # fmt: skip
    guest.naming.learn(RegionRecord(time_ns=0, region=info))
    assert rung(guest.write(region, *bell, 1)).note == "where it is was not seen"
    for write in writes:
        guest.write(region, *write)
    guest.put(DESC, struct.pack("<QIHH", 0xA000, 16, 0, 0))
    guest.put(DESC + 16 * 8, struct.pack("<HHH", 0, 1, 0))
    assert texts(guest.write(region, *bell, 1)) == ["device reads 16 bytes at 0xa000"]
    used = DESC + (0x400 if region == "virtio-mmio" else 0x1000)
    guest.put(used, struct.pack("<HHII", 0, 1, 0, 7))
    assert texts(guest.write(region, *bell, 1)) == ["chain 0 is done, 7 bytes written"]


def test_a_packed_virtqueue() -> None:
    guest = virtio(6)  # no power of two
    for select, features in ((0, 0), (1, 1 << 2)):
        guest.write("virtio-blk.common", 0x8, 4, select)
        guest.write("virtio-blk.common", 0xC, 4, features)
    guest.put(DESC, struct.pack("<QIHHQIHH", 0xA000, 16, 9, 0x81, 0xB000, 512, 9, 0x82))
    told = notify(guest)
    assert texts(told) == ["device reads 16 bytes at 0xa000", "device writes 512 bytes at 0xb000"]
    assert [(each.chain, each.fields["id"]) for each in told.entries] == [(9, 9), (9, 9)]
    guest.put(DESC, struct.pack("<QIHH", 0, 513, 9, 0x8080))
    guest.put(DESC + 32, struct.pack("<QIHH", 0xC000, 8, 9, 0x80))
    told = notify(guest)
    assert texts(told) == ["chain 9 is done, 513 bytes written", "device reads 8 bytes at 0xc000"]
    assert told.note is None
    guest.put(DESC + 32, struct.pack("<QIHH", 0, 8, 9, 0x8080))
    assert done(guest, "virtio-blk") == [("VQ", 1, [2])] and done(guest, "virtio-blk") == []
    assert notify(guest).entries == []
    guest.write("virtio-blk.common", 0x14, 1, 0)
    guest.put(DESC, struct.pack("<QIHH", 0xD000, 4, 1, 0x80).ljust(96, b"\0"))
    assert texts(notify(guest)) == ["device reads 4 bytes at 0xd000"]


def taken_over(taken: int | None, *, packed: bool = False) -> Guest:
    """A guest with a virtqueue that was set up before."""
    guest = Guest(library.load())
    region = Region("virtio-blk.notify", 0, 0xFFF, 0, "virtio-blk", "virtio-pci-notify")
    known = Virtqueue("virtio-blk", 1, 8, DESC, AVAIL, USED, packed, taken, int(packed))
    other = Virtqueue("virtio-net", 1, 8, 0, 0, 0, packed, 7, 7)
    guest.bells.adopt([region], [known, other])
    return guest


def test_a_virtqueue_that_was_set_up_before() -> None:
    guest = taken_over(2)
    guest.put(DESC, struct.pack("<QIHH", 0xA000, 16, 0, 0))
    guest.put(AVAIL, struct.pack("<HHHHH", 0, 3, 5, 5, 0))
    told = notify(guest)
    assert texts(told) == ["device reads 16 bytes at 0xa000"] and told.note is None
    guest.write("virtio-blk.common", 0x14, 1, 0)
    assert notify(guest).note == "where it is was not seen"
    guest = taken_over(None)  # as of a device that another process has
    guest.put(AVAIL, struct.pack("<HHHHHH", 0, 3, 5, 5, 0, 0))
    assert notify(guest).note == "entries before this one may be new as well"


def test_a_packed_virtqueue_that_was_set_up_before() -> None:
    guest = taken_over(1, packed=True)
    guest.put(DESC + 16, struct.pack("<QIHH", 0xA000, 16, 3, 0x8000))  # the counter is 0 by now
    assert texts(notify(guest)) == ["device reads 16 bytes at 0xa000"]
    assert rung(guest.write("virtio-blk.notify", 0, 2, 0)).note == "where it is was not seen"


def test_rings_that_were_set_up_before() -> None:
    guest = Guest(library.load())
    region = Region("nvme", 0, 0x3FFF, 0, "nvme", "nvme")
    names = {
        entry.name: (entry.offset, entry.register.width) for entry in guest.bells.asked(region)
    }
    assert names == {"AQA": (0x24, 4), "ASQ": (0x28, 8), "ACQ": (0x30, 8)}
    guest.put(ASQ, command(1, 1, SQ1, 1 | 7 << 16) + command(1, 2, 0x7000, 2 | 7 << 16)
              + command(1, 3, 0x8000, 2 | 7 << 16))  # fmt: skip
    guest.put(SQ1 + 64, command(2, 0x2A, 0x9000, 0x100))
    guest.bells.begin(region, {"AQA": 0x1F001F, "ASQ": ASQ, "ACQ": ACQ})
    told = rung(guest.write("nvme", 0x1008, 4, 2))
    assert texts(told) == ["OPC=read CID=0x2a NSID=1 PRP1=0x9000 SLBA=0x100"]
    assert told.note == "entries before this one may be new as well"
    assert rung(guest.write("nvme", 0x1008, 4, 2)).note is None
    # Which of two places the other one is at is not known.
    assert rung(guest.write("nvme", 0x1010, 4, 1)).note == "where it is was not seen"
    guest.bells.begin(region, {"AQA": 0x1F001F, "ASQ": 0, "ACQ": 0})
    hostile = Guest(library.load())
    hostile.bells.begin(region, {"AQA": 0x1F001F, "ASQ": RAM_SIZE, "ACQ": RAM_SIZE})
    assert "is not RAM" in (rung(hostile.write("nvme", 0x1000, 4, 1)).note or "")


def test_virtqueues_of_a_hostile_guest() -> None:
    guest = virtio()
    guest.put(AVAIL, struct.pack("<HH", 0, 0xFFF0))
    assert "65520 new chains are told of in a ring of 8" in (notify(guest).note or "")
    assert "to have 7 descriptors" in (notify(virtio(7)).note or "")
    assert "is not RAM" in (notify(virtio(avail=0xFFFF_F000)).note or "")
    guest = virtio()
    guest.put(DESC, struct.pack("<QIHH", 0xA000, 1, 1, 0))
    guest.put(AVAIL, struct.pack("<HHH", 0, 1, 0))
    assert "comes twice" in (notify(guest).note or "")


def test_the_device_of_the_page() -> None:
    text = next(
        each for each in re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL) if "TAIL" in each
    )
    guest = Guest(RegisterMaps([parse(text, "rings.toml", "rings")]))
    guest.write("rings", 0x0, 8, 0x1000)
    guest.write("rings", 0x8, 4, 4)
    guest.put(0x1000, struct.pack("<BBHIQ", 2, 3, 0, 16, 0x2000))
    assert texts(guest.write("rings", 0x100, 4, 1)) == [
        "OP=open CHANNEL=3 LENGTH=0x10 ADDRESS=0x2000"
    ]
    guest.put(0x2000, struct.pack("<BBHIQ", 1, 0, 0, 64, 0x3000))
    told = rung(guest.write("rings", 0x10C, 4, 1))
    assert (told.queue, told.number, texts(told)) == (
        "CHANNEL", 3, ["OP=send LENGTH=0x40 ADDRESS=0x3000"],
    )  # fmt: skip
    assert list(guest.bells.doorbells("rings", 0x1000)) == [
        range(0x100, 0x104),
        range(0x100, 0x110),
    ]
    late = replace(told, late=True, note="1 more entries")
    assert queue_lines(late)[-1].strip() == (
        "⇒ CHANNEL[3]: read after the guest had gone on; 1 more entries"
    )
    assert queue_object(told)["number"] == 3


HEAD = '[register.T]\noffset = 0\n[entry.E]\nsize = 8\nfields = {{ A = "7:0" }}\n[queue.Q]\n{}'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('entry = "E"', "it has no doorbell"),
        ('doorbell = "T"\nentry = "F"', "there is no [entry.F]"),
        ('doorbell = "T"\nentry = "E"', "it wants base and count"),
        ('doorbell = "T"\nkind = "stack"', "is none of ring, virtqueue"),
        ('doorbell = "T"\nkind = "virtqueue"', "it has no count"),
        ('doorbell = "T"\nentry = "E"\nbase = "T"\ncount = "T"\nless_one = 1', "neither true nor"),
        (
            'doorbell = "T"\nentry = "E"\nbase = "T"\ncount = "T"\nphase = "P"',
            'phase = "P" is no field of entry E',
        ),
        (
            'doorbell = "T"\nentry = "E"\n'
            'made = { queue = "Q", when = { B = 1 }, number = "A", base = "A", count = "A" }',
            '"B" is no field of entry E',
        ),
        (
            'doorbell = "T"\nentry = "E"\n'
            'made = { queue = "R", number = "A", base = "A", count = "A" }',
            "is no queue with entries",
        ),
    ],
)
def test_files_that_mean_nothing(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=re.escape(words)):
        parse('applies = [{ region = "q" }]\n' + HEAD.format(text), "q.toml", "q")
    with pytest.raises(UsageError, match="lie outside its 8 bytes"):
        parse(
            'applies = [{ region = "q" }]\n' + HEAD.replace("7:0", "64").format(""), "q.toml", "q"
        )


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ("1", "entry E, form 1: 1 is no table"),
        ("{}", "entry E, form 1: it has no when"),
        ("{ when = { B = 1 } }", 'entry E, form 1: "B" is no field that every form has'),
        ("{ when = { A = true } }", "when.A = True is no number, nor an array of such"),
        ('{ when = { A = [1, "x"] } }', "is no number, nor an array of such"),
        ('{ when = { A = 1 }, fields = { A = "9:8" } }', "every form has a field A"),
        ('{ when = { A = 1 }, fields = { B = "9:7" } }', "A [7:0] and B [9:7] overlap"),
        ('{ when = { A = 1 }, fields = { B = "64" } }', "bits 64 lie outside its 8 bytes"),
        (
            "{ when = { A = 1 }, fields = { B = 8 } }, { when = { A = 2 }, fields = { B = 9 } }",
            "field B: it is in two forms",
        ),
        ("{ when = { A = 1 }, field = 1 }", "unknown key field"),
    ],
)
def test_forms_that_mean_nothing(form: str, words: str) -> None:
    entry = f'[entry.E]\nsize = 8\nfields = {{ A = "7:0" }}\nforms = [{form}]'
    text = f"[register.T]\noffset = 0\n{entry}"
    with pytest.raises(UsageError, match=re.escape(words)):
        parse('applies = [{ region = "q" }]\n' + text, "q.toml", "q")
