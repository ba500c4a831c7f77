"""Names of registers, what their values mean, and windows whose contents depend on the run."""

from __future__ import annotations

import msgspec
import pytest
import trace_sample as sample
from hypothesis import given
from hypothesis import strategies as st

from tracer.devices import file, library
from tracer.devices.map import Applies, Named, RegisterMap, RegisterMaps, names_register
from tracer.devices.tree import expand
from tracer.trace.naming import Naming
from tracer.trace.record import RegionInfo, RegionRecord

MAPS = library.load()
REGIONS = ("ecam", "hpet", "ioapic", "lapic", "nvme", "nvme.msix-table", "nvme.msix-pba",
           "virtio-blk.common", "virtio-blk.isr", "virtio-blk.device", "virtio-blk.notify",
           "virtio-net.device", "ich9-ahci.ahci")  # fmt: skip


def map_of(region: str) -> RegisterMap:
    found = MAPS.of_region(region)
    assert found is not None, region
    return found


def named(region: str, offset: int, width: int) -> Named:
    found = map_of(region).lookup(offset, width)
    assert found is not None, (region, hex(offset))
    return found


@pytest.mark.parametrize(
    ("region", "offset", "width", "text"),
    [
        ("nvme", 0x0, 8, "CAP"),
        ("nvme", 0x0, 4, "CAP"),
        ("nvme", 0x4, 4, "CAP+4"),
        ("nvme", 0x14, 4, "CC"),
        ("nvme#2", 0x14, 4, "CC"),
        ("nvme", 0x1000, 4, "SQ0TDBL"),
        ("nvme", 0x100C, 4, "CQ1HDBL"),
        ("nvme", 0x10, 8, "INTMC,CC"),
        ("nvme.msix-table", 0x2C, 4, "ENTRY[2].CONTROL"),
        ("nvme.msix-table", 0x10, 8, "ENTRY[1].ADDR,UPPER"),
        ("nvme.msix-table", 0x10, 16, "ENTRY[1].ADDR..CONTROL"),
        ("nvme.msix-table", 0xC, 8, "ENTRY[0].CONTROL,ENTRY[1].ADDR"),
        ("nvme#2.msix-table", 0x0, 4, "ENTRY[0].ADDR"),
        ("hpet", 0xF4, 4, "MAIN_CNT+4"),
        ("hpet", 0x140, 8, "TIMER[2].CONFIG"),
        ("hpet", 0x118, 4, "TIMER[0]+0x18"),
        ("lapic", 0x170, 4, "ISR[7]"),
        ("lapic", 0x180, 4, "TMR[0]"),
        ("ecam", 0x8004, 2, "00:01.0 COMMAND"),
        ("ecam", 0x8000, 4, "00:01.0 VENDOR_ID,DEVICE_ID"),
        ("ecam", 0xFB018, 4, "00:1f.3 BAR[2]"),
        ("ecam", 0x100000, 2, "01:00.0 VENDOR_ID"),
        ("ecam", 0x8104, 4, "00:01.0+0x104"),
        ("ioapic", 0x10, 4, "IOWIN"),
        ("virtio-blk.notify", 0x8, 2, "notify[2]"),
        ("virtio-net.device", 0x3, 1, "mac[3]"),
        ("ich9-ahci.ahci", 0x198, 4, "PORT[1].CMD"),
    ],
)
def test_a_place_has_a_name(region: str, offset: int, width: int, text: str) -> None:
    assert named(region, offset, width).text == text


def test_a_place_without_a_register_has_none() -> None:
    assert map_of("nvme").lookup(0x18, 4) is None
    assert map_of("lapic").lookup(0x24, 4) is None
    assert MAPS.of_region("edu") is None
    assert MAPS.of_region("edu.mmio", "msix-table", "edu") is map_of("nvme.msix-table")


@pytest.mark.parametrize(
    ("region", "offset", "width", "value", "told"),
    [
        ("nvme", 0x14, 4, 0x460001, "EN IOSQES=6 IOCQES=4"),
        ("nvme", 0x14, 4, 0x464061, "EN CSS=all SHN=normal IOSQES=6 IOCQES=4"),
        ("nvme", 0x14, 4, 0, ""),
        ("nvme", 0x4, 4, 0x00401820, "CSS=0xc1 MPSMAX=4"),
        ("nvme", 0x8, 4, 0x10400, "MNR=4 MJR=1"),
        ("lapic", 0x320, 4, 0x300EC, "VECTOR=0xec MASKED MODE=periodic"),
        ("lapic", 0xB0, 4, 0, ""),
        ("ecam", 0x8004, 4, 0x100006, "COMMAND.MEMORY COMMAND.MASTER STATUS.CAPABILITIES"),
        ("ecam", 0x8000, 4, 0x00101B36, "VENDOR_ID.ID=0x1b36 DEVICE_ID=0x10"),
        ("virtio-blk.common", 0x14, 1, 0xF, "ACKNOWLEDGE DRIVER DRIVER_OK FEATURES_OK"),
        ("virtio-blk.common", 0x10, 2, 0xFFFF, "VECTOR=none"),
    ],
)
def test_a_value_is_decoded(region: str, offset: int, width: int, value: int, told: str) -> None:
    assert named(region, offset, width).describe(value) == told


def test_fields_have_bits_value_and_name() -> None:
    fields = named("nvme", 0x14, 4).fields(0x460061)
    assert fields[:2] == [("EN", 1, 1, None), ("CSS", 3, 6, "all")]
    assert ("SHN", 2, 0, "none") in fields
    # Of half a register, only the fields that lie in it.
    assert [name for name, *_ in named("nvme", 0x15, 1).fields(0)] == ["AMS", "SHN"]


@pytest.mark.parametrize(
    ("region", "offset", "width", "value", "told"),
    [
        ("nvme", 0x1C, 4, 0x1, "Controller Status: RDY (Ready)"),
        ("nvme", 0x1C, 4, 0x0, "Controller Status"),
        ("nvme", 0x28, 8, 0x1000, "Admin Submission Queue Base Address"),
        ("nvme", 0x10, 8, 1 << 32, "INTMC, Interrupt Mask Clear; CC, Controller Configuration: EN"
         " (Enable)"),
        ("nvme", 0x10, 8, 2, "INTMC=2, Interrupt Mask Clear; CC, Controller Configuration"),
        ("ecam", 0x8000, 4, 0x29C08086, "VENDOR_ID: ID=0x8086; DEVICE_ID=0x29c0"),
        ("ecam", 0x8004, 2, 0x3, "IO, MEMORY"),
        ("ecam", 0x8004, 4, 0x2, "COMMAND: MEMORY"),
        ("ecam", 0x8004, 4, 0x0, ""),
        ("ioapic", 0x10, 4, 0x1, ""),
    ],
)  # fmt: skip
def test_a_value_is_explained(region: str, offset: int, width: int, value: int, told: str) -> None:
    assert named(region, offset, width).explain(value) == told


def test_all_registers_have_to_agree_on_how_they_are_accessed() -> None:
    assert named("nvme", 0x0, 8).breach("write") == "read-only"
    assert named("nvme", 0x4, 4).breach("write") == "read-only"
    assert named("nvme", 0x0, 12).breach("write") == "read-only"  # CAP and VS
    assert named("nvme", 0x0, 16).breach("write") is None  # and INTMS
    assert named("nvme", 0x1000, 4).breach("read") == "write-only"
    for direction in ("read", "unknown"):
        assert named("nvme", 0x0, 8).breach(direction) is None
    assert named("ioapic", 0x10, 4).breach("write") is None  # nobody knows what it shows


def test_changes_name_what_differs() -> None:
    cc = named("nvme", 0x14, 4)
    assert cc.changes(0x460000, 0x464001) == "EN 0→1, SHN none→normal"
    assert cc.changes(0x460000, 0x460000) == ""
    assert named("nvme", 0x28, 8).changes(0, 0x1000) == ""


def test_an_index_register_chooses_what_a_window_shows() -> None:
    naming = Naming(MAPS)

    def name(offset: int) -> str:
        found = naming.name("ioapic", offset, 4)
        assert found is not None
        return found.text

    assert name(0x10) == "IOWIN"
    for index, text in (
        (0, "ID"), (1, "VER"), (0x10, "REDTBL[0].LOW"), (0x17, "REDTBL[3].HIGH"), (3, "IOWIN[0x3]"),
        (0x117, "REDTBL[3].HIGH"),
    ):  # fmt: skip
        assert name(0x0) == "IOREGSEL"
        naming.note("ioapic", 0x0, "write", 4, index)
        assert name(0x10) == text
    naming.note("ioapic", 0x0, "write", 4, None)
    assert name(0x10) == "IOWIN"


def test_each_region_has_its_own_index() -> None:
    naming = Naming(MAPS)
    naming.note("virtio-blk.common", 0x16, "write", 2, 0)
    naming.note("virtio-net.common", 0x16, "write", 2, 2)
    first = naming.name("virtio-blk.common", 0x1C, 2)
    second = naming.name("virtio-net.common", 0x1C, 2)
    assert first is not None and first.text == "queue[0].enable"
    assert second is not None and second.text == "queue[2].enable"


def test_feature_bits_are_those_of_the_half_selected() -> None:
    naming = Naming(MAPS)
    naming.note("virtio-blk.common", 0x0, "write", 4, 1)
    found = naming.name("virtio-blk.common", 0x4, 4)
    assert found is not None and found.text == "device_feature+4"
    assert found.describe(0x1) == "VERSION_1"


def test_a_bridge_has_a_header_of_its_own() -> None:
    naming = Naming(MAPS)
    before = naming.name("ecam", 0x10018, 1)
    assert before is not None and before.text == "00:02.0 BAR[2]"
    # Read with its neighbours, as Linux may do.
    naming.note("ecam", 0x1000C, "read", 4, 0x00810010)
    after = naming.name("ecam", 0x10018, 1)
    assert after is not None and after.text == "00:02.0 PRIMARY_BUS"
    other = naming.name("ecam", 0x18018, 4)
    assert other is not None and other.text == "00:03.0 BAR[2]"


def test_accesses_are_named_and_noted_in_one() -> None:
    naming = Naming(MAPS)
    texts = []
    for offset, value in ((0x0, 0x12), (0x10, 0), (0x0, 0x13), (0x10, 0)):
        access = sample.device("nvme", offset, 4, "write", value)
        found = naming.add(msgspec.structs.replace(access, region="ioapic"))
        assert found is not None
        texts.append(found.text)
    assert texts == ["IOREGSEL", "REDTBL[1].LOW", "IOREGSEL", "REDTBL[1].HIGH"]
    assert naming.add(sample.ram(4, "read", 1)) is None


def test_a_region_is_known_by_qemus_name_for_it() -> None:
    naming = Naming(MAPS)
    assert naming.name("disk.bar", 0x14, 4) is None
    info = RegionInfo(
        name="disk.bar", start=0x0, end=0xFFF, qemu_name="nvme", device="disk", traced=True
    )
    naming.learn(RegionRecord(time_ns=0, region=info))
    found = naming.name("disk.bar", 0x14, 4)
    assert found is not None and found.text == "CC"


@pytest.mark.parametrize(
    ("region", "name", "places"),
    [
        ("nvme", "CC", [(0x14, 4)]),
        ("nvme", "cc", [(0x14, 4)]),
        ("nvme", "SQ3TDBL", [(0x1018, 4)]),
        ("hpet", "TIMER[2].CONFIG", [(0x140, 8)]),
        ("hpet", "TIMER[32].CONFIG", []),
        ("hpet", "timer[*].comparator", [(0x108, 8)]),
        ("ecam", "00:01.0 COMMAND", [(0x8004, 2)]),
        ("ecam", "00:01.0.COMMAND", [(0x8004, 2)]),
        ("ecam", "00:1F.3 primary_bus", [(0xFB018, 1)]),
        ("ecam", "00:20.0 COMMAND", []),
        ("ecam", "00:01.8 COMMAND", []),
        ("ioapic", "REDTBL[3].low", [(0x10, 4)]),
        ("virtio-blk.common", "queue[1].desc", [(0x20, 8)]),
        ("lapic", "ISR", []),
        ("lapic", "ISR[7]", [(0x170, 4)]),
        ("lapic", "ISR[8]", []),
        ("nvme", "C(", []),
        ("nvme", "", []),
    ],
)
def test_a_register_is_found_by_its_name(
    region: str, name: str, places: list[tuple[int, int]]
) -> None:
    found = map_of(region).find(name)
    assert [(entry.offset, entry.register.width) for entry in found] == places


@pytest.mark.parametrize("region", REGIONS)
def test_every_name_listed_is_found(region: str) -> None:
    found = map_of(region)
    names = list(found.names())
    assert names and len(names) == len(set(names)) < 2000
    for name in names:
        assert found.find(name), name


def test_globs_take_brackets_as_they_are() -> None:
    config = named("hpet", 0x140, 8)
    for pattern in ("TIMER[2].CONFIG", "timer*", "TIMER[?].CONFIG", "hpet.TIMER*", "h*.*CONFIG"):
        assert names_register(pattern, "hpet", config), pattern
    for pattern in ("TIMER[1].CONFIG", "TIMER[2]", "nvme.TIMER*", "TIMER[!1]*"):
        assert not names_register(pattern, "hpet", config), pattern
    assert names_register("cap", "nvme", named("nvme", 4, 4))
    assert names_register("CAP+4", "nvme", named("nvme", 4, 4))
    assert not names_register("*", "nvme", None)
    both = named("ecam", 0x8004, 4)
    assert names_register("* STATUS", "ecam", both) and names_register(
        "ecam.*.command", "ecam", both
    )


def test_an_index_is_put_together_from_its_bits() -> None:
    assert expand("{15:8,02x}:{7:3,02x}.{2:0}", 0x00FB) == "00:1f.3"
    assert expand("SQ{}TDBL", 12) == "SQ12TDBL"
    assert expand("[{,x}]", 255) == "[ff]"


@given(
    region=st.sampled_from(REGIONS),
    offset=st.one_of(
        st.integers(0, 0x40), st.integers(0, 0x2000), st.integers(0, (1 << 28) - 1),
        st.integers(0, (1 << 64) - 1),
    ),
    width=st.sampled_from([0, 1, 2, 3, 4, 8, 16, 64, 512]),
    values=st.lists(st.integers(0, (1 << 64) - 1), min_size=2, max_size=4),
)  # fmt: skip
def test_no_access_and_no_value_is_too_much(
    region: str, offset: int, width: int, values: list[int]
) -> None:
    naming = Naming(MAPS)
    for value in values:
        found = naming.name(region, offset, width)
        if found is not None:
            assert found.text and found.register is found.parts[0].register
            found.describe(value)
            assert found.changes(value, value) == ""
            found.changes(value, values[0])
            for _, _, number, _ in found.fields(value):
                assert 0 <= number <= value
        naming.note(region, offset & 0x3F, "write", 4, value)


@pytest.mark.parametrize(
    ("region", "qemu", "device"),
    [
        ("ecam", "pcie-mmcfg-mmio", "q35-pcihost"),
        ("nvme", "nvme", "nvme"),
        ("nvme.msix-table", "msix-table", "nvme"),
        ("disk.msix-pba", "msix-pba", "disk"),
        ("ich9-ahci.ahci", "ahci", "ich9-ahci"),
        ("disk.common", "virtio-pci-common-virtio-blk", "disk"),
        ("virtio-blk.isr", "virtio-pci-isr-virtio-blk", "virtio-blk"),
        ("disk.device", "virtio-pci-device-virtio-blk", "disk"),
        ("virtio-net#2.device", "virtio-pci-device-virtio-net", "virtio-net#2"),
        ("virtio-net.notify", "virtio-pci-notify-virtio-net", "virtio-net"),
        ("ioapic", "ioapic", "ioapic"),
        ("hpet", "hpet", "hpet"),
        ("lapic", "apic-msi", "apic"),
    ],
)
def test_a_region_has_one_map_of_vetraces_own(region: str, qemu: str, device: str) -> None:
    fits = [m.name for m in MAPS if any(a.fits(region, qemu, device) for a in m.applies)]
    assert len(fits) == 1, fits


def test_the_first_map_that_applies_is_taken() -> None:
    mine = map_of("hpet")
    maps = RegisterMaps([mine, *MAPS])
    assert maps.of_region("hpet") is mine


# ---- Limits, on a map made for them

MADE = file.parse(
    """
applies = [{ region = "made" }]

[register.WIDE]
offset = 0
width = 16

[register.CTRL]
offset = 0x10
fields.ON = "0"
fields.KIND = { bits = "4:1", values = { 0 = "none", 9 = "nine" } }
fields.FLAG = { bits = "5", values = { 1 = "set" } }
fields.TOP = "31:16"

[register.BARE]
offset = 0x14

[register.ROW]
offset = 0x20
stride = 4
count = 12
""",
    "made.toml",
    "made",
)


def made(offset: int, width: int) -> Named:
    found = MADE.lookup(offset, width)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("offset", "width", "text"),
    [
        (0, 16, "WIDE"), (0, 1, "WIDE"), (1, 1, "WIDE+1"), (9, 1, "WIDE+9"), (10, 1, "WIDE+0xa"),
        (15, 1, "WIDE+0xf"), (15, 2, "WIDE,CTRL"), (0x13, 1, "CTRL+3"), (0x14, 4, "BARE"),
        (0x10, 8, "CTRL,BARE"), (0, 0x18, "WIDE..BARE"), (0x4C, 4, "ROW[11]"),
    ],
)  # fmt: skip
def test_a_register_begins_and_ends_at_its_bytes(offset: int, width: int, text: str) -> None:
    assert made(offset, width).text == text


@pytest.mark.parametrize("offset", [0x18, 0x1F, 0x50])
def test_beside_a_register_there_is_none(offset: int) -> None:
    assert MADE.lookup(offset, 1) is None


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (0, ""), (1, "ON"), (0b0010, "KIND=1"), (9 << 1, "KIND=nine"), (10 << 1, "KIND=0xa"),
        (8 << 1, "KIND=8"), (1 << 5, "FLAG=set"), (1 << 6, ""), (0x9_0000, "TOP=9"),
        (0xA_0000, "TOP=0xa"), (0xFFFF_FFFF, "ON KIND=0xf FLAG=set TOP=0xffff"),
    ],
)  # fmt: skip
def test_a_value_is_told_by_its_fields(value: int, told: str) -> None:
    assert made(0x10, 4).describe(value) == told


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (0, 0, ""), (0, 1, "ON 0→1"), (0, 9 << 1, "KIND none→nine"), (9 << 1, 20, "KIND nine→0xa"),
        (1, 1 << 5 | 0x9_0000, "ON 1→0, FLAG 0→set, TOP 0→9"), (0, 1 << 6, ""),
    ],
)  # fmt: skip
def test_what_changes_is_told_by_its_fields(old: int, new: int, told: str) -> None:
    assert made(0x10, 4).changes(old, new) == told


def test_a_field_is_told_where_the_access_has_all_of_it() -> None:
    assert [name for name, *_ in made(0x10, 1).fields(0xFF)] == ["ON", "KIND", "FLAG"]
    assert made(0x12, 2).fields(0x1234) == [("TOP", 16, 0x1234, None)]
    assert made(0x12, 1).fields(0xFF) == made(0x13, 1).fields(0xFF) == []
    assert made(0x10, 8).fields(0x5_0000_0001)[-1] == ("BARE", 32, 5, None)
    assert made(0x10, 8).describe(0x5_0000_0001) == "CTRL.ON BARE=5"
    assert made(0x10, 4).fields(9 << 1)[1] == ("KIND", 4, 9, "nine")
    assert made(0x10, 8).register.name == "CTRL"


@pytest.mark.parametrize(
    ("name", "offsets"),
    [
        ("ROW[0]", [0x20]), ("ROW[11]", [0x4C]), ("ROW[12]", []), ("row[1]", [0x24]),
        ("ROW[*]", [0x20]), ("ROW", []), ("CTRL", [0x10]), ("ctrl ", [0x10]),
        # No index of a device has that many digits, and Python refuses to read 4,301 of them.
        (f"ROW[{'9' * 20}]", []), (f"ROW[{'9' * 5000}]", []), (f"ROW[{'0' * 5000}]", []),
        ("ROW[²]", []), ("ROW[٣]", []), ("ROW[-1]", []), ("ROW[]", []),
    ],
)  # fmt: skip
def test_a_register_is_found_by_an_index_that_it_has(name: str, offsets: list[int]) -> None:
    assert [entry.offset for entry in MADE.find(name)] == offsets


@pytest.mark.parametrize(
    ("applies", "region", "qemu", "device", "fits"),
    [
        (Applies(region="nvme"), "nvme", "x", "y", True),
        (Applies(region="nvme"), "nvme#2", "x", "y", True),
        (Applies(region="nvme"), "nvme#12", "x", "y", True),
        (Applies(region="nvme"), "nvme2", "x", "y", False),
        (Applies(region="nvme", qemu="q"), "nvme", "x", "y", False),
        (Applies(region="nvme", qemu="q"), "nvme", "q", "y", True),
        (Applies(device="d*"), "nvme", "q", "disk#3", True),
        (Applies(device="d*", qemu="x"), "nvme", "q", "disk", False),
        (Applies(qemu="q"), "q", "x", "q", False),
    ],
)
def test_all_that_a_map_says_of_a_region_must_fit(
    applies: Applies, region: str, qemu: str, device: str, fits: bool
) -> None:
    assert applies.fits(region, qemu, device) is fits


@pytest.mark.parametrize(
    ("pattern", "fits"),
    [
        ("CTRL", True), ("ctrl", True), (" CTRL ", True), ("made.CTRL", True), ("MADE.ctrl", True),
        ("C*", True), ("C?RL", True), ("CTR", False), ("other.CTRL", False), ("BARE", True),
        ("CTRL,BARE", True), ("[C]TRL", False), ("*", True),
    ],
)  # fmt: skip
def test_a_pattern_names_each_register_that_an_access_covers(pattern: str, fits: bool) -> None:
    assert names_register(pattern, "made", made(0x10, 8)) is fits
    assert not names_register(pattern, "made", None)
