"""Structs as JSON in which numbers are hex text, and back.

A struct holds numbers and bytes; how they are written is said by the types of its members,
:data:`Hex` and :data:`Code`. Each struct has a twin with text in their place, which msgspec reads
and writes. JSON integers would be read exactly here, but other readers lose bits above 2^53.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import (
    Annotated,
    Any,
    Generic,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

import msgspec
import zstandard
from msgspec.structs import FieldInfo, asdict, fields

from tracer.text.printable import encodable

Hex = Annotated[int, "0x and lower-case hex digits, without leading zeros"]
"""A number from 0 on that is written as text: what :func:`hex` gives."""

Code = Annotated[bytes, "pairs of lower-case hex digits, lowest address first"]
"""Bytes that are written as text; none where they are not known."""

Packed = Annotated[bytes, "in base64, a Zstandard frame that tells its size: 2 MiB at most"]
"""Bytes that are compressed where they are written."""

LARGEST_PACK = 1 << 21
"""Bytes that are packed at once, at most."""

Struct = TypeVar("Struct", bound=msgspec.Struct)


class Wire(Generic[Struct]):
    """Read and write structs of some types; of several types, their tags tell which."""

    def __init__(self, *structs: type[Struct]) -> None:
        forms = {struct: _form_of_struct(struct) for struct in structs}
        self._write = {struct: form.write for struct, form in forms.items()}
        self._read = {form.kind: form.read for form in forms.values()}
        self._encode = msgspec.json.Encoder().encode
        twins: Any = Union[tuple(self._read)]  # noqa: UP007  # of a tuple
        self._decode = msgspec.json.Decoder(cast("type[msgspec.Struct]", twins)).decode

    def encode(self, struct: Struct) -> bytes:
        """Return the JSON of a struct."""
        twin = self._write[type(struct)](struct)
        try:
            return self._encode(twin)
        except UnicodeEncodeError:
            return self._encode(encodable(msgspec.to_builtins(twin)))

    def decode(self, data: bytes | str) -> Struct:
        """Return the struct that JSON holds.

        Raise :exc:`msgspec.ValidationError` when it holds another one, naming the member, and
        another :exc:`msgspec.DecodeError` when it is no JSON.
        """
        twin = self._decode(data)
        try:
            return cast(Struct, self._read[type(twin)](twin))
        except _Unreadable as error:
            raise msgspec.ValidationError(f"{error} - at `${error.path}`") from None


class _Unreadable(Exception):
    # A text is not what its type says. The path to it grows on the way up.

    path = ""

    def within(self, place: str) -> _Unreadable:
        self.path = place + self.path
        return self


@dataclass(frozen=True, slots=True)
class _Form:
    # The type of a member as it is written, and how to get from there to a struct's, and back.
    kind: Any
    read: Callable[[Any], Any]
    write: Callable[[Any], Any]


def _same(value: Any) -> Any:
    return value


# Tell how a type is written; what has no text in it is written as it is.
def _form(kind: Any) -> _Form:
    if kind == Hex:
        return _Form(str, _numbers.__getitem__, hex)
    if kind == Code:
        return _Form(str, _codes.__getitem__, bytes.hex)
    if kind == Packed:
        return _Form(bytes, _unpacked, _packed)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return _form_of_struct(kind)
    origin, inner = get_origin(kind), [_form(one) for one in get_args(kind)]
    if all(form.read is _same for form in inner):
        return _Form(kind, _same, _same)
    if origin is list:
        return _form_of_list(inner[0])
    if origin in (dict, Mapping):
        return _form_of_dict(inner[1])
    return _form_of_optional(inner[0])


def _form_of_optional(form: _Form) -> _Form:
    def read(value: Any) -> Any:
        return None if value is None else form.read(value)

    def write(value: Any) -> Any:
        return None if value is None else form.write(value)

    return _Form(form.kind | None, read, write)


def _form_of_list(form: _Form) -> _Form:
    def read(values: list[Any]) -> list[Any]:
        found: list[Any] = []
        try:
            for value in values:
                found.append(form.read(value))
        except _Unreadable as error:
            raise error.within(f"[{len(found)}]") from None
        return found

    def write(values: list[Any]) -> list[Any]:
        return [form.write(value) for value in values]

    return _Form(list[form.kind], read, write)  # type: ignore[name-defined]  # known when it runs


def _form_of_dict(form: _Form) -> _Form:
    convert = form.read

    def read(values: dict[str, Any]) -> dict[str, Any]:
        try:
            return dict(zip(values, map(convert, values.values()), strict=True))
        except _Unreadable as error:
            raise error.within("[...]") from None

    def write(values: dict[str, Any]) -> dict[str, Any]:
        return {name: form.write(value) for name, value in values.items()}

    return _Form(dict[str, form.kind], read, write)  # type: ignore[name-defined]  # as above


@cache
def _form_of_struct(struct: type[msgspec.Struct]) -> _Form:
    types = get_type_hints(struct, include_extras=True)
    forms = {field.name: _form(types[field.name]) for field in fields(struct)}
    config = struct.__struct_config__
    twin = msgspec.defstruct(
        struct.__name__,
        [_twin_field(field, forms[field.name].kind) for field in fields(struct)],
        tag=config.tag, tag_field=config.tag_field, omit_defaults=config.omit_defaults,
        kw_only=True, rename={field.name: field.encode_name for field in fields(struct)},
    )  # fmt: skip
    converted = {name: form for name, form in forms.items() if form.read is not _same}
    readers = [(name, form.read) for name, form in converted.items()]
    writers = [(name, form.write) for name, form in converted.items()]

    def read(written: msgspec.Struct) -> msgspec.Struct:
        values, name = asdict(written), ""
        try:
            for name, convert in readers:
                values[name] = convert(values[name])
        except _Unreadable as error:
            raise error.within(f".{name}") from None
        return struct(**values)

    def write(held: msgspec.Struct) -> msgspec.Struct:
        values = asdict(held)
        for name, convert in writers:
            values[name] = convert(values[name])
        return twin(**values)

    return _Form(twin, read, write)


def _twin_field(field: FieldInfo, kind: Any) -> tuple[str, Any] | tuple[str, Any, Any]:
    if field.required:
        return field.name, kind
    default = field.default
    if field.default_factory is not msgspec.NODEFAULT:
        default = msgspec.field(default_factory=field.default_factory)
    return field.name, kind, default


class _Known(dict[str, Any]):
    # Values by their texts. Few of a trace differ, and to look one up is the fastest way to read.

    def __init__(self, read: Callable[[str], Any]) -> None:
        super().__init__()
        self._read = read

    def __missing__(self, text: str) -> Any:
        value = self._read(text)
        if len(text) <= _LONGEST:
            if len(self) >= _MOST:
                self.clear()
            self[text] = value
        return value


_MOST, _LONGEST = 1 << 14, 40


def _number(text: str) -> int:
    try:
        number = int(text, 16)
    except ValueError:
        number = -1
    if number < 0 or hex(number) != text:
        raise _Unreadable(f"Expected a number such as 0x1f, got {text[:40]!r}")
    return number


def _code(text: str) -> bytes:
    try:
        code = bytes.fromhex(text)
    except ValueError:
        code = b""
    if code.hex() != text:
        raise _Unreadable(f"Expected bytes such as 8b401c, got {text[:40]!r}")
    return code


# The first level: it keeps up with memory, and finds what rows have in common.
_packed = zstandard.ZstdCompressor(level=1).compress
_unpacker = zstandard.ZstdDecompressor()


def _unpacked(data: bytes) -> bytes:
    try:
        size = zstandard.get_frame_parameters(data).content_size
        if size > LARGEST_PACK:
            raise _Unreadable(f"Expected {LARGEST_PACK} bytes at most")
        return _unpacker.decompress(data)
    except zstandard.ZstdError as error:
        raise _Unreadable(f"Expected compressed bytes: {error}") from None


_numbers, _codes = _Known(_number), _Known(_code)
