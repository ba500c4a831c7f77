"""What a hostile kernel says of itself: each reader ends, soon and with little memory.

The worst that each format allows is given to its reader, which has an address space of its own
with less room than a reader without bounds would take.
"""

from __future__ import annotations

import resource
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
from btf_sample import BtfWriter
from hypothesis import given, settings
from hypothesis import strategies as st
from module_sample import HEAD, KALLSYMS, MODULE, TABLES, one_module, types
from playbook import play
from ram import PAGING, POISON, ROOT, Ram

from tracer.access.mapping import NewMapping
from tracer.access.region import Region, RegionMap
from tracer.access.space import AddressSpace
from tracer.access.want import Turn
from tracer.cli.guest_console import GuestConsole
from tracer.errors import KernelImageError, TablesUnending, TracerError
from tracer.intercept.poison import poison_mapping
from tracer.linux.btf import MAX_SIZE, parse_btf
from tracer.linux.kernel import open_kernel, read_symbols
from tracer.linux.modules import loaded_modules, module_layout
from tracer.linux.orc import Layout, layout_of, parse_entry
from tracer.linux.processes import root_tables
from tracer.linux.readers import _device_entries
from tracer.x86.paging import PRESENT, Budget, leaves, range_leaves

STRUCT, ARRAY, ENUM = 4, 3, 6
_T = TypeVar("_T")


def sparingly(work: Callable[[], _T], room: int = 256 << 20) -> _T:
    """Do some work with so many bytes of memory more than there are now."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + room, limits[1]))
    try:
        return work()
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def test_a_structure_that_is_its_own_member() -> None:
    btf = BtfWriter()
    # Two members without a name, each the structure itself: two to the power of the depth.
    btf.structure("module", 8, ("", 1, 0), ("", 1, 0), ("real", 1, 0))
    with pytest.raises(KernelImageError, match="damaged BTF"):
        parse_btf(btf.blob()).member("module", "missing")


def test_structures_in_structures_without_end() -> None:
    btf = BtfWriter()
    for number in range(40):
        btf.structure(f"s{number}", 8, *[("", number + 2, 0)] * 40)
    btf.structure("last", 8)
    with pytest.raises(KernelImageError, match="damaged BTF"):
        parse_btf(btf.blob()).member("s20", "missing")


def test_an_array_of_itself() -> None:
    btf = BtfWriter()
    btf.array(1, 2)
    btf.structure("module", 8, ("list", 1, 0))
    with pytest.raises(KernelImageError, match="its own element"):
        parse_btf(btf.blob()).member("module", "list")


def test_types_that_end_beyond_the_blob() -> None:
    btf = BtfWriter()
    btf.add(STRUCT, "module", 8, vlen=0xFFFF)
    with pytest.raises(KernelImageError, match="cut off"):
        parse_btf(btf.blob())


def test_a_name_that_is_all_names() -> None:
    btf = BtfWriter()
    at = len(btf.strings)
    btf.strings += b"x" * (8 << 20)
    btf.add(ENUM, "e", 4, struct.pack("<Ii", at, 0) * 0xFFFF, 0xFFFF)
    assert sparingly(lambda: parse_btf(btf.blob())).enumerators == {"": 0}


def test_a_blob_that_is_too_large() -> None:
    with pytest.raises(KernelImageError, match="more than any kernel has"):
        parse_btf(bytes(MAX_SIZE + 1))


@given(st.binary(max_size=400), st.sampled_from(["list", "arch.num_orcs", "mem[1].base"]))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_types_or_an_error(noise: bytes, path: str) -> None:
    header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(noise), 0, len(noise))
    try:
        parsed = parse_btf(header + noise)
        for name in (*parsed.compounds, "module"):
            parsed.member(name, path)
            parsed.size_of(name)
            parsed.bit_field(name, "type")
    except KernelImageError:
        pass


@pytest.mark.parametrize("width", range(16))
@pytest.mark.parametrize("first", [0, 20, 40, 47, 60])
def test_fields_of_unwind_entries_of_any_width(first: int, width: int) -> None:
    btf = BtfWriter()
    number = btf.integer("unsigned int", 4)
    members = [(name, number, width << 24 | first) for name in ("type", "end", "signal")]
    btf.structure("orc_entry", 6, *members, bit_fields=True)
    layout = layout_of(parse_btf(btf.blob()))
    for bits in (b"\0\0\0\0\0\0", b"\xff\xff\xff\xff\xff\xff"):
        if layout is not None:
            parse_entry(bits, layout)
    parse_entry(b"\xff" * 6, Layout(kind=(0, 16), end=(1, 1), signal=None))


class Endless:
    """A guest's memory in which every byte is there, and counts what is read of it."""

    def __init__(self, fill: bytes = b"x") -> None:
        self.written = one_module()
        self.fill = fill
        self.most = 0

    def read(self, linear: int, size: int) -> bytes:
        self.most = max(self.most, size)
        assert size < 64 << 20, f"{size} bytes are read at once"
        try:
            return self.written.read(linear, size)
        except KeyError:
            return self.fill * size


@pytest.mark.parametrize("offset", [1 << 20, 1 << 30, 0xFFFF_FFFF])
def test_names_of_symbols_four_gigabytes_away(offset: int) -> None:
    memory = Endless()
    # As many symbols as are read, each with a name that has no end.
    count = 1 << 18
    memory.written.numbers(MODULE + KALLSYMS, "<Q", TABLES + 0x900)
    memory.written.numbers(TABLES + 0x900, "<QQQQ", 0xFFFF_FFFF_D000_0000, count, TABLES, TABLES)
    memory.fill = struct.pack("<I", offset)[:1]
    (module,) = sparingly(
        lambda: loaded_modules(memory.read, module_layout(types("new")), HEAD), 512 << 20
    )
    assert module.name == "virtio_net"


def test_a_list_of_modules_without_end() -> None:
    class Circle(Endless):
        def read(self, linear: int, size: int) -> bytes:
            return (0xFFFF_FFFF_C000_0000 + linear * 7919 % (1 << 28)).to_bytes(8, "little") * (
                size // 8 + 1
            )

    modules = loaded_modules(
        lambda at, size: Circle().read(at, size)[:size], module_layout(types("new")), HEAD
    )
    assert len(modules) <= 4096


class Tables(Ram):
    """RAM whose page tables are counted when they are read."""

    def __init__(self, size: int = 0x40_0000) -> None:
        super().__init__(size)
        self.reads = 0

    def read(self, physical: int, size: int) -> bytes:
        self.reads += 1
        return super().read(physical, size)

    def fill(self, table: int, entry: int) -> None:
        self.write(table, struct.pack("<Q", entry) * 512)


def space_of(ram: Ram) -> AddressSpace:
    device = Region("device", 0xFED0_0000, 0xFEDF_FFFF, 0xFED0_0000, "device", "device")
    return AddressSpace(ram, PAGING, RegionMap((device,), ((device.start, device.end),), ()))


def poisoned(ram: Ram, linear: int, size: int) -> int:
    mapping = NewMapping(linear, 0xFED0_0000, size)
    return len(play(poison_mapping(space_of(ram), mapping)).leaves)


@pytest.mark.parametrize("linear", [0xFFFF_C900_0000_0000, 0x7000, 0x8000_0000_0000, (1 << 64) - 1])
@pytest.mark.parametrize("size", [1 << 38, 1 << 47, (1 << 64) - 1])
def test_a_mapping_of_a_quarter_of_a_terabyte_that_nothing_backs(linear: int, size: int) -> None:
    ram = Tables()
    assert poisoned(ram, linear, size) == 0
    assert ram.reads == 1  # the root, where nothing leads on


def test_one_page_in_a_mapping_of_a_quarter_of_a_terabyte() -> None:
    ram = Tables()
    start, middle = 0xFFFF_C900_0000_0000, 0xFFFF_C920_1234_5000
    address = ram.map(middle, 0xFED0_3000)
    outside = ram.map(start - 0x1000, 0xFED0_4000), ram.map(start + (1 << 38), 0xFED0_5000)
    ram.reads = 0
    assert poisoned(ram, start, 1 << 38) == 1
    assert ram.entry(address) & POISON
    assert not any(ram.entry(other) & POISON for other in outside)
    assert ram.reads < 10


def test_tables_that_lead_to_one_another_without_end() -> None:
    ram = Tables()
    below = [ROOT + n * 0x1000 for n in range(1, 4)]
    for table, following in zip([ROOT, *below], [*below, 0xFED0_0000], strict=False):
        ram.fill(table, following | PRESENT)
    # Each of 2^36 pages is the same device's, by the same 512 entries.
    assert poisoned(ram, 0, 1 << 47) == 512
    assert ram.reads < 2000
    ram.fill(below[-1], ROOT | PRESENT)
    ram.fill(ROOT, ROOT | PRESENT)
    assert list(leaves(ram, PAGING)) == []


def test_more_tables_than_any_guest_has() -> None:
    ram = Tables(64 << 20)
    tables = iter(range(ROOT + 0x1000, 64 << 20, 0x1000))
    level = [ROOT]
    for count in (1, 20, 512):  # 20 times 512 page tables, each another
        above, level = level, []
        for table in above:
            below = [next(tables) for _ in range(count)]
            entries = struct.pack(f"<{count}Q", *(address | PRESENT for address in below))
            ram.write(table, entries)
            level += below
    assert list(leaves(ram, PAGING)) == []
    for walk in (
        lambda: leaves(ram, PAGING, budget=Budget(5000)),
        lambda: range_leaves(ram, PAGING, 0, 1 << 47, Budget(5000)),
    ):
        with pytest.raises(TablesUnending, match="beyond 5000 tables"):
            list(walk())


def test_others_have_their_turn_while_pages_are_poisoned() -> None:
    ram = Ram(0x80_0000)
    for page in range(0, 8 << 20, 0x1000):
        ram.map(page, 0xFED0_0000 + page % 0x10_0000)
    work = poison_mapping(space_of(ram), NewMapping(0, 0xFED0_0000, 8 << 20))
    done = play(work, (Turn(), None), (Turn(), None))
    assert len(done.leaves) == 2048


def test_a_change_of_rights_everywhere() -> None:
    ram = Tables()
    found = _device_entries(space_of(ram), PAGING, 0, (1 << 64) - 1)
    assert found == []
    assert ram.reads < 1000
    below = [ROOT + n * 0x1000 for n in range(1, 4)]
    for table, following in zip([ROOT, *below], [*below, 0], strict=False):
        ram.fill(table, following | PRESENT)
    with pytest.raises(TablesUnending):
        _device_entries(space_of(ram), PAGING, 0, 1 << 47)


def test_a_long_read_costs_no_more_than_its_bytes() -> None:
    ram = Ram(0x60_0000)
    size = 48 << 20
    for page in range(0, size, 0x1000):
        ram.map(0x1000_0000 + page, 0x1000 * (page // 0x1000 % 128))
    space = space_of(ram)

    def read() -> int:
        return len(space.read(0x1000_0000, size))

    assert sparingly(read, 3 * size) == size


def test_tasks_without_end() -> None:
    reads = 0

    def read(linear: int, size: int) -> bytes:
        nonlocal reads
        reads += 1
        # Each element is followed by another one, and no thread has memory.
        follows = linear % 0x1000 in (0, 24)
        return (linear + 0x1000 if follows else 0).to_bytes(size, "little")

    btf = BtfWriter()
    pointer = btf.integer("unsigned long", 8)
    btf.structure("task_struct", 64, ("tasks", pointer, 0), ("mm", pointer, 64),
                  ("signal", pointer, 128), ("thread_node", pointer, 192))  # fmt: skip
    btf.structure("signal_struct", 64, ("thread_head", pointer, 192))
    btf.structure("mm_struct", 64, ("pgd", pointer, 0))
    with pytest.raises(LookupError, match="has no end"):
        list(root_tables(read, parse_btf(btf.blob()), 0x1000))
    assert reads < 1 << 18


def test_a_console_line_without_an_end() -> None:
    console = GuestConsole()
    shown: list[int] = []
    console.show = lambda text: shown.append(len(text))
    for _ in range(1000):
        console(b"x" * 10_000)
    console.end()
    assert sum(shown) == 10_000_000
    assert max(shown) <= 1 << 15


def elf_header(**fields: int) -> bytes:
    values = {
        "type": 2, "machine": 62, "version": 1, "entry": 0, "phoff": 64, "shoff": 0, "flags": 0,
        "ehsize": 64, "phentsize": 56, "phnum": 1, "shentsize": 64, "shnum": 0, "shstrndx": 0,
    }  # fmt: skip
    values |= fields
    return b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HHIQQQIHHHHHH", *values.values())


@pytest.mark.parametrize("field", ["phoff", "shoff", "phnum", "shnum", "phentsize", "shentsize",
                                   "shstrndx", "entry", "machine"])  # fmt: skip
@pytest.mark.parametrize("value", [1, 0x7FFF, 0xFFFF, 1 << 62, (1 << 64) - 1])
def test_forged_headers_are_one_line(field: str, value: int, tmp_path: Path) -> None:
    wide = field in ("phoff", "shoff", "entry")
    file = tmp_path / "vmlinux"
    header = elf_header(**{field: value if wide else value & 0xFFFF})
    file.write_bytes(header + bytes(200) + b"Linux version 6.1.0-test (a@b) #1\0")
    for read in (open_kernel, read_symbols):
        with pytest.raises(TracerError) as caught:
            read(file)
        assert "\n" not in str(caught.value)


@given(noise=st.binary(min_size=0, max_size=300), at=st.integers(0, 120))
@settings(max_examples=200, deadline=None)
def test_any_header_is_a_kernel_or_one_line(
    noise: bytes, at: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    image = bytearray(elf_header(shoff=64, shnum=2, shstrndx=1) + bytes(300))
    image[max(at, 7) : at + len(noise)] = noise
    file = tmp_path_factory.mktemp("elf") / "vmlinux"
    file.write_bytes(bytes(image))
    for read in (open_kernel, read_symbols):
        with pytest.raises(TracerError):
            read(file)
