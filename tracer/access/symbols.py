"""Kernel symbols: from an address to ``name+0x1f``, and from a name to its address.

All addresses are linear. The text form is that of System.map and /proc/kallsyms: address in hex,
type letter as of nm(1), name.
"""

from __future__ import annotations

import re
import struct
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from tracer.errors import KernelImageError

KERNEL_HALF = 1 << 63
"""First linear address of the upper half (4- and 5-level paging), where the kernel lives.

Below it kallsyms has per-CPU offsets and absolute constants, which are no places.
"""

_SYMBOL = struct.Struct("<IBBHQQ")  # Elf64_Sym: name, info, other, shndx, value, size
_NARROW = struct.Struct("<IIIBBH")  # Elf32_Sym: name, value, size, info, other, shndx
_LINE = re.compile(r"([0-9a-fA-F]{8,16}) ([A-Za-z?]) ([!-~]+)(?:\s.*)?")


@dataclass(frozen=True, slots=True)
class Symbol:
    """Name one linear address; ``kind`` is nm's letter, upper case when global."""

    address: int
    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class SymbolTable:
    """Hold symbols sorted by linear address. Make one with :func:`table_of`.

    ``addresses`` are link addresses; ``offset`` (bytes) is what KASLR added to them, and every
    method speaks in addresses of the running guest. ``end`` is the link address after the last
    place. ``owner`` is the module's name, empty for the kernel itself.
    """

    symbols: tuple[Symbol, ...]
    addresses: tuple[int, ...]
    by_name: dict[str, int]
    start: int
    end: int
    owner: str = ""
    offset: int = 0

    def __len__(self) -> int:
        return len(self.symbols)

    def find(self, linear: int) -> tuple[Symbol, int] | None:
        """Return the symbol a linear address lies in and the distance in bytes, or None.

        Of several symbols at one address the first of the table is taken, as kallsyms does
        (Linux kernel/kallsyms.c, get_symbol_pos).
        """
        link = linear - self.offset
        if not self.start <= link < self.end:
            return None
        index = bisect_right(self.addresses, link) - 1
        if index < 0:
            return None
        address = self.addresses[index]
        while index and self.addresses[index - 1] == address:
            index -= 1
        return self.symbols[index], link - address

    def lookup(self, linear: int) -> str | None:
        """Return ``name+0x1f`` for a linear address, ``name+0x1f [module]`` in a module."""
        found = self.find(linear)
        if found is None:
            return None
        symbol, distance = found
        suffix = f" [{self.owner}]" if self.owner else ""
        return f"{symbol.name}+{distance:#x}{suffix}"

    def address_of(self, name: str) -> int | None:
        """Return a symbol's linear address; of several with one name, the lowest.

        Per-CPU offsets and absolute constants are not moved by KASLR and come back unchanged.
        """
        link = self.by_name.get(name)
        if link is None or link < KERNEL_HALF:
            return link
        return link + self.offset

    def moved(self, offset: int) -> SymbolTable:
        """Return the same symbols for a kernel that KASLR moved by ``offset`` bytes."""
        return replace(self, offset=offset)


def table_of(
    symbols: Iterable[Symbol],
    end: int | None = None,
    owner: str = "",
    lowest: int = KERNEL_HALF,
) -> SymbolTable:
    """Build a table from symbols in any order.

    ``end`` is the linear address after the last place; without it the symbol ``_end`` says so,
    and without that the last symbol ends the table a page later. Below the ``lowest`` linear
    address there are no places.
    """
    # Stable, so that symbols of one address keep the order in which they were given.
    ordered = sorted(symbols, key=lambda symbol: symbol.address)
    places = [s for s in ordered if s.address >= lowest and s.kind not in "aA"]
    others = [s for s in ordered if s.address < lowest or s.kind in "aA"]
    by_name: dict[str, int] = {}
    for symbol in ordered:
        by_name.setdefault(symbol.name, symbol.address)
    start = by_name.get("_text", places[0].address if places else 0)
    if end is None:
        end = by_name.get("_end", places[-1].address + 4096 if places else 0)
    return SymbolTable(
        # Places come first so that one index serves both tuples.
        symbols=(*places, *others),
        addresses=tuple(symbol.address for symbol in places),
        by_name=by_name,
        start=start,
        end=end,
        owner=owner,
    )


def elf_symbols(table: bytes, names: bytes, *, wide: bool = True) -> list[Symbol]:
    """Turn an ELF symbol table and its string table into symbols.

    It is one of 64 bits, or else of 32, without ``wide``. Sections, files and undefined symbols are
    left out (System V ABI, Symbol Table).
    """
    found = []
    form = _SYMBOL if wide else _NARROW
    whole = len(table) // form.size * form.size
    for fields in form.iter_unpack(table[:whole]):
        if wide:
            name_at, info, _, section, value, _ = fields
        else:
            name_at, value, _, info, _, section = fields
        if section == 0 or info & 0xF in (3, 4):  # SHN_UNDEF; STT_SECTION, STT_FILE
            continue
        name = names[name_at : names.find(b"\0", name_at)].decode("latin-1")
        if not name:
            continue
        kind = "a" if section == 0xFFF1 else "t" if info & 0xF == 2 else "d"  # SHN_ABS, STT_FUNC
        found.append(Symbol(value, kind if info >> 4 == 0 else kind.upper(), name))
    return found


def resolve(tables: Sequence[SymbolTable], linear: int) -> str | None:
    """Return ``name+0x1f`` from the first table that knows the linear address."""
    for table in tables:
        name = table.lookup(linear)
        if name is not None:
            return name
    return None


def function_names(table: SymbolTable) -> frozenset[str]:
    """Return the names of what is code: nm's letters T and W, of either case."""
    return frozenset(symbol.name for symbol in table.symbols if symbol.kind in "tTwW")


def parse_system_map(text: str, lowest: int = KERNEL_HALF) -> SymbolTable:
    """Read System.map or /proc/kallsyms text.

    Raises KernelImageError naming the line that is not one, and for the placeholder that Debian
    ships in place of a System.map. Lines of kallsyms that belong to modules are left out.
    """
    symbols = []
    for number, line in enumerate(text.splitlines(), 1):
        match = _LINE.fullmatch(line)
        if match is None:
            if not line.strip():
                continue
            raise KernelImageError(f"line {number} is not `address type name`: {line!r:.60}")
        address, kind, name = match.groups()
        if line.endswith("]") and "\t[" in line:
            continue
        symbols.append(Symbol(int(address, 16), kind, name))
    if len(symbols) < 2:
        raise KernelImageError("no symbols in it: a placeholder, or an empty file")
    if all(symbol.address == 0 for symbol in symbols):
        raise KernelImageError(
            "every address is 0: read /proc/kallsyms as root (kernel.kptr_restrict hides them)"
        )
    return table_of(symbols, lowest=lowest)


def serialise(table: SymbolTable) -> str:
    """Return a table as System.map text with link addresses, one symbol a line."""
    ordered = sorted(table.symbols, key=lambda symbol: symbol.address)
    return "".join(f"{s.address:016x} {s.kind} {s.name}\n" for s in ordered)
