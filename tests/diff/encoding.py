"""Encode every instruction that iced-x86 knows, in several ways each.

The bytes are made from what iced tells of an instruction's encoding, and kept where iced decodes
them as that instruction again.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from types import ModuleType

import iced_x86 as iced

from tracer.x86.state import Mode


def _names(module: type | ModuleType) -> dict[int, str]:
    return {
        value: name
        for name, value in vars(module).items()
        if isinstance(value, int) and name[0] != "_"
    }


CODES = _names(iced.Code)
"""Iced's name of each instruction form, by its number."""

_ENCODING = _names(iced.EncodingKind)
_TABLE = _names(iced.OpCodeTableKind)
_PREFIX = _names(iced.MandatoryPrefix)
_KIND = _names(iced.OpCodeOperandKind)

_MAPS = {
    "NORMAL": 0, "T0F": 1, "T0F38": 2, "T0F3A": 3, "MAP5": 5, "MAP6": 6, "MAP8": 8, "MAP9": 9,
    "MAP10": 10,
}  # fmt: skip
_ESCAPE = (b"", b"\x0f", b"\x0f\x38", b"\x0f\x3a")
_PP = {"NONE": 0, "PNP": 0, "P66": 1, "PF3": 2, "PF2": 3}
_LEGACY = {"P66": b"\x66", "PF3": b"\xf3", "PF2": b"\xf2"}
_IMMEDIATES = {
    "IMM8": 1, "IMM8SEX16": 1, "IMM8SEX32": 1, "IMM8SEX64": 1, "IMM16": 2, "IMM32": 4,
    "IMM32SEX64": 4, "IMM64": 8, "XMM_IS4": 1, "YMM_IS4": 1, "XMM_IS5": 1, "YMM_IS5": 1,
    "BR16_1": 1, "BR32_1": 1, "BR64_1": 1, "BR16_2": 2, "BR32_4": 4, "BR64_4": 4, "FARBR2_2": 4,
    "FARBR4_2": 6, "BRDISP_2": 2, "BRDISP_4": 4, "XBEGIN_2": 2, "XBEGIN_4": 4,
}  # fmt: skip
# Registers of destination, index and mask, all different, as gathers want.
_REG, _INDEX, _VVVV = 3, 2, 5


def encodings(code: int, mode: Mode) -> Iterator[bytes]:
    """Yield encodings of an instruction in a mode, exactly its bytes each, none twice."""
    seen = set()
    for candidate in _candidates(code, mode):
        found = iced.Decoder(mode.value, candidate[:15], ip=0).decode()
        if found.code == code and candidate[: found.len] not in seen:
            seen.add(candidate[: found.len])
            yield candidate[: found.len]


def _candidates(code: int, mode: Mode) -> Iterator[bytes]:
    told = iced.OpCodeInfo(code)
    kinds = [_KIND[kind] for kind in told.op_kinds()]
    number = told.op_code
    opcode = bytes([number]) if number < 256 else number.to_bytes(2, "big")
    table = _MAPS[_TABLE[told.table]]
    tails = list(_tails(told, kinds, mode))
    leads = list(_leads(told, mode))
    match _ENCODING[told.encoding]:
        case "LEGACY":
            for lead, tail in product(leads, tails):
                yield lead + _ESCAPE[table] + opcode + tail
        case "D3NOW":
            for lead, tail in product(leads, tails):
                yield lead + b"\x0f\x0f" + tail + opcode
        case "VEX" | "XOP" as kind:
            first = 0xC4 if kind == "VEX" else 0x8F
            pp = _PP[_PREFIX[told.mandatory_prefix]] | told.l << 2 | told.w << 7
            for lead, vvvv, tail in product((b"", b"\x67", b"\x65"), (0, _VVVV), tails):
                payload = bytes([first, 0xE0 | table, pp | (~vvvv & 15) << 3])
                yield lead + payload + opcode + tail
        case "EVEX":
            pp = _PP[_PREFIX[told.mandatory_prefix]] | 4 | told.w << 7
            last = [told.l << 5 | 8 | how for how in (0x00, 0x01, 0x81, 0x10, 0x11)]
            for lead, vvvv, how, tail in product((b"", b"\x67"), (0, _VVVV), last, tails):
                payload = bytes([0x62, 0xF0 | table, pp | (~vvvv & 15) << 3, how])
                yield lead + payload + opcode + tail


def _leads(told: iced.OpCodeInfo, mode: Mode) -> Iterator[bytes]:
    # Prefixes and REX of a legacy encoding: those it needs, and some that make no difference.
    small = mode is Mode.COMPAT16
    needed = _LEGACY.get(_PREFIX[told.mandatory_prefix], b"")
    if told.operand_size == (32 if small else 16):
        needed = b"\x66" + needed
    if told.address_size not in (0, mode.value):
        needed = b"\x67" + needed
    yield needed
    yield b"\x67" + needed
    yield b"\x65" + needed
    if mode is Mode.LONG:
        yield needed + b"\x48"
        yield needed + b"\x41"
        yield b"\x48" + needed + (b"\x66" if not needed else b"")  # a REX that does not count


def _tails(told: iced.OpCodeInfo, kinds: list[str], mode: Mode) -> Iterator[bytes]:
    # ModRM, SIB and displacement, and immediates behind them.
    size = sum(_IMMEDIATES.get(kind, 0) for kind in kinds)
    if "MEM_OFFS" in kinds:
        size += 8
    immediate = bytes([3] * size)
    fixed = told.op_code > 255
    names = [kind for kind in kinds if kind != "MEM_OFFS"]
    has_modrm = told.group_index >= 0 or any(
        kind.endswith(("_REG", "_RM", "_MEM", "_MEM_MPX")) or kind.startswith(("MEM", "SIBMEM"))
        for kind in names
    )
    if fixed or not has_modrm:
        yield immediate
        return
    digit = told.group_index if told.group_index >= 0 else _REG
    if any("VSIB" in kind or kind in ("SIBMEM", "MEM_MIB") for kind in names):
        for sib in (_INDEX << 3 | 7, 0xC0 | _INDEX << 3 | 7):
            yield bytes([digit << 3 | 4, sib]) + immediate
            yield bytes([0x40 | digit << 3 | 4, sib, 0x10]) + immediate
        return
    if told.rm_group_index >= 0:
        yield bytes([0xC0 | digit << 3 | told.rm_group_index]) + immediate
        return
    yield bytes([0xC0 | digit << 3 | 2]) + immediate
    yield bytes([digit << 3 | 7]) + immediate
    yield bytes([0x40 | digit << 3 | 6, 0x7F]) + immediate
    if mode is not Mode.COMPAT16:
        yield bytes([0x80 | digit << 3 | 4, 0x8D, 1, 2, 3, 4]) + immediate
        yield bytes([digit << 3 | 5, 1, 2, 3, 4]) + immediate
