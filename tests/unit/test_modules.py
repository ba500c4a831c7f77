"""tracer.guest.modules: modules read out of a memory made here, in both layouts of the kernel."""

from __future__ import annotations

import struct

import pytest
from btf_sample import BtfWriter

from tracer.btf import Btf, parse_btf
from tracer.errors import KernelImageError
from tracer.guest.modules import Module, loaded_modules
from tracer.orc import Table

HEAD = 0xFFFFFFFF82A00000
MODULE = 0xFFFFFFFFC0010000
CODE = 0xFFFFFFFFC0000000
DATA = 0xFFFFFFFFC0004000
TABLES = 0xFFFFFFFFC0020000
LIST, NAME, MEMORY, KALLSYMS, ARCH = 8, 24, 128, 256, 320
LIVE, UNFORMED = 0, 3


def types(layout: str, *, orc: bool = True) -> Btf:
    btf = BtfWriter()
    u32, pointer, char = btf.integer("int", 4), btf.pointer(), btf.integer("char", 1)
    head = btf.structure("list_head", 16, ("next", pointer, 0), ("prev", pointer, 8))
    state = btf.enum("module_state", LIVE=LIVE, UNFORMED=UNFORMED)
    part = btf.structure(
        "module_layout" if layout == "old" else "module_memory",
        24,
        ("base", pointer, 0),
        ("size", u32, 8),
    )
    memory = (
        [("core_layout", part, MEMORY), ("init_layout", part, MEMORY + 24)]
        if layout == "old"
        else [("mem", btf.array(part, 2), MEMORY)]
    )
    arch = btf.structure(
        "mod_arch_specific",
        24,
        *([("num_orcs", u32, 0)] if orc else []),
        ("orc_unwind_ip", pointer, 8),
        ("orc_unwind", pointer, 16),
    )
    btf.structure(
        "module",
        512,
        ("state", state, 0),
        ("list", head, LIST),
        ("name", btf.array(char, 56), NAME),
        *memory,
        ("kallsyms", pointer, KALLSYMS),
        ("arch", arch, ARCH),
    )
    btf.structure(
        "mod_kallsyms",
        32,
        ("symtab", pointer, 0),
        ("num_symtab", u32, 8),
        ("strtab", pointer, 16),
        *([] if layout == "old" else [("typetab", pointer, 24)]),
    )
    return parse_btf(btf.blob())


class Memory:
    """Guest memory at linear addresses; what was never written is not mapped."""

    def __init__(self) -> None:
        self.bytes: dict[int, int] = {}

    def write(self, linear: int, data: bytes) -> None:
        self.bytes.update(enumerate(data, linear))

    def numbers(self, linear: int, form: str, *values: int) -> None:
        self.write(linear, struct.pack(form, *values))

    def read(self, linear: int, size: int) -> bytes:
        return bytes(self.bytes[linear + i] for i in range(size))

    def add_module(self, at: int, name: str, following: int, state: int = LIVE) -> None:
        self.write(at, bytes(512))
        self.numbers(at, "<I", state)
        self.numbers(at + LIST, "<QQ", following, 0)
        self.write(at + NAME, name.encode())


SYMBOLS = (  # name, section, value
    ("", 0, 0),
    ("start", 1, CODE),
    ("undefined", 0, CODE + 0x60),
    ("probe", 1, CODE + 0x40),
    (".Llabel", 1, CODE + 0x50),
    ("table", 2, DATA + 8),
)


def add_symbols(memory: Memory, at: int) -> None:
    strings = bytearray(1)
    table = b""
    for name, section, value in SYMBOLS:
        offset = len(strings) if name else 0
        strings += name.encode() + b"\0" if name else b""
        table += struct.pack("<IBBHQQ", offset, 2, 0, section, value, 0)
    # The strings end with the last byte of a page, and nothing is mapped after it.
    names_at = TABLES + 0x2000 - len(strings)
    memory.write(TABLES, table)
    memory.write(names_at, bytes(strings))
    memory.write(TABLES + 0x800, b"?tUttd")
    memory.numbers(TABLES + 0x900, "<QQQQ", TABLES, len(SYMBOLS), names_at, TABLES + 0x800)
    memory.numbers(at + KALLSYMS, "<Q", TABLES + 0x900)


@pytest.fixture
def memory() -> Memory:
    memory = Memory()
    memory.numbers(HEAD, "<QQ", MODULE + LIST, 0)
    memory.add_module(MODULE, "virtio_net", HEAD)
    memory.numbers(MODULE + MEMORY, "<QIIQQI", CODE, 0x100, 0, 0, DATA, 0x20)
    add_symbols(memory, MODULE)
    return memory


def only(memory: Memory, layout: str) -> Module:
    (module,) = loaded_modules(memory.read, types(layout), HEAD)
    return module


@pytest.mark.parametrize("layout", ["old", "new"])
def test_module_with_its_symbols(memory: Memory, layout: str) -> None:
    module = only(memory, layout)
    assert module.name == "virtio_net"
    assert (module.base, module.size) == (CODE, 0x100)
    assert module.ranges == (range(CODE, CODE + 0x100), range(DATA, DATA + 0x20))
    code, data = module.symbols
    assert code.lookup(CODE + 0x55) == "probe+0x15 [virtio_net]"
    assert code.lookup(CODE + 0x3F) == "start+0x3f [virtio_net]"
    assert code.lookup(CODE + 0x100) is None
    assert data.lookup(DATA + 9) == "table+0x1 [virtio_net]"
    assert code.address_of("undefined") is None


def test_unwind_table(memory: Memory) -> None:
    assert only(memory, "new").orc is None  # loaded, but its table has not been sorted yet
    memory.numbers(MODULE + ARCH, "<QQQ", 7, TABLES, TABLES + 0x100)
    assert only(memory, "old").orc == Table(TABLES, TABLES + 0x100, 7)
    (module,) = loaded_modules(memory.read, types("old", orc=False), HEAD)
    assert module.orc is None


def test_type_letters_come_from_typetab(memory: Memory) -> None:
    assert [s.kind for table in only(memory, "new").symbols for s in table.symbols] == list("ttd")


def test_freed_init_code_has_no_range(memory: Memory) -> None:
    memory.numbers(MODULE + MEMORY + 24, "<QI", 0, 0)
    assert only(memory, "old").ranges == (range(CODE, CODE + 0x100),)


def test_list_in_order_without_unformed_ones(memory: Memory) -> None:
    second, third = MODULE + 0x1000, MODULE + 0x2000
    memory.numbers(MODULE + LIST, "<Q", second + LIST)
    memory.add_module(second, "half_made", third + LIST, UNFORMED)
    memory.add_module(third, "virtio", HEAD)
    modules = loaded_modules(memory.read, types("old"), HEAD)
    assert [module.name for module in modules] == ["virtio_net", "virtio"]


def test_empty_list() -> None:
    memory = Memory()
    memory.numbers(HEAD, "<QQ", HEAD, HEAD)
    assert loaded_modules(memory.read, types("new"), HEAD) == []


@pytest.mark.parametrize("following", [0, 0xDEAD000000000100, MODULE + LIST, 0x1000])
def test_list_that_makes_no_sense_ends(memory: Memory, following: int) -> None:
    memory.numbers(MODULE + LIST, "<Q", following)
    assert [m.name for m in loaded_modules(memory.read, types("old"), HEAD)] == ["virtio_net"]


@pytest.mark.parametrize("kallsyms", [0, 0xFFFFFFFFDEAD0000])
def test_module_whose_symbols_cannot_be_read(memory: Memory, kallsyms: int) -> None:
    memory.numbers(MODULE + KALLSYMS, "<Q", kallsyms)
    module = only(memory, "old")
    assert module.name == "virtio_net"
    assert module.symbols == ()


@pytest.mark.parametrize("count", [0, 0xFFFFFFFF])
def test_absurd_number_of_symbols(memory: Memory, count: int) -> None:
    memory.numbers(TABLES + 0x908, "<I", count)
    assert only(memory, "old").symbols == ()


def test_kernel_without_struct_module(memory: Memory) -> None:
    with pytest.raises(KernelImageError, match="no member list in struct module"):
        loaded_modules(memory.read, parse_btf(BtfWriter().blob()), HEAD)


def test_unreadable_head() -> None:
    with pytest.raises(LookupError):
        loaded_modules(Memory().read, types("old"), HEAD)
