"""How the opcode maps are written down, and what a row of them tells.

A line of a map has opcodes, and behind them what the instructions do with memory::

    58-59,5C-5F   NP|66:rx^  F3:rd^  F2:rq^

**Opcodes** are hexadecimal, with ranges. ``/0,2-5`` behind them are values of ModRM.reg, ``=FC``
whole ModRM bytes. A semicolon begins a comment.

**Conditions** stand before a colon, alternatives with a bar between them: the mandatory prefix
(``NP``, ``66``, ``F3``, ``F2``), then ``.W0`` or ``.W1``, then the length of the vectors (``.L0``,
``.L1``, ``.L2`` for 128, 256, 512 bits; ``.L12`` for either). Without conditions any prefix will
do, and 66 is the operand size. ``i64`` or ``o64`` before them: not in 64-bit mode, only there.

**Operands**, with commas between them, are a direction, a width, and marks.

=======  ===================================  =========  ======================================
r w u    read, written, read then written     b w d q    1, 2, 4, 8 bytes; a number is in bytes
n        named, not accessed                  t dq qq o  10, 16, 32, 64
`?_`     by the CPU's model                   v y        operand size; 4 or 8
`_`      width: not by the instruction alone  s n        of the stack; of a near pointer
`@`      a name: see :mod:`tracer.x86.touch`      p          far pointer: operand size and 2 more
`*`      some of the bytes: mask or holes     j          descriptor-table register: 6 or 10
$        all, in accesses of any width        vv         two of operand size
[4] [8]  by indices of 4, 8 bytes             k i        4 or 8, 1 or 2, by W
/4 /k    the width of an element, which       x h f e    vector, its half, fourth, eighth
         EVEX.b repeats                       m          a vector, but 8 of 128 bits
!        behind all: ModRM names no register  l          8 in 64-bit mode, else 4
^        behind all: VEX.vvvv is an operand   env fpu    x87 environment, x87 state
=======  ===================================  =========  ======================================

``+b``, ``+w``, ``+d`` are immediates of 1, 2, 4 bytes, ``+z`` of the operand size but at most 4,
``+n`` an offset of code, ``+p`` a far pointer. EVEX masks: ``{z}`` with zeroing, which is meant
without a word in that map; ``{k}`` without; ``{K}`` always; ``{}`` never.

Ref: Intel SDM vol. 2, 2.7.5 (tuples of EVEX), 3.1.1.1 (opcode column), vol. 2D, appendix A
(opcode maps); AMD APM vol. 3, appendix A; vol. 4, 1.2 (XOP); vol. 5 (3DNow!).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

_SLOT = re.compile(
    r"(?P<direction>[rwun?])(?P<width>\d+|[a-z]+|_)(?P<marks>[*$]*)"
    r"(?:\[(?P<index>[48])\])?(?:/(?P<element>[248ki]))?"
)
_ENTRY = re.compile(
    r"(?:(?P<conditions>[^:@]+):)?(?P<slots>[^!^{+]*)(?P<marks>[!^]*)(?:\{(?P<mask>[zkK]?)\})?"
    r"(?P<immediate>(?:\+[bwdznp])*)"
)
_CONDITION = re.compile(r"(?P<prefix>NP|66|F3|F2)(?:\.W(?P<w>[01]))?(?:\.L(?P<lengths>[012]+))?")

Mask = Literal["", "z", "k", "K"]


@dataclass(frozen=True, slots=True)
class Slot:
    """Describe a memory operand: direction and width by their codes, and the marks.

    A ``name`` stands for operands that ModRM does not name; then nothing else is set. ``index`` is
    the width in bytes of the indices of a gather or scatter, 0 for none; ``element`` the code of
    an element's width, which EVEX.b repeats unless ``some`` are accessed.
    """

    name: str = ""
    direction: str = ""
    width: str = ""
    some: bool = False
    parts: bool = False
    index: int = 0
    element: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """Tell what the instructions of an opcode do with memory.

    ``prefix`` is a mandatory prefix or empty; ``w`` and ``lengths`` are what W and the vector
    length must be, None and empty for anything. ``digit`` is ModRM.reg or None, ``modrm`` the
    whole byte or None. ``vvvv`` tells that VEX.vvvv is an operand, ``memory`` that ModRM names no
    register. ``immediate`` has a code for each immediate.
    """

    prefix: str
    w: bool | None
    lengths: frozenset[int]
    digit: int | None
    modrm: int | None
    only: str
    slots: tuple[Slot, ...]
    vvvv: bool
    memory: bool
    mask: Mask
    immediate: str

    @property
    def has_modrm(self) -> bool:
        """Tell whether a ModRM byte follows the opcode."""
        return self.digit is not None or self.modrm is not None or not self.slots[0].name


def parse(text: str, mask: Mask = "") -> dict[int, tuple[Row, ...]]:
    """Return the rows of a map by opcode; ``mask`` is what an EVEX mask may be by default."""
    found: dict[int, tuple[Row, ...]] = {}
    for line in text.splitlines():
        head, *entries = line.partition(";")[0].split() or [""]
        for byte, digit, modrm in opcodes(head):
            only = ""
            for entry in entries:
                if entry in ("i64", "o64"):
                    only = entry
                    continue
                rows = tuple(_rows(entry, digit, modrm, only, mask))
                found[byte] = (*found.get(byte, ()), *rows)
    return found


def opcodes(head: str) -> Iterator[tuple[int, int | None, int | None]]:
    """Yield each opcode of a line with its ModRM.reg, or its whole ModRM byte, or neither."""
    bytes_, slash, digits = head.partition("/")
    bytes_, equals, modrms = bytes_.partition("=")
    for byte in _numbers(bytes_):
        if slash:
            yield from ((byte, digit, None) for digit in _numbers(digits))
        elif equals:
            yield from ((byte, None, modrm) for modrm in _numbers(modrms))
        else:
            yield byte, None, None


def _numbers(ranges: str) -> Iterator[int]:
    for item in filter(None, ranges.split(",")):
        first, _, last = item.partition("-")
        yield from range(int(first, 16), int(last or first, 16) + 1)


def _rows(entry: str, digit: int | None, modrm: int | None, only: str, mask: Mask) -> Iterator[Row]:
    found = _matched(_ENTRY, entry)
    slots = tuple(_slot(text) for text in (found["slots"] or "").split(","))
    for text in (found["conditions"] or "").split("|"):
        prefix, w, lengths = condition(text)
        yield Row(
            prefix=prefix,
            w=w,
            lengths=lengths,
            digit=digit,
            modrm=modrm,
            only=only,
            slots=slots,
            vvvv="^" in (found["marks"] or ""),
            memory="!" in (found["marks"] or ""),
            mask=mask if found["mask"] is None else found["mask"],  # type: ignore[arg-type]
            immediate=(found["immediate"] or "").replace("+", ""),
        )


def condition(text: str) -> tuple[str, bool | None, frozenset[int]]:
    """Return mandatory prefix, W and vector lengths of a condition; an empty one asks nothing."""
    found = _matched(_CONDITION, text) if text else {}
    w = found.get("w")
    lengths = frozenset(map(int, found.get("lengths") or ""))
    return found.get("prefix") or "", None if w is None else w == "1", lengths


def _slot(text: str) -> Slot:
    if text.startswith("@"):
        return Slot(name=text[1:])
    found = _matched(_SLOT, text)
    return Slot(
        direction=found["direction"] or "",
        width=found["width"] or "",
        some="*" in (found["marks"] or ""),
        parts="$" in (found["marks"] or ""),
        index=int(found["index"] or 0),
        element=found["element"] or "",
    )


def _matched(pattern: re.Pattern[str], text: str) -> dict[str, str | None]:
    found = pattern.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no entry of an opcode map")
    return found.groupdict()
