"""Loaded kernel modules and their symbols, read out of the guest's memory.

Ref: Linux include/linux/module.h. ``struct module`` has ``core_layout`` and ``init_layout`` up to
6.3, and ``mem[]`` from commit ac3b43283923 "module: replace module_layout with module_memory"
(in v6.4) on. ``kallsyms`` points to ``struct mod_kallsyms`` (kernel/module/kallsyms.c), whose
``typetab`` came with commit 1c7651f43777 "kallsyms: store type information in its own array"
(in v5.2).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from tracer.btf import Btf, Member
from tracer.errors import KernelImageError
from tracer.orc import Table
from tracer.symbols import KERNEL_HALF, Symbol, SymbolTable, table_of
from tracer.x86 import PAGE_SIZE

Read = Callable[[int, int], bytes]
"""Read ``size`` bytes at a linear address of the guest; raises LookupError when unmapped."""

# Bounds on what a damaged list or table can make us read.
_MAX_MODULES = 4096
_MAX_SYMBOLS = 1 << 18
_MAX_NAME = 1024  # bytes; the kernel's KSYM_NAME_LEN is 512

_STATE_UNFORMED = 3  # enum module_state: on the list, but not yet laid out
_SYMBOL = struct.Struct("<IBBHQQ")  # Elf64_Sym: name, info, other, shndx, value, size


@dataclass(frozen=True, slots=True)
class Module:
    """Hold one loaded module.

    ``ranges`` are the linear addresses it takes up, its code first; the ones of its init code
    are there only while it starts. ``symbols`` has one table for each range that has symbols.
    ``orc`` is its unwind table, if it has one.
    """

    name: str
    ranges: tuple[range, ...]
    symbols: tuple[SymbolTable, ...]
    orc: Table | None = None

    @property
    def base(self) -> int:
        """Return the linear address of its code."""
        return self.ranges[0].start if self.ranges else 0

    @property
    def size(self) -> int:
        """Return the size in bytes of the range that has its code."""
        return len(self.ranges[0]) if self.ranges else 0


def loaded_modules(read: Read, types: Btf, head: int) -> list[Module]:
    """Return the modules on the kernel's list, in its order: the newest first.

    ``head`` is the linear address of the kernel's symbol ``modules`` in the running guest. The
    guest must be stopped. A module whose symbols cannot be read comes without; a list that is
    being changed ends where it stops making sense. Raises KernelImageError when the kernel's
    types have no ``struct module`` as it is known here, and LookupError when the head of the list
    cannot be read.
    """
    link = _member(types, "module", "list").offset
    modules: list[Module] = []
    seen = {head}
    entry = _pointer(read, head)
    while entry not in seen and entry >= KERNEL_HALF and len(modules) < _MAX_MODULES:
        seen.add(entry)
        try:
            module = _module(read, types, entry - link)
            entry = _pointer(read, entry)
        except LookupError:
            break
        if module is not None:
            modules.append(module)
    return modules


def _module(read: Read, types: Btf, at: int) -> Module | None:
    # Reads the `struct module` at a linear address; None while it is being formed.
    if _number(read, types, at, "module", "state") == _STATE_UNFORMED:
        return None
    name = _text(read, at + _member(types, "module", "name").offset)
    ranges = tuple(part for part in _ranges(read, types, at) if part)
    try:
        found = _symbols(read, types, at)
    except LookupError:
        found = []
    tables = []
    for part in ranges:
        inside = [symbol for symbol in found if symbol.address in part]
        if inside:
            tables.append(table_of(inside, end=part.stop, owner=name))
    return Module(name, ranges, tuple(tables), _unwind_table(read, types, at))


def _unwind_table(read: Read, types: Btf, at: int) -> Table | None:
    # Ref: arch/x86/include/asm/module.h, struct mod_arch_specific. Zero until it has been sorted.
    if types.member("module", "arch.num_orcs") is None:
        return None  # a kernel that unwinds by frame pointers
    distances, entries, count = (
        _number(read, types, at, "module", f"arch.{name}")
        for name in ("orc_unwind_ip", "orc_unwind", "num_orcs")
    )
    return Table(distances, entries, count) if count else None


def _ranges(read: Read, types: Btf, at: int) -> list[range]:
    parts = []
    memory = types.member("module", "mem")
    if memory is not None:
        # Ordered by enum mod_mem_type, in which MOD_TEXT is the first.
        names = [f"mem[{index}]" for index in range(memory.count)]
    else:
        names = ["core_layout", "init_layout"]
    for name in names:
        base = _number(read, types, at, "module", f"{name}.base")
        size = _number(read, types, at, "module", f"{name}.size")
        parts.append(range(base, base + size))
    return parts


def _symbols(read: Read, types: Btf, at: int) -> list[Symbol]:
    # Reads the `struct mod_kallsyms` of the `struct module` at a linear address.
    if types.member("module", "kallsyms") is None:
        return []  # built without CONFIG_KALLSYMS
    at = _number(read, types, at, "module", "kallsyms")
    if at < KERNEL_HALF:
        return []  # not set up yet
    count = _number(read, types, at, "mod_kallsyms", "num_symtab")
    if not 0 < count <= _MAX_SYMBOLS:
        return []
    table = read(_number(read, types, at, "mod_kallsyms", "symtab"), count * _SYMBOL.size)
    strings = _number(read, types, at, "mod_kallsyms", "strtab")
    kinds = b"t" * count
    if types.member("mod_kallsyms", "typetab") is not None:
        kinds = read(_number(read, types, at, "mod_kallsyms", "typetab"), count)
    entries = list(_SYMBOL.iter_unpack(table))
    # No field tells the size of the string table: it ends with the name that starts last.
    last = max(entry[0] for entry in entries)
    names = (read(strings, last) if last else b"") + _text(read, strings + last).encode() + b"\0"
    found = []
    for entry, kind in zip(entries, kinds, strict=True):
        name_at, _, _, section, value, _ = entry
        name = names[name_at : names.find(b"\0", name_at)].decode("ascii", "replace")
        # SHN_UNDEF; and the assembler's own labels, after which kallsyms names no address
        # either (Linux include/linux/module_symbol.h, is_mapping_symbol).
        if section and name and not name.startswith((".L", "L0\x01", "$")):
            found.append(Symbol(value, chr(kind), name))
    return found


def _member(types: Btf, owner: str, path: str) -> Member:
    member = types.member(owner, path)
    if member is None:
        raise KernelImageError(
            f"the kernel's types have no member {path} in struct {owner}: "
            "modules of this kernel cannot be read"
        )
    return member


def _number(read: Read, types: Btf, at: int, owner: str, path: str) -> int:
    member = _member(types, owner, path)
    return int.from_bytes(read(at + member.offset, member.size), "little")


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
