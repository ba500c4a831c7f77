"""IP-XACT files of any edition: the library knows those up to 2014, and this what 2022 has added.

Ref: IEEE Std 1685-2022 (IP-XACT): ``array``, ``accessPolicies`` and ``fieldAccessPolicies``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from math import prod
from typing import Any
from xml.etree.ElementTree import Element, SubElement

from peakrdl_ipxact import IPXACTImporter
from peakrdl_ipxact.importer import get_local_name
from systemrdl.compiler import RDLCompiler
from systemrdl.component import Addrmap, Field, Mem, Reg, Regfile
from systemrdl.rdltypes.builtin_enums import AccessType

from tracer.devices.writing import cleaned

_POLICIES = ("accessPolicies", "fieldAccessPolicies")
_REFERENCE = "DefinitionRef"
_UNSIGNED = frozenset(
    {"baseAddress", "range", "width", "addressOffset", "size", "bitOffset", "bitWidth"}
)
_LONGEST = 40  # characters of a text that is shown
_MOST_BITS = 1 << 10  # of a register; no array of fields has more members


class Importer(IPXACTImporter):  # type: ignore[misc]  # the library has no types
    """Read the memory maps of an IP-XACT file.

    What the access policy of any mode allows is allowed; what none allows is left out. A register
    without fields has one of its whole width. Raises ValueError for what another file defines;
    ``within`` are then the elements in which it is, from the outermost on, in words.
    """

    def __init__(self, compiler: RDLCompiler) -> None:
        super().__init__(compiler)
        self.within: list[str] = []

    @contextmanager
    def _inside(self, el: Element) -> Iterator[None]:
        name = cleaned(self.get_sanitized_element_name(el) or "without a name")
        self.within.append(f"{get_local_name(el)} {name}")
        yield
        self.within.pop()  # not where it fails, as that is the place

    def flatten_element_values(self, el: Element) -> dict[str, Any]:
        """Return what the parts of an element say, by their names."""
        self._refuse_references(el)
        told: dict[str, Any] = super().flatten_element_values(el)
        policies = [policy for kind in _POLICIES for policy in el.iterfind(f"{self.ns}{kind}/*")]
        if policies:
            told |= self._allowed(policies)
        if sizes := self._sizes(el):
            told["dim"] = sizes
        if get_local_name(el) == "register":
            told["child_els"] = list(self._fields(el, told))
        for kind in sorted(_UNSIGNED & told.keys()):
            if told[kind] < 0:
                raise ValueError(f"{kind} is {told[kind]}, below 0")
        return told

    def parse_integer(self, s: str) -> int:
        """Return what a text says. Raises ValueError, with the text, where that is no number."""
        try:
            number: int = super().parse_integer(s)
        except ValueError:
            shown = cleaned(s)[:_LONGEST]
            raise ValueError(f"{shown} is no number" if shown else "a number is empty") from None
        return number

    def parse_addressBlock(self, addressBlock: Element, name_prefix: str) -> Addrmap | Mem | None:
        """Return an address block; None where it has nothing."""
        with self._inside(addressBlock):
            made: Addrmap | Mem | None = super().parse_addressBlock(addressBlock, name_prefix)
        return made

    def parse_register(self, register: Element) -> Reg | None:
        """Return a register, or an array of them; None where nothing of it can be accessed."""
        with self._inside(register):
            made: Reg | None = self._spaced(super().parse_register(register), register)
        return made

    def parse_registerFile(self, el: Element) -> Regfile | None:
        """Return a group of registers, or an array of them; None where it has no register."""
        with self._inside(el):
            made: Regfile | None = self._spaced(super().parse_registerFile(el), el)
        return made

    def parse_field(self, *args: Any) -> Field | None:
        """Return a field; None where it is reserved, or cannot be accessed."""
        with self._inside(args[1]):
            made: Field | None = super().parse_field(*args)
        return None if made is None or made.properties["sw"] == AccessType.na else made

    def _refuse_references(self, el: Element) -> None:
        for child in el:
            kind = get_local_name(child)
            if kind.endswith(_REFERENCE):
                name = self.get_sanitized_element_name(el) or get_local_name(el)
                raise ValueError(
                    f"{cleaned(name)} is defined elsewhere ({kind} {cleaned(_text(child))}): have"
                    " the file written with its definitions in place"
                )

    # Access is what one or another of the policies allows; all else is what the first one says.
    def _allowed(self, policies: list[Element]) -> dict[str, Any]:
        told: dict[str, Any] = {}
        access = AccessType.na
        for policy in policies:
            self._refuse_references(policy)
            if _text(policy.find(f"{self.ns}access")) == "no-access":
                continue
            said = super().flatten_element_values(policy)
            access += said.pop("access", AccessType.rw)
            del said["child_els"]
            told = said | told
        return told | {"access": access}

    def _sizes(self, el: Element) -> list[int]:
        return [
            self.parse_integer(_text(dim)) for dim in el.iterfind(f"{self.ns}array/{self.ns}dim")
        ]

    def _spaced(self, made: Any, el: Element) -> Any:
        stride = el.find(f"{self.ns}array/{self.ns}stride")
        if made is not None and stride is not None:
            made.array_stride = self.AU_to_bytes(self.parse_integer(_text(stride)))
        return made

    # SystemRDL has no arrays of fields, and no register without a field.
    def _fields(self, register: Element, told: dict[str, Any]) -> Iterator[Element]:
        for field in told["child_els"]:
            yield from self._members(field)
        if not told["child_els"]:
            whole = Element(f"{self.ns}field")
            name = self.get_sanitized_element_name(register)
            values = {"name": name, "bitOffset": 0, "bitWidth": told.get("size", 0)}
            for kind, value in values.items():
                SubElement(whole, f"{self.ns}{kind}").text = str(value)
            yield whole

    def _members(self, field: Element) -> Iterator[Element]:
        sizes = self._sizes(field)
        name, offset, width, stride = (
            field.find(f"{self.ns}{path}")
            for path in ("name", "bitOffset", "bitWidth", f"array/{self.ns}bitStride")
        )
        if not sizes or name is None or offset is None:
            yield field
            return
        if prod(sizes) > _MOST_BITS:
            raise ValueError(f"field {cleaned(_text(name))} stands for more than {_MOST_BITS:,}")
        apart = self.parse_integer(_text(width if stride is None else stride))
        for number in range(prod(sizes)):
            one = deepcopy(field)
            for kind, value in (
                ("name", f"{_text(name)}{number}"),
                ("bitOffset", self.parse_integer(_text(offset)) + number * apart),
            ):
                element = one.find(f"{self.ns}{kind}")
                assert element is not None
                element.text = str(value)
            yield one


def _text(element: Element | None) -> str:
    return "" if element is None else "".join(element.itertext()).strip()
