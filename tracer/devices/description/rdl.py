"""SystemRDL files, and IP-XACT files by way of SystemRDL.

Ref: SystemRDL 2.0 (Accellera, January 2018); IEEE Std 1685 (IP-XACT).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from typing import Any

from systemrdl.compiler import RDLCompiler
from systemrdl.component import Addrmap
from systemrdl.messages import MessagePrinter, RDLCompileError, Severity
from systemrdl.node import (
    AddressableNode,
    AddrmapNode,
    FieldNode,
    MemNode,
    Node,
    RegfileNode,
    RegNode,
)
from systemrdl.rdltypes.builtin_enums import OnReadType, OnWriteType
from systemrdl.source_ref import SourceRefBase

from tracer.devices.tree import Field, Group, Register
from tracer.devices.writing import Described, cleaned, members, settled
from tracer.errors import UsageError
from tracer.text.encoding import not_text

_EXPECTED = re.compile(r" expecting \{.{60,}\}$")  # dozens of words that could stand there
_NO_MODULE = re.compile(r"Can't locate ([\w/]+\.pm) in @INC")  # as with Debian's perl-base alone
_MOST = 1 << 14  # instances of an array of several dimensions, which are told one by one


def described_rdl(path: str, source: str) -> list[Described]:
    """Return what the outermost address map of a SystemRDL file describes.

    Where that holds address maps alone, each is a device. Raises UsageError, naming the file.
    """
    return _compiled(source, lambda compiler, _: compiler.compile_file(path), every=False)


def described_ipxact(path: str, source: str) -> list[Described]:
    """Return the address blocks of all memory maps of an IP-XACT file. Raises UsageError."""
    from tracer.devices.description.ipxact import Importer

    def read(compiler: RDLCompiler, messages: _Collector) -> None:
        importer = Importer(compiler)
        messages.within = importer.within
        importer.import_file(path)

    return _compiled(source, read, every=True)


class _Collector(MessagePrinter):
    # The libraries tell here; ``within`` are the elements that are being read, if any are known.

    def __init__(self) -> None:
        self.told: list[str] = []
        self.within: list[str] = []

    def placed(self, text: str) -> str:
        return ": ".join([*self.within, text])

    def print_message(self, severity: Severity, text: str, src_ref: SourceRefBase | None) -> None:
        if severity < Severity.ERROR:
            return
        line = getattr(src_ref, "line", None)
        text = self.placed(_EXPECTED.sub("", cleaned(text)))
        self.told.append(text if line is None else f"line {line}: {text}")


# The last address map of a SystemRDL file holds the others; those of an IP-XACT file are apart.
def _compiled(
    source: str, read: Callable[[RDLCompiler, _Collector], object], *, every: bool
) -> list[Described]:
    messages = _Collector()
    compiler = RDLCompiler(message_printer=messages)
    try:
        read(compiler, messages)
        tops = [
            name
            for name, component in compiler.root.comp_defs.items()
            if isinstance(component, Addrmap)
        ]
        if not tops:
            raise UsageError(f"{source} describes no address map")
        maps = [compiler.elaborate(name).top for name in (tops if every else tops[-1:])]
        inside = {child.orig_type_name for top in maps for child in top.children()}
        found = [
            each
            for top in maps
            if len(maps) == 1 or top.orig_type_name not in inside
            for each in _devices(top)
        ]
    except RDLCompileError as error:
        why = messages.told[0] if messages.told else cleaned(str(error))
        lacking = _NO_MODULE.search(why)
        if lacking is not None:
            why = f"it has Perl in it, and the Perl here lacks {lacking[1]}: install perl"
        raise UsageError(f"{source}: {why}") from None
    except UnicodeDecodeError as error:
        raise not_text(error, source) from None
    except UsageError:
        raise
    except Exception as error:
        # The libraries tell by these what they cannot read, as does the Perl within a file.
        told = messages.placed(_said(error))
        advice = "give a file that other tools accept"
        raise UsageError(f"{source} cannot be read: {told}; {advice}") from None
    if not found:
        raise UsageError(f"{source} describes no register")
    return found


def _said(error: Exception) -> str:
    if isinstance(error, OverflowError | MemoryError):
        return "a number in it is larger than that of any device"
    return cleaned(str(error)) or type(error).__name__


def _devices(top: AddrmapNode) -> Iterator[Described]:
    inside = list(top.children(unroll=False, skip_not_present=True))
    addressed = [node for node in inside if isinstance(node, AddressableNode)]
    if addressed and all(isinstance(node, AddrmapNode) for node in addressed):
        if sum(node.n_elements for node in addressed) > _MOST:
            raise ValueError(f"{_name(top)} stands for more than {_MOST:,} devices")
        for each in top.children(unroll=True, skip_not_present=True):
            if isinstance(each, AddrmapNode):
                yield from _device(each)
    else:
        yield from _device(top)


def _device(node: AddrmapNode) -> Iterator[Described]:
    left: list[str] = []
    root = _group(node, left)
    if root.registers or root.groups:
        name = node.get_path_segment()
        yield settled(Described(name, _title(node) or name, root, left_out=tuple(left)))


def _group(node: AddressableNode, left: list[str]) -> Group:
    registers: list[Register] = []
    groups: list[Group] = []
    for child in node.children(unroll=False, skip_not_present=True):
        if isinstance(child, RegNode):
            registers += _placed(child, _register(child))
        elif isinstance(child, RegfileNode | AddrmapNode):
            groups += _placed(child, _group(child, left))
        elif isinstance(child, MemNode):
            left.append(f"{child.get_rel_path(node)} is memory, which has no registers")
    return Group("", registers=tuple(registers), groups=tuple(groups))


# An item where a node says that it is: once, as an array, or one by one.
def _placed(node: AddressableNode, item: Any) -> Iterator[Any]:
    name, offset = _name(node), node.raw_address_offset
    group = isinstance(item, Group)
    if not node.is_array:
        yield replace(item, name=name, offset=offset, **({"prefix": f"{name}."} if group else {}))
        return
    sizes, stride = node.array_dimensions or [], node.array_stride or 0
    whole = 1
    for size in sizes:
        whole *= size
    if len(sizes) == 1 or whole > _MOST:
        told = {"name": name, "prefix": f"{name}[{{}}]."} if group else {"name": f"{name}[{{}}]"}
        yield replace(item, offset=offset, stride=stride, count=whole, **told)
        return
    if group and whole * members(item) > _MOST:
        raise ValueError(f"{name} stands for more than {_MOST:,} registers")
    for number, indices in enumerate(product(*map(range, sizes))):
        one = name + "".join(f"[{index}]" for index in indices)
        told = {"prefix": f"{one}."} if group else {}
        yield replace(item, name=one, offset=offset + number * stride, **told)


def _register(node: RegNode) -> Register:
    fields = list(node.fields(skip_not_present=True))
    return Register(
        name="",
        offset=0,
        width=max(-(-node.get_property("regwidth") // 8), 1),
        access=_access(node, fields),
        description=_title(node),
        fields=tuple(map(_field, fields)),
    )


def _access(node: RegNode, fields: list[FieldNode]) -> str:
    reads, writes = node.has_sw_readable, node.has_sw_writable
    if reads and not writes:
        cleared = {field.get_property("onread") for field in fields if field.is_sw_readable}
        return "rc" if cleared == {OnReadType.rclr} else "ro"
    if writes and not reads:
        return "wo"
    effects = {field.get_property("onwrite") for field in fields if field.is_sw_writable}
    if effects == {OnWriteType.woclr}:
        return "rw1c"
    return "rw1s" if effects == {OnWriteType.woset} else "rw"


def _field(node: FieldNode) -> Field:
    encode = node.get_property("encode")
    values = {} if encode is None else {member.value: member.name for member in encode}
    bits = node.high - node.low + 1
    known = {number: name for number, name in values.items() if number >> bits == 0}
    return Field(_name(node), node.high, node.low, _title(node), known)


# The words for people are what it is called, if that says more than its name, and its description.
def _title(node: Node) -> str:
    name, text = node.get_property("name"), node.get_property("desc")
    told = [cleaned(each) for each in (name, text) if each]
    return ": ".join(dict.fromkeys(each for each in told if each and each != node.inst_name))


def _name(node: Node) -> str:
    assert node.inst_name is not None
    return node.inst_name
