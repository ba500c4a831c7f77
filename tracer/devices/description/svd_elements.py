"""The elements of a CMSIS-SVD file that tell of registers, as svd2py takes them.

What else is there, such as CPU, interrupts and reset values, is left away, so that nobody is told
of mistakes in it. What is wrong is told with its place, which the library does not know.

Ref: CMSIS-SVD 1.3.10, "SVD File Schema Levels".
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from itertools import product
from xml.etree.ElementTree import Element, SubElement

from tracer.devices.writing import cleaned

_ARRAY = frozenset({"name", "dim", "dimIncrement", "dimIndex", "description"})
_RIGHTS = frozenset({"access", "modifiedWriteValues", "readAction"})
_PARTS: dict[str, frozenset[str]] = {
    "device": frozenset({"name", "version", "size", "access", "peripherals"}),
    "peripherals": frozenset({"peripheral"}),
    "peripheral": _ARRAY | {"prependToName", "appendToName", "size", "access", "registers"},
    "registers": frozenset({"register", "cluster"}),
    "cluster": _ARRAY | {"addressOffset", "size", "access", "register", "cluster"},
    "register": _ARRAY | _RIGHTS | {"addressOffset", "size", "fields"},
    "fields": frozenset({"field"}),
    "field": _ARRAY | _RIGHTS
    | {"bitOffset", "bitWidth", "lsb", "msb", "bitRange", "enumeratedValues"},
    "enumeratedValues": frozenset({"name", "usage", "enumeratedValue"}),
    "enumeratedValue": frozenset({"name", "description", "value"}),
}  # fmt: skip
_NAMED = frozenset({"peripheral", "cluster", "register", "field"})
_SEVERAL = _NAMED | {"enumeratedValues", "enumeratedValue"}
_NUMBERS = frozenset(
    {"size", "dim", "dimIncrement", "addressOffset", "bitOffset", "bitWidth", "lsb", "msb", "value"}
)
_BINARY = re.compile(r"(?:#|0[bB])([01xX]+)")
_SCALED = re.compile(r"\+?(0[xX][0-9a-fA-F]+|[0-9]+)([kmgtKMGT]?)")
_SCALE = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}
_LONGEST = 40  # characters of a number that is not binary; the widest has 64 bits
_MOST_OPEN = 8  # bits of an enumerated value that do not matter, each of which doubles it


class Wrong(Exception):
    """Say what is wrong in a file."""


def prepare(device: Element) -> list[str]:
    """Bring a file's outermost element into the form that the library reads.

    Return in words what is left out. Raises Wrong.
    """
    return list(_prepared(device, ""))


def _prepared(element: Element, place: str) -> Iterator[str]:
    kept = _PARTS[element.tag]
    if element.tag in _NAMED:
        name = cleaned(element.findtext("name"))
        if not name:
            raise Wrong(f"{place}a {element.tag} has no name")
        place = f"{place}{element.tag} {name}: "
    for child in list(element):
        if child.tag not in kept:
            element.remove(child)
    for tag, count in Counter(child.tag for child in element).items():
        if count > 1 and tag not in _SEVERAL:
            raise Wrong(f"{place}it has {count:,} times {tag}")
    if element.tag == "enumeratedValues":
        yield from _opened(element)
    for child in element:
        text = (child.text or "").strip()
        # The library passes over what has no text at all, though it may have elements.
        child.text = text or ("\n" if len(child) else child.text)
        if child.tag in _PARTS:
            yield from _prepared(child, place)
        elif child.tag in _NUMBERS:
            child.text = _number(text, f"{place}{child.tag}")


def _number(text: str, what: str) -> str:
    binary, scaled = _BINARY.fullmatch(text), _SCALED.fullmatch(text)
    if scaled is not None and len(text) <= _LONGEST:
        number = int(scaled[1], 0 if scaled[1][:2].lower() == "0x" else 10)
        return str(number << _SCALE[scaled[2].lower()])
    if binary is not None and "x" not in binary[1].lower():
        return f"#{binary[1]}"
    shown = cleaned(text[:_LONGEST])
    raise Wrong(f"{what} is {f'{shown}, which is no number' if shown else 'empty'}")


# An enumerated value with bits that do not matter stands for several.
def _opened(values: Element) -> Iterator[str]:
    for element in values.findall("enumeratedValue"):
        text = _BINARY.fullmatch((element.findtext("value") or "").strip())
        if text is None or "x" not in text[1].lower():
            continue
        values.remove(element)
        parts = [("0", "1") if char in "xX" else (char,) for char in text[1]]
        if sum(len(part) == 2 for part in parts) > _MOST_OPEN:
            yield f"value {element.findtext('name')} stands for too many numbers"
            continue
        for digits in product(*parts):
            one = SubElement(values, "enumeratedValue")
            one.text = "\n"
            for child in element:
                SubElement(one, child.tag).text = child.text
            number = one.find("value")
            assert number is not None
            number.text = f"#{''.join(digits)}"
