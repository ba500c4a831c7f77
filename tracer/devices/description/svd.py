"""CMSIS-SVD files: the peripherals of a microcontroller, each a device.

svd2py reads them and resolves `derivedFrom`. What it leaves to its caller is here: arrays (`dim`),
and what registers inherit of size and access.

Ref: CMSIS-SVD 1.3.10, "SVD File Schema Levels".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any
from xml.etree import ElementTree

from svd2py.derive import DerivedFromError, resolve_derived_from
from svd2py.objects import SvdDevice

from tracer.devices.description.svd_elements import Wrong, prepare
from tracer.devices.tree import Field, Group, Register
from tracer.devices.writing import Described, cleaned, members, settled
from tracer.errors import UsageError

_ACCESS = {
    "read-only": "ro", "write-only": "wo", "read-write": "rw", "writeOnce": "wo",
    "read-writeOnce": "rw",
}  # fmt: skip
_RANGE = re.compile(r"\[?\s*(\d+)\s*:\s*(\d+)\s*\]?")
_MOST = 1 << 16  # elements of an array

Element = Mapping[str, Any]


def described(data: bytes, source: str) -> list[Described]:
    """Return the peripherals of a file. Raises UsageError, naming the file, for what is none."""
    try:
        root = ElementTree.fromstring(data)
        if root.find("peripherals/peripheral") is None:
            raise Wrong("it has no peripheral")
        left = prepare(root)
        parsed = {"device": SvdDevice(root).parse()}
        device = resolve_derived_from(parsed)["device"]
        return list(_peripherals(device, left))
    except DerivedFromError as error:
        raise UsageError(f"{source}: {cleaned(str(error))}") from None
    except Wrong as error:
        raise UsageError(f"{source}: {error}") from None
    except RecursionError:
        raise UsageError(f"{source}: its clusters lie too deep within each other") from None
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        # The library tells by these what it cannot read.
        told = cleaned(str(error)) or type(error).__name__
        raise UsageError(f"{source} is no CMSIS-SVD: {told}") from None


@dataclass(frozen=True, slots=True)
class _Inherited:
    size: int = 32
    access: str = ""

    def by(self, element: Element) -> _Inherited:
        return replace(
            self,
            size=element.get("size", self.size),
            access=element.get("access", self.access),
        )


def _peripherals(device: Element, left: list[str]) -> Iterator[Described]:
    for peripheral in device["peripherals"]["peripheral"]:
        inherited = _Inherited().by(device).by(peripheral)
        members = peripheral.get("registers") or {}
        names = peripheral.get("prependToName", ""), peripheral.get("appendToName", "")
        root = _group(members, inherited, names)
        title = cleaned(peripheral.get("description")) or str(peripheral["name"])
        specification = " ".join(str(device[key]) for key in ("name", "version") if key in device)
        for name, _ in _instances(peripheral):
            if root.registers or root.groups:
                yield settled(Described(name, title, root, cleaned(specification), tuple(left)))


def _group(members: Element, inherited: _Inherited, names: tuple[str, str] = ("", "")) -> Group:
    registers: list[Register] = []
    groups: list[Group] = []
    for register in members.get("register", []):
        registers += _registers(register, inherited, names)
    for cluster in members.get("cluster", []):
        groups += _clusters(cluster, inherited, names)
    return Group("", registers=tuple(registers), groups=tuple(groups))


def _clusters(cluster: Element, inherited: _Inherited, names: tuple[str, str]) -> Iterator[Group]:
    # A prefix of a peripheral's names stands before the outermost cluster alone.
    before, behind = names
    group = _group(cluster, inherited.by(cluster), ("", behind))
    template, stride, count = _array(cluster)
    offset = cluster.get("addressOffset", 0)
    if template is not None:
        bare = before + template.removesuffix("[{}]").replace("{}", "")
        prefix = f"{before}{template}."
        yield replace(group, name=bare, prefix=prefix, offset=offset, stride=stride, count=count)
        return
    instances = list(_instances(cluster))
    if len(instances) * members(group) > _MOST:
        raise Wrong(f"{_name(cluster)} stands for more than {_MOST:,} registers")
    for name, at in instances:
        name = before + name
        yield replace(group, name=name, prefix=f"{name}.", offset=offset + at)


def _registers(
    register: Element, inherited: _Inherited, names: tuple[str, str]
) -> Iterator[Register]:
    inherited = inherited.by(register)
    fields = [field for each in _list(register, "fields", "field") for field in _fields(each)]
    made = Register(
        name="",
        offset=register.get("addressOffset", 0),
        width=max(-(-inherited.size // 8), 1),
        access=_access(register, inherited),
        description=cleaned(register.get("description")),
        fields=tuple(fields),
    )
    before, behind = names
    template, stride, count = _array(register)
    if template is not None:
        yield replace(made, name=before + template + behind, stride=stride, count=count)
        return
    for name, at in _instances(register):
        yield replace(made, name=before + name + behind, offset=made.offset + at)


def _access(register: Element, inherited: _Inherited) -> str:
    fields = _list(register, "fields", "field")
    access = inherited.access
    if not access and fields:
        # Without a word about the register, its fields tell.
        of = {_ACCESS.get(field.get("access", ""), "rw") for field in fields}
        right = of.pop() if len(of) == 1 else "rw"
    else:
        right = _ACCESS.get(access, "rw")
    written = _effect(register, fields, "modifiedWriteValues")
    if right == "rw" and written in ("oneToClear", "oneToSet"):
        return "rw1c" if written == "oneToClear" else "rw1s"
    if right != "wo" and _effect(register, fields, "readAction") == "clear":
        return "rc"
    return right


# A register tells it, or all of its fields alike.
def _effect(register: Element, fields: list[Element], key: str) -> str:
    if key in register:
        return str(register[key])
    of = {str(field.get(key, "")) for field in fields}
    return of.pop() if len(of) == 1 else ""


def _fields(field: Element) -> Iterator[Field]:
    high, low = _bits(field)
    values = _values(field, high - low + 1)
    for name, at in _instances(field):
        yield Field(name, high + at, low + at, cleaned(field.get("description")), values)


def _bits(field: Element) -> tuple[int, int]:
    if "bitRange" in field:
        match = _RANGE.fullmatch(field["bitRange"])
        if match is None:
            raise Wrong(f"field {field.get('name')}: {field['bitRange']} is no range of bits")
        high, low = int(match[1]), int(match[2])
    elif "lsb" in field:
        low, high = field["lsb"], field.get("msb", field["lsb"])
    elif "bitOffset" in field:
        low = field["bitOffset"]
        high = low + field.get("bitWidth", 1) - 1
    else:
        raise Wrong(f"field {field.get('name')} has no bits")
    if not 0 <= low <= high:
        raise Wrong(f"field {field.get('name')}: bits {high}:{low} are none")
    return high, low


# The list of what is read goes before that of what is written, where there are two.
def _values(field: Element, bits: int) -> dict[int, str]:
    given = field.get("enumeratedValues")
    several = given if isinstance(given, list) else [given] if given else []
    several = sorted(several, key=lambda each: each.get("usage") == "write")
    found: dict[int, str] = {}
    for each in several[:1]:
        for item in each.get("enumeratedValue", []):
            number, name = item.get("value"), cleaned(item.get("name") or item.get("description"))
            if number is not None and name and number >> bits == 0:
                found.setdefault(number, name)
    return found


# The template, stride and count of an array whose indices are 0 and on; else no template.
def _array(element: Element) -> tuple[str | None, int, int]:
    dim = element.get("dim")
    if dim is None or dim < 2:
        return None, 0, 1
    if _indices(element) != [str(index) for index in range(dim)]:
        return None, 0, 1
    return _name(element).replace("%s", "{}"), element.get("dimIncrement", 0), dim


# The names that an element stands for, each with how far it is from the first.
def _instances(element: Element) -> Iterator[tuple[str, int]]:
    if element.get("dim") is None:
        yield _name(element), 0
        return
    for number, index in enumerate(_indices(element)):
        yield _name(element).replace("%s", index), number * element.get("dimIncrement", 0)


def _name(element: Element) -> str:
    name = cleaned(element.get("name"))
    if not name:
        raise Wrong("something has no name")
    return name.replace("{", "(").replace("}", ")")


def _indices(element: Element) -> list[str]:
    dim, text = element["dim"], element.get("dimIndex")
    if not 0 < dim <= _MOST:
        raise Wrong(f"{_name(element)} is there {dim:,} times")
    if text is None or "[%s]" in _name(element):
        return [str(index) for index in range(dim)]
    first, dash, last = (part.strip() for part in text.partition("-"))
    if dash and first.isdigit() and last.isdigit():
        numbers = range(int(first), int(last) + 1)
        found = [str(number) for number in numbers[: dim + 1]]
    elif dash and len(first) == len(last) == 1:
        found = [chr(number) for number in range(ord(first), ord(last) + 1)]
    else:
        found = [part.strip() for part in text.split(",")]
    if len(found) != dim:
        raise Wrong(f"{_name(element)} is there {dim} times, and its dimIndex is {text[:40]}")
    return found


def _list(element: Element, container: str, key: str) -> list[Element]:
    found: list[Element] = (element.get(container) or {}).get(key, [])
    return found
