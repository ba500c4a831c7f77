"""The guest's kernel reads and rewrites poisoned entries: what is done so that it does not notice.

What Linux does and why these are all is told in :mod:`tracer.linux.mm` and in
``docs/decisions/0007-poison-and-the-kernel.md``.
"""

from __future__ import annotations

import itertools
import struct
from dataclasses import replace
from typing import Protocol

from tracer.access.space import AddressSpace
from tracer.access.vcpu import RegisterFile
from tracer.linux import mm
from tracer.linux.btf import Btf
from tracer.linux.names import Names
from tracer.x86.paging import PRESENT, TABLE_ENTRIES, Budget, Paging, steps

Argument = tuple[int, ...]

_WORD = struct.Struct("<Q")
_MAX_TABLES = 1 << 12
"""Tables that a change of rights may go through: 8 GiB of a device in pages of 4 KiB."""


class Reader(Protocol):
    """Correct what one function of the kernel makes of poisoned entries."""

    name: str
    """The function's symbol."""

    def entered(self, registers: RegisterFile, space: AddressSpace) -> Argument | None:
        """Act where it is entered; return what to know where it returns, None for nothing."""
        ...

    def returned(self, argument: Argument, registers: RegisterFile, space: AddressSpace) -> None:
        """Act where it has returned."""
        ...


def hide_poison(space: AddressSpace, names: Names, *, begun: bool = False) -> bool:
    """Take the poison out of what the kernel takes for an address; tell whether it could be.

    Nothing may be poisoned yet. It stays hidden for good: an entry that Linux inverted with one
    mask must not be read with another. A kernel that has ``begun`` keeps its mask for that reason.
    """
    place = names.kernel.address_of(mm.PHYSICAL_MASK)
    mask = None if place is None else space.word(place)
    if place is None or mask is None:
        return False
    value = mm.hidden(mask, space.paging)
    return value is not None and (value == mask or (not begun and space.set_word(place, value)))


class Rights:
    """Carry the poison over a change of access rights, which builds entries anew."""

    name = mm.CHANGE_RIGHTS

    def __init__(self, names: Names, *, hides: bool) -> None:
        self._names = names
        self._hides = hides
        self._parameters: tuple[str, ...] | None = None

    def entered(self, registers: RegisterFile, space: AddressSpace) -> Argument | None:
        """Mark the entries of device memory in a way that outlasts the change."""
        types = self._names.types()
        if self._parameters is None:
            self._parameters = (types.parameters(self.name) if types is not None else None) or ()
        area, start, end = mm.rights_range(registers.values, self._parameters)
        if not _maps_devices(area, space, types):
            return None
        paging = _tables_of(area, space, types)
        bit = mm.carrier(paging, hides=self._hides)
        found = 0
        for address, entry in _device_entries(space, paging, start, end):
            _write_entry(space, address, mm.carried(entry, bit))
            found += 1
        return (paging.cr3, start, end) if found else None

    def returned(self, argument: Argument, registers: RegisterFile, space: AddressSpace) -> None:
        """Give the entries their poison back."""
        self.settle(argument, space)

    def settle(self, argument: Argument, space: AddressSpace) -> None:
        """Leave the entries as they are to be when no change is under way."""
        cr3, start, end = argument
        paging = replace(space.paging, cr3=cr3)
        bit = mm.carrier(paging, hides=self._hides)
        for address, entry in _device_entries(space, paging, start, end):
            _write_entry(space, address, mm.settled(entry, bit, paging))


class EntryLookup:
    """Give whoever looks an entry up the place of a copy without poison.

    ``scratch`` are linear addresses of quadwords for the copies. A copy is read at once, by a
    caller that holds the lock of the table.
    """

    name = mm.FOLLOW_ENTRY

    def __init__(self, scratch: range) -> None:
        self._scratch = itertools.cycle(scratch)

    def entered(self, registers: RegisterFile, space: AddressSpace) -> Argument | None:
        """Note where the answer will be: (mm or vma, address, pte_t **ptepp, spinlock_t **)."""
        return (registers["rdx"],)

    def returned(self, argument: Argument, registers: RegisterFile, space: AddressSpace) -> None:
        """Replace the place of a poisoned entry by the place of the copy."""
        place = space.word(argument[0])
        entry = None if place is None else space.word(place)
        if registers["rax"] & 0xFFFF_FFFF or entry is None or not entry & PRESENT:
            return
        if entry & space.paging.marks:
            copy = next(self._scratch)
            if space.set_word(copy, entry & ~space.paging.marks):
                space.set_word(argument[0], copy)


class PageLookup:
    """Take the poison out of the page number that is given to whoever looks a page up."""

    name = mm.FOLLOW_PAGE

    def __init__(self, types: Btf | None) -> None:
        self._member = types.member(*mm.PAGE_ARGUMENTS) if types is not None else None

    def entered(self, registers: RegisterFile, space: AddressSpace) -> Argument | None:
        """Note where the answer will be: (struct follow_pfnmap_args *)."""
        return (registers["rdi"],) if self._member else None

    def returned(self, argument: Argument, registers: RegisterFile, space: AddressSpace) -> None:
        """Correct the page number."""
        if registers["rax"] & 0xFFFF_FFFF or not self._member:
            return
        place = argument[0] + self._member.offset
        page = space.word(place)
        if page is not None:
            space.set_word(place, page & ~(space.paging.marks >> 12))


def _tables_of(area: int, space: AddressSpace, types: Btf | None) -> Paging:
    # The page tables that a vm_area_struct is of: mostly, but not always, the current ones.
    current = space.paging
    owner = types.member("vm_area_struct", "vm_mm") if types is not None else None
    root = types.member("mm_struct", "pgd") if types is not None else None
    if owner is None or root is None:
        return current
    memory = space.word(area + owner.offset) or 0
    table = space.word(memory + root.offset) or 0
    leaf = space.leaf(table)
    if leaf is None:
        return current
    return replace(current, cr3=leaf.translate(table))


def _maps_devices(area: int, space: AddressSpace, types: Btf | None) -> bool:
    # Tells whether a vm_area_struct may map device memory; it may where its layout is not known.
    member = types.member("vm_area_struct", "vm_flags") if types is not None else None
    flags = space.word(area + member.offset) if member is not None else None
    return flags is None or bool(flags & mm.DEVICE_AREA)


def _device_entries(
    space: AddressSpace, paging: Paging, start: int, end: int
) -> list[tuple[int, int]]:
    # Physical address and value of each leaf entry in a linear range that has to be
    # watched, those that the CPU takes for not present too.
    found = []
    linear = start
    end = min(end, 1 << 11 + 9 * paging.levels)  # that of programs
    budget = Budget(_MAX_TABLES)
    seen: set[int] = set()
    while linear < end:
        budget.spend()
        last = steps(space.memory, paging, linear)[-1]
        count = 1
        if last.level == 1 and last.entry is not None:
            # All that the range has in this table.
            count = min(-(-(end - linear) // last.size), TABLE_ENTRIES - last.index)
            new = last.entry_address not in seen
            seen.add(last.entry_address)
            data = space.memory.read(last.entry_address, 8 * count) if new else b""
            for number, (entry,) in enumerate(_WORD.iter_unpack(data)):
                if _has_to_be_watched(entry, last.size, space, paging):
                    found.append((last.entry_address + 8 * number, entry))
        elif (
            last.entry is not None
            and (last.leaf or not last.present)
            and _has_to_be_watched(last.entry, last.size, space, paging)
        ):
            found.append((last.entry_address, last.entry))
        linear = (linear & -last.size) + count * last.size
    return found


def _has_to_be_watched(entry: int, size: int, space: AddressSpace, paging: Paging) -> bool:
    physical = mm.address_in(entry, paging)
    if physical is None:
        return False
    first = physical & -size
    return space.regions.is_watched(first, first + size - 1)


def _write_entry(space: AddressSpace, address: int, entry: int) -> None:
    space.memory.write(address, entry.to_bytes(8, "little"))
