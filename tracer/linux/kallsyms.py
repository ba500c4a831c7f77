"""The symbol table that a Linux image carries for itself, found by its shape.

A stripped image has no ELF symbols, but its kallsyms: names packed with a table of 256 tokens,
and an address each. Nothing in the image says where these tables lie. What is known is how they
follow each other and what must agree between them, which no other bytes do by accident.

Ref: Linux scripts/kallsyms.c (write_src) and kernel/kallsyms.c (kallsyms_expand_symbol,
kallsyms_sym_address), 5.10 to 7.2. The number of symbols, the names and the markers come in this
order. Addresses come before them up to 6.3, and behind the token index since commit 404bad70fcf7
"scripts/kallsyms: change the output order" (in v6.4). An address is an offset to a base. Up to
commit 01157ddc58dc "kallsyms: Remove KALLSYMS_ABSOLUTE_PERCPU" (in v6.15) positive offsets are
absolute values, negative ones lead upwards from the base. Since commit a081b5789255 (in v7.0)
there is no base, and an offset is relative to its own place.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise

from tracer.access.symbols import KERNEL_HALF, Symbol
from tracer.errors import KernelImageError
from tracer.linux.kaslr import KERNEL_MAP

_TOKENS = 256
_INDEX = struct.Struct(f"<{_TOKENS}H")
_DIGITS = b"".join(b"%d\0" % digit for digit in range(10))
"""Digits are in names, so their tokens stand for themselves."""
_INDEX_REACH = 8192
"""Bytes from the tokens of the digits to the index: the real table is some 1,000 bytes long."""
_MARKED = 256
"""Each 256th name is marked with its offset."""
_FEWEST, _MOST = 1000, 1 << 22
_SHORTEST, _LONGEST = 3, 64
"""Bytes of a packed name on the average."""
_FARTHEST = 32 << 20
"""Bytes between the number of symbols and the token table: twelve times today's."""
_LONGEST_NAME = 1024  # twice KSYM_NAME_LEN of today
_KINDS = frozenset(b"AaBbCcDdGgIiNnRrSsTtUuVvWw?-")
_MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class _Tokens:
    # Offsets in the image, in bytes: the token table's start and its index's end.
    start: int
    end: int
    texts: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class _Names:
    # ``count_at`` is the offset of the number of symbols; each name's bytes are its tokens.
    count_at: int
    packed: tuple[bytes, ...]


def find_symbols(image: bytes, link_of: Callable[[int], int]) -> list[Symbol]:
    """Return the symbols in the kallsyms of an unpacked image, in the order of their addresses.

    ``link_of`` gives the linear link address of an offset in the image in bytes. Raises
    KernelImageError when there are no such tables, as in a kernel without CONFIG_KALLSYMS, or
    when they contradict themselves.
    """
    for tokens in _token_tables(image):
        names = _names(image, tokens)
        if names is None:
            continue
        addresses = _addresses(image, names, tokens, link_of)
        if addresses is not None:
            texts = _expand(names.packed, tokens.texts)
            return [
                Symbol(address, text[0], text[1:])
                for address, text in zip(addresses, texts, strict=True)
            ]
    raise KernelImageError("it has no kallsyms, which a kernel without CONFIG_KALLSYMS lacks")


def _token_tables(image: bytes) -> Iterator[_Tokens]:
    for digits in re.finditer(re.escape(_DIGITS), image):
        at = digits.start()
        for index_at in range((at + 1) & ~1, min(at + _INDEX_REACH, len(image) - _INDEX.size), 2):
            if image[index_at] or image[index_at + 1]:
                continue  # the index begins with 0
            index = _INDEX.unpack_from(image, index_at)
            start = at - index[ord("0")]
            if start < 0 or not all(low < high for low, high in pairwise(index)):
                continue
            texts = image[start:index_at].split(b"\0")[:_TOKENS]
            places = accumulate((len(text) + 1 for text in texts[:-1]), initial=0)
            if len(texts) == _TOKENS and tuple(places) == index:
                yield _Tokens(start, index_at + _INDEX.size, tuple(texts))
                break


def _names(image: bytes, tokens: _Tokens) -> _Names | None:
    # Looks backwards for a number that as many names follow, and the markers that agree with them.
    first = max(0, tokens.start - _FARTHEST) & ~3
    numbers = memoryview(image)[first : tokens.start & ~3].cast("I")
    kinds = bytes(bool(text) and text[0] in _KINDS for text in tokens.texts)
    for number in range(len(numbers) - 1, -1, -1):
        count = numbers[number]
        if not _FEWEST <= count <= _MOST:
            continue
        count_at = first + 4 * number
        if not _SHORTEST * count <= tokens.start - count_at <= _LONGEST * count:
            continue
        for start in (count_at + 4, (count_at + 11) & ~7):
            packed = _walk(image, start, tokens.start, count, kinds)
            if packed is not None:
                return _Names(count_at, packed)
    return None


def _walk(
    image: bytes, start: int, limit: int, count: int, kinds: bytes
) -> tuple[bytes, ...] | None:
    # Returns the names from ``start`` on, or None unless markers follow them that say the same.
    packed: list[bytes] = []
    markers: list[int] = []
    at = start
    while len(packed) < count:
        if len(packed) % _MARKED == 0:
            markers.append(at - start)
        length = image[at]
        if length & 0x80:  # two bytes since 6.1, for long names
            at += 1
            length = length & 0x7F | image[at] << 7
        at += 1
        if not length or at + length > limit or not kinds[image[at]]:
            return None
        packed.append(image[at : at + length])
        at += length
    marked = struct.pack(f"<{len(markers)}I", *markers)
    if any(image.startswith(marked, (at + step - 1) & -step) for step in (4, 8)):
        return tuple(packed)
    return None


def _expand(packed: tuple[bytes, ...], tokens: tuple[bytes, ...]) -> Iterator[str]:
    for name in packed:
        text = b"".join([tokens[token] for token in name])
        if not 1 < len(text) <= _LONGEST_NAME:
            raise KernelImageError("its kallsyms are damaged: a name without end")
        yield text.decode("latin-1")


def _addresses(
    image: bytes, names: _Names, tokens: _Tokens, link_of: Callable[[int], int]
) -> list[int] | None:
    # Symbols are sorted by address, so the reading that gives sorted addresses is the right one.
    count = len(names.packed)
    for start in _places(count, names, tokens):
        if start < 0 or start + 4 * count > len(image):
            continue
        offsets = struct.unpack_from(f"<{count}i", image, start)
        for addresses in _readings(image, start, offsets, link_of):
            if addresses[-1] >= KERNEL_HALF and all(a <= b for a, b in pairwise(addresses)):
                return addresses
    return None


def _places(count: int, names: _Names, tokens: _Tokens) -> Iterator[int]:
    # Offsets may begin behind the token index, or before the base before the count.
    yield (tokens.end + 3) & ~3
    yield (tokens.end + 7) & ~7
    base_at = names.count_at - 8
    yield (base_at - 4 * count) & ~7
    yield base_at - 4 * count


def _readings(
    image: bytes, start: int, offsets: tuple[int, ...], link_of: Callable[[int], int]
) -> Iterator[list[int]]:
    end = start + 4 * len(offsets)
    for base_at in {end, (end + 7) & ~7}:
        if base_at + 8 > len(image):
            continue
        (base,) = struct.unpack_from("<Q", image, base_at)
        if base >= KERNEL_MAP:  # anything else may follow where there is none
            # A positive offset is an absolute value, which per-CPU symbols have.
            yield [offset if offset >= 0 else base - 1 - offset for offset in offsets]
            yield [base + (offset & 0xFFFF_FFFF) for offset in offsets]
    here = link_of(start)
    yield [(here + 4 * n + offset) & _MASK for n, offset in enumerate(offsets)]
