"""A function of a bare guest that makes mappings, as a person describes it.

``install_pte(linear=rdx, entry=rcx)`` names the function, and in which registers its arguments are,
or that it returns them. Ref: Intel SDM vol. 3A, 4.5.4 (table entries).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from tracer.access.mapping import NewMapping
from tracer.bare.place import Place, parse_place
from tracer.errors import UsageError, advice
from tracer.text.number import is_whole, whole
from tracer.x86.paging import LARGE, PRESENT
from tracer.x86.state import GPR, PAGE_SIZE

RETURN = "return"
_LIKE = "install_pte(linear=rdx, entry=rcx) is one"
_WORDS = ("linear", "physical", "size", "entry", "tables")
_SPEC = re.compile(r"\s*(?P<name>[^\s()]+)\s*\((?P<words>[^()]*)\)\s*")
_VALUE = re.compile(r"(?P<what>\w+)(?:<<(?P<shift>\d{1,2}))?")
_HALVES = {f"e{name[1:]}" if name[1].isalpha() else f"{name}d": name for name in GPR}
_ENTRY_ADDRESS = 0x0007_FFFF_FFFF_F000  # without bit 51, which may be poison
_LARGEST = 1 << 30

Registers = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Value:
    """Say where a number is: in a ``register``, what is returned, or it is a ``constant``.

    With ``half`` it is the low half of the register; ``shift`` is how far it is shifted left then.
    """

    register: str = ""
    constant: int = 0
    half: bool = False
    shift: int = 0

    @property
    def returned(self) -> bool:
        """Tell whether the function returns it."""
        return self.register == RETURN

    def of(self, registers: Registers) -> int:
        """Return the number, from the registers at the entry, or of what is returned behind it."""
        if not self.register:
            value = self.constant
        else:
            value = registers["rax" if self.returned else self.register]
        if self.half:
            value &= 0xFFFF_FFFF
        return value << self.shift & 0xFFFF_FFFF_FFFF_FFFF


@dataclass(frozen=True, slots=True)
class Called:
    """Hold what is known of a call where it has been entered: values by what they are."""

    known: Mapping[str, int] = field(default_factory=dict)

    def physical(self) -> range | None:
        """Return the physical addresses that it is about to map, None where they are not known.

        None of them where it maps nothing.
        """
        entry = self.known.get("entry")
        if entry is None:
            start, size = self.known.get("physical"), self.known.get("size")
            return None if start is None or size is None else range(start, start + max(size, 1))
        if not entry & PRESENT:
            return range(0)
        start = entry & _ENTRY_ADDRESS
        if not entry & LARGE:
            return range(start, start + PAGE_SIZE)
        start &= -_LARGEST  # or PAT, in a leaf of 4 KiB
        return range(start, start + _LARGEST)


@dataclass(frozen=True, slots=True)
class MappingFunction:
    """Describe a function that maps, at a ``place``; ``name`` is what it was called.

    ``values`` say where each of these is: ``linear``, ``physical``, ``size`` in bytes, ``entry`` of
    a page table, and ``tables``, the linear address of the topmost one, without which it is the
    current one.
    """

    name: str
    place: Place
    values: Mapping[str, Value]

    def entered(self, registers: Registers) -> Called:
        """Return what is known where it has been entered."""
        here = {word: at for word, at in self.values.items() if not at.returned}
        return Called({word: at.of(registers) for word, at in here.items()})

    def made(self, call: Called, registers: Registers) -> NewMapping | None:
        """Return the mapping where the function has returned, None where it tells no address."""
        there = {word: at for word, at in self.values.items() if at.returned}
        known = {**call.known, **{word: at.of(registers) for word, at in there.items()}}
        if "linear" not in known:
            return None
        entry = known.get("entry", 0) & _ENTRY_ADDRESS
        physical = known.get("physical", entry)
        return NewMapping(known["linear"], physical, known.get("size", 1), known.get("tables"))


def parse_function(text: str) -> MappingFunction:
    """Return the function in a text as above. Raises UsageError."""
    found = _SPEC.fullmatch(text)
    if found is None:
        raise UsageError(f"--mapping {text}: that is no function that maps: {_LIKE}")
    values: dict[str, Value] = {}
    for part in found["words"].split(","):
        word, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or word not in _WORDS:
            raise UsageError(f"--mapping {text}: {_amiss(part.strip(), word)}; {_LIKE}")
        if word in values:
            raise UsageError(f"--mapping {text}: {word} is there twice")
        values[word] = _value(text, value)
    if not {"linear", "physical", "entry"} & set(values):
        raise UsageError(f"--mapping {text}: what it maps is not said: linear, physical or entry")
    if {"physical", "entry"} <= set(values):
        raise UsageError(f"--mapping {text}: the entry has the physical address: drop one of both")
    place = parse_place(found["name"], f"--mapping {text}: that is no function", _LIKE)
    return MappingFunction(found["name"], place, values)


# Say what is wrong with a part between commas.
def _amiss(part: str, word: str) -> str:
    if not part:
        return "a word with its value is missing" + advice(word, _WORDS)
    if word in _WORDS:
        return f"{word} has no value, such as {word}=rdi"
    return f"{word!r} is nothing that a call tells{advice(word, _WORDS)}"


def _value(text: str, typed: str) -> Value:
    if is_whole(typed):
        return Value(constant=whole(typed, bits=64))
    found = _VALUE.fullmatch(typed)
    name = "" if found is None else found["what"]
    shift = 0 if found is None or found["shift"] is None else int(found["shift"])
    if name in _HALVES:
        return Value(_HALVES[name], half=True, shift=shift)
    if name in GPR or name == RETURN:
        return Value(name, shift=shift)
    raise UsageError(
        f"--mapping {text}: {typed!r} is no register, no number and not {RETURN}"
        f"{advice(name or typed, (*GPR, *_HALVES, RETURN))}"
    )
