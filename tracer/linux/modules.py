"""Loaded kernel modules and their symbols, read out of the guest's memory.

Ref: Linux include/linux/module.h. ``struct module`` has ``core_layout`` and ``init_layout`` up to
6.3, and ``mem[]`` from commit ac3b43283923 "module: replace module_layout with module_memory"
(in v6.4) on. ``kallsyms`` points to ``struct mod_kallsyms`` (kernel/module/kallsyms.c), whose
``typetab`` came with commit 1c7651f43777 "kallsyms: store type information in its own array"
(in v5.2).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tracer.access.symbols import KERNEL_HALF, Symbol, SymbolTable, table_of
from tracer.errors import KernelImageError
from tracer.linux.btf import Btf, Member
from tracer.linux.orc import Table
from tracer.x86.state import PAGE_SIZE

Read = Callable[[int, int], bytes]
"""Read ``size`` bytes at a linear address of the guest; raises LookupError when unmapped."""

# Bounds on what a damaged list or table can make us read.
_MAX_MODULES = 4096
_MAX_SYMBOLS = 1 << 18
_MAX_NAME = 1024  # bytes; the kernel's KSYM_NAME_LEN is 512
_MAX_STRINGS = 1 << 24  # bytes of names of one module
_MAX_STRUCTURE = 1 << 16  # bytes of a struct module

_STATE_UNFORMED = 3  # enum module_state: on the list, but not yet laid out
_SYMBOL = struct.Struct("<IBBHQQ")  # Elf64_Sym: name, info, other, shndx, value, size


@dataclass(frozen=True, slots=True)
class ModuleMark:
    """Hold what of a ``struct module`` changes as it is loaded, set up, started and replaced.

    ``at`` is the linear address of the structure, ``kallsyms`` that of its symbols; ``ranges`` are
    linear addresses and sizes in bytes, ``orc`` the fields of its unwind table.
    """

    at: int
    name: bytes
    state: int
    ranges: tuple[tuple[int, int], ...]
    kallsyms: int
    orc: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Module:
    """Hold one loaded module.

    ``ranges`` are the linear addresses it takes up, its code first; the ones of its init code
    are there only while it starts. ``symbols`` has one table for each range that has symbols.
    ``orc`` is its unwind table, if it has one. ``mark`` tells it from others, and from itself at
    another time.
    """

    name: str
    ranges: tuple[range, ...]
    symbols: tuple[SymbolTable, ...]
    orc: Table | None
    mark: ModuleMark

    @property
    def base(self) -> int:
        """Return the linear address of its code."""
        return self.ranges[0].start if self.ranges else 0

    @property
    def size(self) -> int:
        """Return the size in bytes of the range that has its code."""
        return len(self.ranges[0]) if self.ranges else 0


@dataclass(frozen=True, slots=True)
class ModuleLayout:
    """Hold where the members of ``struct module`` and ``struct mod_kallsyms`` are.

    ``size`` is that of ``struct module``, ``ranges`` are base and size of each range. Members that
    some kernels lack are None: ``orc`` where frame pointers unwind, ``typetab`` in older ones,
    ``kallsyms`` without CONFIG_KALLSYMS.
    """

    size: int
    link: int
    state: Member
    name: Member
    ranges: tuple[tuple[Member, Member], ...]
    orc: tuple[Member, Member, Member] | None
    kallsyms: Member | None
    symtab: Member | None
    count: Member | None
    strtab: Member | None
    typetab: Member | None


def module_layout(types: Btf) -> ModuleLayout:
    """Find the members that are read here.

    Raises KernelImageError when the kernel's types have no ``struct module`` as it is known here.
    """

    def member(path: str) -> Member:
        found = types.member("module", path)
        if found is None:
            raise KernelImageError(
                f"the kernel's types have no member {path} in struct module: "
                "modules of this kernel cannot be read"
            )
        return found

    link = member("list").offset
    memory = types.member("module", "mem")
    if memory is not None:
        # Ordered by enum mod_mem_type, in which MOD_TEXT is the first.
        parts = [f"mem[{index}]" for index in range(memory.count)]
    else:
        parts = ["core_layout", "init_layout"]
    orc = None
    if types.member("module", "arch.num_orcs") is not None:
        # Ref: arch/x86/include/asm/module.h, struct mod_arch_specific.
        orc = member("arch.orc_unwind_ip"), member("arch.orc_unwind"), member("arch.num_orcs")
    size = types.size_of("module") or 0
    if size > _MAX_STRUCTURE:
        raise KernelImageError(f"the kernel's types say that struct module has {size} bytes")
    return ModuleLayout(
        size=size,
        link=link,
        state=member("state"),
        name=member("name"),
        ranges=tuple((member(f"{part}.base"), member(f"{part}.size")) for part in parts),
        orc=orc,
        kallsyms=types.member("module", "kallsyms"),
        symtab=types.member("mod_kallsyms", "symtab"),
        count=types.member("mod_kallsyms", "num_symtab"),
        strtab=types.member("mod_kallsyms", "strtab"),
        typetab=types.member("mod_kallsyms", "typetab"),
    )


def loaded_modules(
    read: Read, layout: ModuleLayout, head: int, known: Iterable[Module] = ()
) -> list[Module]:
    """Return the modules on the kernel's list, in its order: the newest first.

    ``head`` is the linear address of the kernel's symbol ``modules`` in the running guest. The
    guest must be stopped. Of the ``known`` modules those that have not changed are returned as
    they are, so that their symbols are read once. A module whose symbols cannot be read comes
    without; a list that is being changed ends where it stops making sense. Raises LookupError when
    the head of the list cannot be read.
    """
    by_mark = {module.mark: module for module in known}
    modules: list[Module] = []
    seen = {head}
    entry = _pointer(read, head)
    while entry not in seen and entry >= KERNEL_HALF and len(modules) < _MAX_MODULES:
        seen.add(entry)
        try:
            mark = _mark(read, layout, entry - layout.link)
            entry = _pointer(read, entry)
        except LookupError:
            break
        if mark.state != _STATE_UNFORMED:
            modules.append(by_mark.get(mark) or _module(read, layout, mark))
    return modules


def newest(read: Read, layout: ModuleLayout, head: int) -> ModuleMark | None:
    """Return the mark of the newest module, or None: another one when a module has been loaded.

    Raises LookupError when it cannot be read.
    """
    entry = _pointer(read, head)
    return _mark(read, layout, entry - layout.link) if entry not in (0, head) else None


def _mark(read: Read, layout: ModuleLayout, at: int) -> ModuleMark:
    # Reads the `struct module` at a linear address.
    data = read(at, layout.size)
    return ModuleMark(
        at=at,
        name=_slice(data, layout.name).partition(b"\0")[0],
        state=_number(data, layout.state),
        ranges=tuple((_number(data, base), _number(data, size)) for base, size in layout.ranges),
        kallsyms=_number(data, layout.kallsyms),
        # Zero until it has been sorted.
        orc=tuple(_number(data, member) for member in layout.orc or ()),
    )


def _module(read: Read, layout: ModuleLayout, mark: ModuleMark) -> Module:
    name = mark.name.decode("ascii", "replace")
    ranges = tuple(range(base, base + size) for base, size in mark.ranges if size)
    try:
        found = _symbols(read, layout, mark.kallsyms)
    except LookupError:
        found = []
    tables = []
    for part in ranges:
        inside = [symbol for symbol in found if symbol.address in part]
        if inside:
            tables.append(table_of(inside, end=part.stop, owner=name))
    orc = Table(*mark.orc) if mark.orc and mark.orc[2] else None
    return Module(name, ranges, tuple(tables), orc, mark)


def _symbols(read: Read, layout: ModuleLayout, at: int) -> list[Symbol]:
    # Reads the `struct mod_kallsyms` at a linear address.
    if at < KERNEL_HALF or layout.symtab is None or layout.strtab is None:
        return []  # not set up yet, or there never will be

    def number(member: Member | None) -> int:
        if member is None:
            return 0
        return int.from_bytes(read(at + member.offset, member.size), "little")

    count = number(layout.count)
    if not 0 < count <= _MAX_SYMBOLS:
        return []
    table = read(number(layout.symtab), count * _SYMBOL.size)
    strings = number(layout.strtab)
    kinds = b"t" * count if layout.typetab is None else read(number(layout.typetab), count)
    entries = list(_SYMBOL.iter_unpack(table))
    # No field tells the size of the string table: it ends with the name that starts last.
    last = max(entry[0] for entry in entries)
    if last > _MAX_STRINGS:
        return []
    names = (read(strings, last) if last else b"") + _text(read, strings + last).encode() + b"\0"
    found = []
    for entry, kind in zip(entries, kinds, strict=True):
        name_at, _, _, section, value, _ = entry
        end = names.find(b"\0", name_at, name_at + _MAX_NAME)
        name = names[name_at : max(end, name_at)].decode("ascii", "replace")
        # SHN_UNDEF; and the assembler's own labels, after which kallsyms names no address
        # either (Linux include/linux/module_symbol.h, is_mapping_symbol).
        if section and name and not name.startswith((".L", "L0\x01", "$")):
            found.append(Symbol(value, chr(kind), name))
    return found


def _slice(data: bytes, member: Member) -> bytes:
    return data[member.offset : member.offset + member.size]


def _number(data: bytes, member: Member | None) -> int:
    return 0 if member is None else int.from_bytes(_slice(data, member), "little")


def _pointer(read: Read, at: int) -> int:
    return int.from_bytes(read(at, 8), "little")


def _text(read: Read, at: int) -> str:
    # Reads up to the NUL, never beyond the page it is in: the next one may not be mapped.
    text = b""
    while len(text) < _MAX_NAME:
        part = read(at + len(text), min(64, PAGE_SIZE - (at + len(text)) % PAGE_SIZE))
        text += part
        if b"\0" in part:
            break
    return text.split(b"\0", 1)[0].decode("ascii", "replace")
