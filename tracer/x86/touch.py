"""Tell from its row of an opcode map what an instruction does with memory.

Accesses that no ModRM byte names have a function here, by the name that the maps give them.

Ref: Intel SDM vol. 1, 6.2 and 6.4.1 (stack, far transfers), 3.6 (sizes); vol. 2, 2.3.12 (VSIB),
2.7.5 (disp8*N), and each instruction's page; AMD APM vol. 3, CLZERO. What descriptor tables, task
segments and the shadow stack have is not told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from tracer.x86.bus import Direction
from tracer.x86.instruction import Lanes, Memory, Segment, Touch
from tracer.x86.opcode import Row, Slot
from tracer.x86.opcode import rows as rows_of
from tracer.x86.prefix import Head
from tracer.x86.state import RAX, RBP, RCX, RDI, RSP, Mode

VECTOR = 16
"""The shortest vector in bytes: XMM."""


def select(head: Head, modrm: int) -> Row | None:
    """Return the row for an instruction, or None where the maps have none.

    ``modrm`` is the byte behind the opcode, which need not be one.
    """
    for row in rows_of(head.encoding, head.map, head.byte):
        if row.modrm not in (None, modrm) or row.digit not in (None, modrm >> 3 & 7):
            continue
        if row.memory and modrm >= 0xC0:
            continue
        if row.only == ("i64" if head.long else "o64") or row.prefix not in ("", head.mandatory):
            continue
        if row.w in (None, head.w) and (not row.lengths or head.length in row.lengths):
            return row
    return None


def permitted(row: Row, head: Head) -> bool:
    """Tell whether what VEX, XOP or EVEX say beside the opcode is what the instruction takes."""
    gathers = any(slot.index for slot in row.slots)
    if head.vvvv & (15 if gathers else 31) and not row.vvvv:
        return False
    return head.encoding != "evex" or _evex_permitted(row, head)


def _evex_permitted(row: Row, head: Head) -> bool:
    repeats = any(slot.element and not slot.some for slot in row.slots)
    return (
        (not head.broadcast or repeats)
        and (not head.mask or row.mask != "")
        and (not head.zeroing or (row.mask == "z" and head.mask > 0))
        and (head.mask > 0 or row.mask != "K")
        and head.length < 3
    )


@dataclass(frozen=True, slots=True)
class Sizes:
    """Hold what widths follow from, in bytes.

    ``operand`` is the operand size, ``stack`` that of PUSH and POP, ``near`` that of near calls
    and jumps, or None; ``vector`` is the length of the vectors, ``wide`` is W, ``rex_w`` the same
    where it is an operand size. ``mask`` has ones for the bits of an address.
    """

    operand: int
    stack: int
    near: int | None
    vector: int
    wide: bool
    rex_w: bool
    mask: int
    mode: Mode


def width_of(code: str, sizes: Sizes) -> int | None:
    """Return the width in bytes that a code of the maps stands for, None where it is not told."""
    if code in _FIXED:
        return _FIXED[code]
    return _VARYING[code](sizes) if code in _VARYING else int(code)


_FIXED: dict[str, int | None] = {
    "_": None,
    "b": 1,
    "w": 2,
    "d": 4,
    "q": 8,
    "t": 10,
    "dq": 16,
    "qq": 32,
    "o": 64,
}

_VARYING: dict[str, Callable[[Sizes], int | None]] = {
    "v": lambda sizes: sizes.operand,
    "y": lambda sizes: 8 if sizes.rex_w else 4,
    "s": lambda sizes: sizes.stack,
    "n": lambda sizes: sizes.near,
    "p": lambda sizes: sizes.operand + 2,
    "j": lambda sizes: 10 if sizes.mode is Mode.LONG else 6,
    "l": lambda sizes: 8 if sizes.mode is Mode.LONG else 4,
    "vv": lambda sizes: 2 * sizes.operand,
    "k": lambda sizes: 8 if sizes.wide else 4,
    "i": lambda sizes: 2 if sizes.wide else 1,
    "x": lambda sizes: sizes.vector,
    "h": lambda sizes: sizes.vector // 2,
    "f": lambda sizes: sizes.vector // 4,
    "e": lambda sizes: sizes.vector // 8,
    "m": lambda sizes: 8 if sizes.vector == VECTOR else sizes.vector,
    "env": lambda sizes: 14 if sizes.operand == 2 else 28,
    "fpu": lambda sizes: 94 if sizes.operand == 2 else 108,
}


def operand_width(slot: Slot, sizes: Sizes, broadcast: bool) -> int | None:
    """Return the width in bytes of a memory operand; ``broadcast`` is EVEX.b."""
    return width_of(slot.element if broadcast else slot.width, sizes)


def displacement_unit(slot: Slot, sizes: Sizes, broadcast: bool) -> int:
    """Return N of disp8*N: the bytes that a unit of a displacement of one byte stands for."""
    single = slot.some and slot.element
    width = width_of(slot.element, sizes) if single else operand_width(slot, sizes, broadcast)
    return width or 1


def named(
    slot: Slot, memory: Memory, sizes: Sizes, lanes: Lanes | None, *, broadcast: bool, masked: bool
) -> Iterator[Touch]:
    """Yield the accesses to the operand that ModRM names; ``masked`` tells of an EVEX mask."""
    width = operand_width(slot, sizes, broadcast)
    for direction in _DIRECTIONS[slot.direction]:
        yield Touch(direction, width, memory, lanes, slot.some or masked, slot.parts)


_DIRECTIONS: dict[str, tuple[Direction, ...]] = {
    "r": ("read",), "w": ("write",), "u": ("read", "write"), "n": (), "?": ("unknown",),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Context:
    """Hold what accesses beside ModRM follow from.

    ``segment`` is the override or None, ``level`` the nesting level of ENTER; ``register`` and
    ``named`` are the registers of ModRM.reg and ModRM.rm.
    """

    sizes: Sizes
    segment: Segment | None
    level: int
    register: int
    named: int

    def memory(self, width: int, base: int, segment: Segment, displacement: int = 0) -> Memory:
        """Return an operand at a register."""
        mask = self.sizes.mask
        return Memory(width, segment, base, None, 1, displacement, False, mask)

    def stack(self, width: int, offset: int, base: int = RSP) -> Memory | None:
        """Return an operand at the stack pointer; None in 16-bit code, which does not tell SS.B."""
        if self.sizes.mode is Mode.COMPAT16:
            return None
        mask = (1 << self.sizes.mode.value) - 1
        return Memory(width, "ss", base, None, 1, offset, False, mask)


def implied(slot: Slot, context: Context) -> Iterator[Touch]:
    """Yield the accesses that a name of the maps stands for."""
    return _IMPLIED[slot.name](context)


def _pushes(context: Context, width: int, count: int = 1) -> Iterator[Touch]:
    for number in range(1, count + 1):
        yield Touch("write", width, context.stack(width, -width * number))


def _pops(context: Context, width: int, count: int = 1) -> Iterator[Touch]:
    for number in range(count):
        yield Touch("read", width, context.stack(width, width * number))


def _call(context: Context) -> Iterator[Touch]:
    width = context.sizes.near
    return _pushes(context, width) if width else iter((Touch("write", None),))


def _ret(context: Context) -> Iterator[Touch]:
    width = context.sizes.near
    return _pops(context, width) if width else iter((Touch("read", None),))


def _far(touches: Iterator[Touch]) -> Iterator[Touch]:
    # Through a gate, or to another privilege level, it is another stack, or there is more of it.
    return (replace(touch, memory=None) for touch in touches)


def _iret(context: Context) -> Iterator[Touch]:
    if context.sizes.mode is Mode.LONG:
        return _pops(context, context.sizes.operand, 5)
    return _far(_pops(context, context.sizes.operand, 3))


def _enter(context: Context) -> Iterator[Touch]:
    # The old frame pointer, those of the enclosing procedures, and this one.
    width, level = context.sizes.stack, context.level % 32
    yield Touch("write", width, context.stack(width, -width))
    for number in range(1, level):
        yield Touch("read", width, context.stack(width, -width * number, RBP))
        yield Touch("write", width, context.stack(width, -width * (number + 1)))
    if level:
        yield Touch("write", width, context.stack(width, -width * (level + 1)))


def _leave(context: Context) -> Iterator[Touch]:
    yield Touch("read", context.sizes.stack, context.stack(context.sizes.stack, 0, RBP))


def _popa(context: Context) -> Iterator[Touch]:
    # All but rSP.
    pops = _pops(context, context.sizes.operand, 8)
    return (touch for number, touch in enumerate(pops) if number != 3)


def _maskmov(context: Context, width: int) -> Iterator[Touch]:
    memory = context.memory(width, RDI, context.segment or "ds")
    yield Touch("write", width, memory, some=True)


def _target(context: Context) -> Iterator[Touch]:
    yield Touch("write", 64, context.memory(64, context.register, "es"))


def _clzero(context: Context) -> Iterator[Touch]:
    # The whole line that rAX is in.
    yield Touch("write", 64)


def _byte(context: Context, register: int) -> Iterator[Touch]:
    yield Touch("read", 1, context.memory(1, register, context.segment or "ds"))


def _rmpupdate(context: Context) -> Iterator[Touch]:
    yield Touch("read", 16, context.memory(16, RCX, "ds"))


def _interrupt(context: Context) -> Iterator[Touch]:
    # The gate, and the frame on a stack that it decides about.
    yield Touch("read", None)
    yield Touch("write", None)


_IMPLIED: dict[str, Callable[[Context], Iterator[Touch]]] = {
    "push": lambda context: _pushes(context, context.sizes.stack),
    "pop": lambda context: _pops(context, context.sizes.stack),
    "pusha": lambda context: _pushes(context, context.sizes.operand, 8),
    "popa": _popa,
    "call": _call,
    "ret": _ret,
    "callf": lambda context: _far(_pushes(context, context.sizes.operand, 2)),
    "retf": lambda context: _far(_pops(context, context.sizes.operand, 2)),
    "iret": _iret,
    "int": _interrupt,
    "enter": _enter,
    "leave": _leave,
    "maskmovq": lambda context: _maskmov(context, 8),
    "maskmovdqu": lambda context: _maskmov(context, 16),
    "target": _target,
    "clzero": _clzero,
    "monitor": lambda context: _byte(context, RAX),
    "umonitor": lambda context: _byte(context, context.named),
    "uiret": lambda context: _pops(context, 8, 3),
    "rmpupdate": _rmpupdate,
    "none": lambda context: iter(()),
    "reads": lambda context: iter((Touch("read", None),)),
    "writes": lambda context: iter((Touch("write", None),)),
    "unknown": lambda context: iter((Touch("unknown", None),)),
}
