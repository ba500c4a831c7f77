"""A kernel's list of modules in a memory made here, in both layouts of the kernel."""

from __future__ import annotations

import struct

from btf_sample import BtfWriter

from tracer.linux.btf import Btf, parse_btf

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
    """Give the module at a linear address its symbols."""
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


def one_module() -> Memory:
    """Return the memory of a kernel with one module, all set up."""
    memory = Memory()
    memory.numbers(HEAD, "<QQ", MODULE + LIST, 0)
    memory.add_module(MODULE, "virtio_net", HEAD)
    memory.numbers(MODULE + MEMORY, "<QIIQQI", CODE, 0x100, 0, 0, DATA, 0x20)
    add_symbols(memory, MODULE)
    return memory
