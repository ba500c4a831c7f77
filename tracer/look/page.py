"""A walk through the page tables, drawn.

Ref: Intel SDM vol. 3A, 4.5, tables 4-14 to 4-20 (the bits of an entry of each level).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tracer.access.region import place_of
from tracer.access.space import AddressSpace
from tracer.look.sheet import Cell, flow, words
from tracer.x86.paging import LEVEL_NAMES, Leaf, Step, canonical, steps

_FLAGS = ((0, "P"), (1, "W"), (2, "U"), (3, "PWT"), (4, "PCD"), (5, "A"))
_LEAF_FLAGS = ((6, "D"), (8, "G"))
_NX = 63
_PAT = {1: 7, 2: 12, 3: 12}
_PS = 7

NOT_CANONICAL = "not a canonical address: the CPU raises #GP or #SS and walks no table"


@dataclass(frozen=True, slots=True)
class PageView:
    """Hold how a linear address is translated: every level, and what comes out.

    ``leaf`` is what maps it, None where nothing does; ``place`` says what is at ``physical``:
    a region and offset, RAM, or nothing. ``end`` says in words why a walk leads nowhere.
    ``poison`` is the bit number of the poison, ``levels`` the depth of the tables.
    """

    linear: int
    cr3: int
    levels: int
    poison: int
    steps: tuple[Step, ...]
    leaf: Leaf | None
    physical: int | None
    place: str | None
    traced: bool
    end: str | None


def page_of(space: AddressSpace, linear: int) -> PageView:
    """Return how a linear address is translated; nothing but page tables is read."""
    paging = space.paging
    valid = canonical(linear, paging.levels)
    taken = steps(space.memory, paging, linear) if valid else ()
    leaf = space.leaf(linear) if valid else None
    physical = None if leaf is None else leaf.translate(linear)
    place = None
    if physical is not None:
        regions = space.regions
        place = place_of(physical, regions.find(physical), ram=regions.is_ram(physical))
    return PageView(
        linear=linear,
        cr3=paging.cr3,
        levels=paging.levels,
        poison=paging.poison.bit_length() - 1,
        steps=taken,
        leaf=leaf,
        physical=physical,
        place=place,
        traced=physical is not None and space.regions.is_traced(physical),
        end=_end(taken[-1]) if taken else NOT_CANONICAL,
    )


def _end(last: Step) -> str | None:
    if last.entry is None:
        return f"the {LEVEL_NAMES[last.level]} at physical {last.table:#x} is not in RAM"
    if not last.present:
        return "nothing is mapped there: an access is a page fault (#PF)"
    return None


def flags_of(step: Step, poison: int) -> list[str]:
    """Return the names of the bits that are set in an entry; ``poison`` is a bit number.

    Of an entry that is not present no bit but P means anything to the CPU.
    """
    entry = step.entry or 0
    if not entry & 1:
        return ["not present"] if step.entry is not None else []
    bits = [*_FLAGS, *(_LEAF_FLAGS if step.leaf else ())]
    if step.level > 1:
        bits.append((_PS, "PS"))
    if step.leaf:
        bits.append((_PAT[step.level], "PAT"))
    names = [name for bit, name in bits if entry >> bit & 1]
    if entry >> _NX & 1:
        names.append("NX")
    if step.leaf and entry >> poison & 1:
        names.append("poison")
    return names


def page_lines(view: PageView, columns: int = 80, colour: bool = False) -> list[str]:
    """Return the walk as a tree that grows to the right, a level a line."""
    head = f"linear {view.linear:#018x}, by CR3 {view.cr3:#x}, {view.levels} levels"
    lines = flow(words(head), columns, colour)
    names = [f"{LEVEL_NAMES[step.level]}[{step.index}]" for step in view.steps]
    # Addresses and entries stand below each other, however far a name is indented.
    widest = max((2 * number + len(name) for number, name in enumerate(names)), default=0)
    address_width = max((len(f"{step.entry_address:#x}") for step in view.steps), default=0)
    for number, (name, step) in enumerate(zip(names, view.steps, strict=True)):
        indent = "  " * number
        cells = [
            Cell(name.ljust(widest - 2 * number), "symbol"),
            Cell(f"at {step.entry_address:#x}".ljust(address_width + 3), "time"),
        ]
        if step.entry is not None:
            cells.append(Cell(f"{step.entry:#018x}", "value"))
        cells += [
            Cell(flag, "write" if flag in ("poison", "not present") else "")
            for flag in flags_of(step, view.poison)
        ]
        lines += flow(cells, columns, colour, f"{indent}     ", f"{indent}└─ ")
    indent = "  " * len(view.steps)
    if view.leaf is not None and view.physical is not None:
        leaf = view.leaf
        offset = view.linear - leaf.linear
        cells = [
            Cell(f"{_size(leaf.size)} page"),
            Cell(f"{leaf.physical:#x} + {offset:#x}"),
            Cell(f"= {view.physical:#x}", "value"),
            Cell(view.place or "", "place"),
        ]
        lines += flow(cells, columns, colour, f"{indent}   ", f"{indent}└─ ")
        lines += _rights(leaf, columns, colour)
    if view.end is not None:
        lines += flow(words(view.end, "write"), columns, colour, f"{indent}   ", f"{indent}└─ ")
    if view.leaf is not None and view.leaf.poisoned:
        lines += flow(words(_poisoned(view)), columns, colour)
    return lines


def _rights(leaf: Leaf, columns: int, colour: bool) -> list[str]:
    who = "user and kernel" if leaf.user else "kernel only"
    how = "readable and writable" if leaf.writable else "read-only"
    return flow(words(f"All levels together: {who}, {how}."), columns, colour)


def _poisoned(view: PageView) -> str:
    return (
        f"Poisoned by vetrace: bit {view.poison} is reserved, so that every access through this "
        "entry is a page fault (error code bit 3, RSVD). The guest's own address and rights are "
        "unchanged."
    )


def _size(size: int) -> str:
    for shift, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if size >> shift:
            return f"{size >> shift} {unit}"
    raise AssertionError("no page is so small")


def page_object(view: PageView) -> dict[str, Any]:
    """Return the walk as a JSON-ready object."""
    leaf = view.leaf
    return {
        "linear": hex(view.linear),
        "cr3": hex(view.cr3),
        "levels": [
            {
                "name": LEVEL_NAMES[step.level],
                "table": hex(step.table),
                "index": step.index,
                "entry_address": hex(step.entry_address),
                "entry": None if step.entry is None else hex(step.entry),
                "flags": flags_of(step, view.poison),
                "leaf": step.present and step.leaf,
            }
            for step in view.steps
        ],
        "mapped": leaf is not None,
        "page_size": None if leaf is None else leaf.size,
        "writable": None if leaf is None else leaf.writable,
        "user": None if leaf is None else leaf.user,
        "poisoned": None if leaf is None else leaf.poisoned,
        "poison_bit": view.poison,
        "physical": None if view.physical is None else hex(view.physical),
        "place": view.place,
        "traced": view.traced,
        "end": view.end,
    }
