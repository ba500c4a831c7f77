"""Registers that say where queues are: fields, numbers, values that were given."""

from __future__ import annotations

import pytest
import trace_sample as sample
from msgspec.structs import replace

from tracer.devices import library
from tracer.devices.file import parse
from tracer.devices.map import RegisterMaps
from tracer.devices.queue import Queue
from tracer.intercept.queue.registers import QueueRegisters, beside, number_in, number_of, places
from tracer.trace.naming import Naming

SUBMISSION = Queue("sq", "SQ{}TDBL", base="ASQ", count="AQA.ASQS", less_one=True)
LEGACY = Queue("vq", "NOTIFY", "virtqueue", count="SIZE", pages="PFN", page="UNIT", align="ALIGN")


def followed() -> tuple[QueueRegisters, Naming]:
    naming = Naming(library.load())
    return QueueRegisters(naming), naming


def written(registers: QueueRegisters, naming: Naming, offset: int, width: int, value: int) -> None:
    named = naming.add(sample.device("nvme", offset, width, "write", value))
    assert named is not None
    registers.learn("nvme", named, value)


def test_a_register_is_put_together_from_its_parts_and_a_field_is_known_by_its_name() -> None:
    registers, naming = followed()
    assert registers.place("nvme", SUBMISSION, 0) == (None, None)
    written(registers, naming, 0x24, 4, 0x001F_000F)
    written(registers, naming, 0x28, 4, 0x8000_1000)
    written(registers, naming, 0x2C, 4, 0x2)
    assert registers.place("nvme", SUBMISSION, 0) == (0x2_8000_1000, 16)
    written(registers, naming, 0x28, 4, 0x3000)
    assert registers.value("nvme", "ASQ", 0) == 0x2_0000_3000
    assert registers.value("nvme", "AQA.NOTHING", 0) is None


def test_what_is_given_is_believed_until_a_reset_and_never_before_what_was_learned() -> None:
    registers, naming = followed()
    registers.give("nvme", "Q{}", 3, 7)
    registers.give("nvme", "Q{}", 3, 8)
    registers.give("nvme", "", 3, 9)
    assert registers.value("nvme", "Q{}", 3) == 7
    written(registers, naming, 0x28, 8, 0x5000)
    registers.give("nvme", "ASQ", 0, 0x6000)
    registers.suppose("nvme", "ASQ", 0x7000)
    registers.suppose("nvme", "ACQ", 0x8000)
    registers.reset("another")
    assert registers.value("nvme", "Q{}", 3) == 7
    registers.reset("nvme")
    assert registers.value("nvme", "Q{}", 3) is None
    assert [registers.value("nvme", name, 0) for name in ("ASQ", "ACQ")] == [0x5000, 0x8000]


@pytest.mark.parametrize(
    ("values", "areas"),
    [
        ({"SIZE": 4, "PFN": 2}, (0x2000, 0x2040, 0x3000)),
        ({"SIZE": 4, "PFN": 2, "UNIT": 0x1000, "ALIGN": 0x100}, (0x2000, 0x2040, 0x2100)),
        ({"SIZE": 4, "PFN": 2, "UNIT": 0, "ALIGN": 0x100}, None),
        ({"SIZE": 4, "PFN": 0}, None),
    ],
)
def test_a_legacy_queue_lies_in_pages(
    values: dict[str, int], areas: tuple[int, int, int] | None
) -> None:
    registers, _ = followed()
    for name, value in {"UNIT": 0x1000, "ALIGN": 0x1000, **values}.items():
        registers.suppose("blk", name, value)
    assert registers.areas("blk", LEGACY, 0) == areas


def test_names_have_numbers() -> None:
    assert [number_of(SUBMISSION, name) for name in ("SQ12TDBL", "CQ1HDBL", "ASQ")] == [
        12, None, None,
    ]  # fmt: skip
    assert number_of(Queue("one", "TAIL7"), "TAIL7") == 7 == number_in("TAIL7")
    assert number_in("TAIL") == 0
    assert beside("a.notify", Queue("vq", "N", registers="common")) == "a.common"
    assert beside("nvme", SUBMISSION) == "nvme"


def test_doorbells_are_where_the_map_repeats_them() -> None:
    registers, _ = followed()
    found = registers.map_of("nvme")
    assert found is not None
    (submission, *_) = (each for each in registers.queues("nvme") if each.doorbell == "SQ{}TDBL")
    (where,) = places(found, submission, 0x1010)
    assert where == range(0x1000, 0x1010)


def test_a_field_is_of_the_map_that_the_region_has_by_now() -> None:
    maps = [
        f'title = "a"\napplies = [{{ qemu = "{name}" }}]\n'
        f'[register.SIZE]\noffset = 0\nfields = {{ COUNT = "{bits}" }}\n'
        for name, bits in (("old", "7:0"), ("new", "15:8"))
    ]
    naming = Naming(RegisterMaps([parse(text, "a.toml", "a") for text in maps]))
    registers = QueueRegisters(naming)
    registers.suppose("nvme", "SIZE", 0x1F0F)
    found = []
    for name in ("none", "old", "new", "old", "none"):
        told = sample.region("nvme")
        naming.learn(replace(told, region=replace(told.region, qemu_name=name)))
        found.append(registers.value("nvme", "SIZE.COUNT", 0))
    assert found == [None, 0xF, 0x1F, 0xF, None]
