"""Where everything lies in the memory that compiled sites have in the guest: one description.

The memory is one block of guest RAM, seen twice by the guest: as data, writable, and
:data:`DISTANCE` bytes above that as code, so that code reaches data relative to RIP. Offsets are
from its first byte, sizes in bytes. ``source/common.S`` is assembled behind :func:`constants`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from tracer.x86.state import GPR

DISTANCE = 1 << 30
"""How far the block as code is above the block as data: two neighbouring leaves of 1 GiB."""

CONTROL, STOPS, CODE, MODULE, MODULE_DATA, THUNKS, SITES, RING = (
    0, 0x10000, 0x20000, 0x21000, 0x22000, 0x30000, 0x100000, 0x200000,
)  # fmt: skip
"""Offsets of the parts: :class:`Control`, a byte for each place where an access may begin, the
common code, the TDX module's in a confidential guest, and what that has, the thunks, the site
table, the ring."""

PAGE = 4096
"""Size of the control page."""

RAM = MODULE_DATA + 0x200
"""Offset of the ranges of physical memory: address and size of each, see :func:`pack_ram`."""
RAM_COUNT = 32
"""Pieces of RAM that can be told from devices."""

STOP_PLACES = 1 << 16
WIDE = 4
"""Ranges of whole pages at which a stop is wanted that have words of their own: ``WIDE0`` is where
the window has the first, ``EXTENT0`` its size. At ``SETUP`` each write takes a stop."""
MOVED = 8
"""The bit of the word ``SITES`` that guest code sets where a device may have moved: no entry of the
table is found then, so each access takes a stop until it is cleared."""
ALWAYS = 0x2000
"""Offset of a page, and of :data:`LONGEST` more bytes, that want a stop at each place of theirs."""
LONGEST = 32
"""Bytes of the widest access that is compiled."""
SITE_COUNT = 4096
SITE_SIZE = 256
SLOT_SIZE = 256
CODE_SIZE = 16
"""Bytes of code in a record that has any: an instruction has 15 at most."""
HASH = 0x9E3779B1
"""Odd, and well mixed above bit 8: the hash of a RIP is bits 8 to 19 of its product with this."""

SLOTS = 8192
"""Records that a ring has room for unless it is asked otherwise."""

LARGEST_ADDRESS_BITS = 52
_ADDRESS = (1 << LARGEST_ADDRESS_BITS) - 4096

_CONTROL = (
    "HEAD", "LIMIT", "RING", "RING_MASK", "SITES", "SITES_END", "STOPS", "ADDRESS", "WINDOW",
    "REACH", "MARKS", "RESERVED", "SLOW", "FAR", "FAR_SIZE", "FAR_WINDOW", "STACKS", "STATE",
    "DEADLINE", "AFTER",
    "ROOM",
    "WIDE0", "EXTENT0", "WIDE1", "EXTENT1", "WIDE2", "EXTENT2", "WIDE3", "EXTENT3",
    "SETUP", "SETUP_SIZE",
    "DONE", "NESTED", "STACK_END",
)  # fmt: skip
REASONS = (
    "full", "nested", "absent", "traced", "changed", "crossing", "unmapped", "stopped", "tail",
    "refused", "moved",
)  # fmt: skip
"""Why an access went the slow way, in the order of the control page's counters: the ring is full or
shut; an NMI came into the fast way; no thunk; TF is set; the code is another one; it crosses
a page; its page is not what a thunk may touch; a stop is wanted; CR2 is not its first byte; its
thunk refuses; a device may have moved."""
_COUNTERS = 0x180
_OTHER_SIDE = 0x200
_NOTHING = 0x400
_DIARY_WORDS = 0x300
DIARY = 0x4000
"""Offset of the diary: what threads of the kernel tell of their errands."""
DIARY_SLOTS = 1024
DIARY_ENTRY = struct.Struct("<QQIHH8x")
"""An entry: the time-stamp counter, the function, the thread, what of it, and its sort."""
DIARY_FIELDS = {"COUNTER": 0, "FUNCTION": 8, "THREAD": 16, "WHAT": 20}
"""Offsets in it; the sort is behind ``WHAT``."""

_SITE = (
    "RIP", "THUNK", "FIRST", "LAST", "TOP", "TOP_ENTRY", "P4", "E4", "P3", "E3", "P2", "E2", "P1",
    "E1", "PAGE", "STOP", "AT", "CODE", "ORIGIN", "SKIP", "SPAN", "WRITES", "BEHIND",
    "BASE", "BEFORE",
)  # fmt: skip
SITE_FIELDS = {name: 8 * index for index, name in enumerate(_SITE)}
"""Offsets in an entry of the site table; each field is a quadword. ``FIRST`` to ``STOP`` are the
last translation, which the guest makes and compares with the live tables. ``BEHIND`` is the thunk
where ``THUNK`` copies the stack or looks at the time first, or goes the slow way. ``BASE`` is
``FIRST`` less ``BEFORE``: a base register that leads to the byte in front of ``FIRST``."""

NOWHERE = 1 << 63
"""A linear address that no CPU accesses: what ``FIRST`` is before there is a translation."""

RECORD_FIELDS = {
    "SEQUENCE": 0, "TSC": 8, "LINEAR": 16, "ALIAS": 24, "SITE": 32, "VCPU": 36, "ERROR": 40,
    "THREAD": 44, "RFLAGS": 48, "NUMBER": 56, "GPR": 64, "READ": 192, "OTHER": 208, "WRITTEN": 224,
}  # fmt: skip
"""Offsets in a record. ``GPR`` are the sixteen registers in their order, ``READ`` and ``WRITTEN``
32 bytes each; a string instruction, a push and a pop have in ``OTHER`` where their RAM is.
``THREAD`` tells the kernel's thread that was current, 0 where nothing does."""

STACK_SIZE = 8192
"""Bytes that a copied stack takes, one for each record of the ring, behind the ring."""
STACK_FIELDS = {"FIRST": 0, "SIZE": 8, "NEXT": 16, "STATE": 24, "DATA": 32}
"""Offsets in a copied stack. ``DATA`` are ``SIZE`` bytes: ``FIRST`` from the record's RSP on, the
rest from the linear address ``NEXT`` on. ``STATE`` is the kernel's word that was asked for."""

RECORD = struct.Struct("<4QIHHIIQQ16Q32s32s")
assert RECORD.size == SLOT_SIZE


def ring_size(slots: int) -> int:
    """Return the bytes of a ring; raise ValueError unless ``slots`` is a power of two."""
    if slots < 2 or slots & slots - 1:
        raise ValueError(f"a ring of {slots} records: powers of two from 2 on are possible")
    return slots * SLOT_SIZE


def block_size(slots: int, *, stacks: bool = False) -> int:
    """Return how many bytes of guest RAM a ring of ``slots`` records and all before it take.

    They are whole pages, as what lies behind is: a monitor's. With ``stacks`` there is room behind
    the ring for the stack of each record.
    """
    size = RING + ring_size(slots) + (slots * STACK_SIZE if stacks else 0)
    return -(-size // PAGE) * PAGE


def stack_place(slots: int, number: int) -> int:
    """Return the offset of the stack of a record with a number."""
    size = ring_size(slots)
    return RING + size + number % size // SLOT_SIZE * STACK_SIZE


@dataclass(frozen=True, slots=True)
class Control:
    """Hold what the common code has to know of the guest.

    ``block`` is the linear address of the block as data, and ``window`` that of physical address
    0: what lies below ``reach`` is seen at ``window`` plus its physical address, and what lies in
    ``far`` right behind that. ``marks`` are
    the bits that poison a leaf, ``physical_bits`` the CPU's MAXPHYADDR: bits above it are
    reserved. ``slow`` is the linear address of the stub's stop, with every register as it was.
    ``state`` is that of a quadword of the kernel's which is copied with a stack, 0 for none,
    ``stack_end`` the linear address of a page at which a stack ends though memory goes on, and
    ``after`` that of the code behind the look at the time. In a monitor ``done`` is where a thunk
    ends, and ``nested`` the physical address of the root of the nested tables.
    """

    block: int
    window: int
    reach: int
    marks: int
    physical_bits: int
    slots: int
    slow: int
    far: range = range(0)
    state: int = 0
    after: int = 0
    done: int = 0
    nested: int = 0
    stack_end: int = 0

    def pack(self) -> bytes:
        """Return the control page: the ring is empty, and shut until its limit is set."""
        reserved = (1 << LARGEST_ADDRESS_BITS) - (1 << self.physical_bits)
        size = ring_size(self.slots)
        words = {
            "HEAD": size,
            "LIMIT": 0,
            "RING": self.block + RING,
            "RING_MASK": size - 1,
            "SITES": self.block + SITES,
            "SITES_END": self.block + SITES + SITE_COUNT * SITE_SIZE,
            "STOPS": self.block + STOPS,
            "ADDRESS": _ADDRESS & ~self.marks,
            "WINDOW": self.window,
            "REACH": self.reach,
            "MARKS": self.marks,
            "RESERVED": reserved | self.marks,
            "SLOW": self.slow,
            "FAR": self.far.start,
            "FAR_SIZE": len(self.far),
            "FAR_WINDOW": self.window + self.reach,
            "STACKS": self.block + RING + size,
            "STATE": self.state or self.block + _NOTHING,
            "DEADLINE": 0,
            "AFTER": self.after,
            "ROOM": 2 * size,
            **{f"{name}{number}": 0 for number in range(WIDE) for name in ("WIDE", "EXTENT")},
            "SETUP": 0,
            "SETUP_SIZE": 0,
            "DONE": self.done,
            "NESTED": self.nested,
            "STACK_END": self.stack_end,
        }
        page = bytearray(PAGE)
        struct.pack_into(f"<{len(_CONTROL)}Q", page, 0, *(words[name] for name in _CONTROL))
        other = _OTHER_SIDE + SITE_FIELDS["E4"]
        struct.pack_into("<Q", page, other, (1 << 64) - 1)
        return bytes(page)


def pack_ram(ram: Sequence[range]) -> bytes:
    """Return the bytes for :data:`RAM` of physical ranges; the first one is the soonest found.

    Raises ValueError: too many.
    """
    if len(ram) > RAM_COUNT:
        raise ValueError(f"RAM in {len(ram)} pieces: {RAM_COUNT} are possible")
    words = (struct.pack("<2Q", part.start, len(part)) for part in ram)
    return b"".join(words).ljust(16 * RAM_COUNT, b"\0")


def diary_word(name: str) -> int:
    """Return the offset of a word of the diary: ``HEAD``, ``LIMIT``, or the ``LOCK`` on it."""
    return CONTROL + _DIARY_WORDS + 8 * ("HEAD", "LIMIT", "LOCK").index(name)


def control_field(name: str) -> int:
    """Return the offset of a word of the control page."""
    return CONTROL + 8 * _CONTROL.index(name)


def reasons(page: bytes) -> dict[str, int]:
    """Return how often an access went the slow way, by reason, as a control page counts it."""
    counts = struct.unpack_from(f"<{len(REASONS)}Q", page, _COUNTERS)
    return dict(zip(REASONS, counts, strict=True))


def constants(code: int = CODE) -> str:
    """Return the offsets as symbols of the assembler, for source with code at offset ``code``."""
    symbols = {
        "DATA": -code - DISTANCE,
        "SLOT_SIZE": SLOT_SIZE,
        "SITE_SIZE": SITE_SIZE,
        "SITE_MASK": (SITE_COUNT - 1) * SITE_SIZE,
        "HASH": HASH,
        "OTHER_SIDE": _OTHER_SIDE,
        "MOVED": MOVED,
        "RAM": RAM,
        "RAM_COUNT": RAM_COUNT,
        "ALWAYS": ALWAYS,
        "STACK_SHIFT": (STACK_SIZE // SLOT_SIZE).bit_length() - 1,
        "STACK_SIZE": STACK_SIZE,
        **{f"C_{name}": control_field(name) for name in _CONTROL},
        **{f"N_{name.upper()}": _COUNTERS + 8 * at for at, name in enumerate(REASONS)},
        **{f"S_{name}": offset for name, offset in SITE_FIELDS.items()},
        **{f"R_{name}": offset for name, offset in RECORD_FIELDS.items()},
        **{f"G_{name.upper()}": RECORD_FIELDS["GPR"] + 8 * at for at, name in enumerate(GPR)},
        **{f"K_{name}": offset for name, offset in STACK_FIELDS.items()},
    }
    return "".join(f".set {name}, {value}\n" for name, value in symbols.items())


def pieces(width: int) -> list[tuple[int, int]]:
    """Return the offset and width of each access of at most 8 bytes that one of ``width`` is."""
    return [(at, min(width - at, 8)) for at in range(0, width, 8)]
