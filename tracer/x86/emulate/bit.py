"""Test, change, scan and count bits.

Ref: Intel SDM vol. 2A, BT, BSF, BSR, ANDN, BEXTR, BLSI, BLSMSK, BLSR, BZHI, CRC32; vol. 2B, LZCNT,
PDEP, PEXT, POPCNT; vol. 2B, TZCNT. The signature is that of `tracer.x86.emulate.arithmetic`.
"""

from __future__ import annotations

from tracer.x86.emulate import flags as flag
from tracer.x86.emulate.arithmetic import Operation
from tracer.x86.emulate.flags import CF, SF, ZF


def _bt(bits: int, flags: int, value: int, offset: int) -> tuple[int, int]:
    return value, flags & ~CF | (value >> offset % bits & 1)


def _bts(bits: int, flags: int, value: int, offset: int) -> tuple[int, int]:
    return value | 1 << offset % bits, _bt(bits, flags, value, offset)[1]


def _btr(bits: int, flags: int, value: int, offset: int) -> tuple[int, int]:
    return value & ~(1 << offset % bits), _bt(bits, flags, value, offset)[1]


def _btc(bits: int, flags: int, value: int, offset: int) -> tuple[int, int]:
    return value ^ 1 << offset % bits, _bt(bits, flags, value, offset)[1]


def _bsf(bits: int, flags: int, target: int, value: int) -> tuple[int, int]:
    # A zero source leaves the destination as it was (AMD APM vol. 3, BSF; undefined in the SDM).
    # Written back, a 32-bit one has its upper half zeroed, as on Intel CPUs and in QEMU; AMD CPUs
    # keep it (both noted in Linux, arch/x86/include/asm/bitops.h, ffs).
    if not value:
        return target, flags | ZF
    return (value & -value).bit_length() - 1, flags & ~ZF


def _bsr(bits: int, flags: int, target: int, value: int) -> tuple[int, int]:
    return (value.bit_length() - 1, flags & ~ZF) if value else (target, flags | ZF)


def _counted(flags: int, zero_source: bool, result: int) -> int:
    flags &= ~(CF | ZF)
    return flags | (CF if zero_source else 0) | (0 if result else ZF)


def _tzcnt(bits: int, flags: int, value: int) -> tuple[int, int]:
    result = (value & -value).bit_length() - 1 if value else bits
    return result, _counted(flags, not value, result)


def _lzcnt(bits: int, flags: int, value: int) -> tuple[int, int]:
    result = bits - value.bit_length()
    return result, _counted(flags, not value, result)


def _popcnt(bits: int, flags: int, value: int) -> tuple[int, int]:
    return value.bit_count(), 0 if value else ZF


def _crc32(bits: int, flags: int, crc: int, value: int) -> tuple[int, int]:
    # Polynomial 11EDC6F41h, bits reflected (CRC-32C).
    crc = (crc & 0xFFFFFFFF) ^ value
    for _ in range(bits):
        crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc, flags


def _andn(bits: int, flags: int, inverted: int, value: int) -> tuple[int, int]:
    result = ~inverted & value
    return result, flag.of_result(bits, result)


def _bextr(bits: int, flags: int, value: int, control: int) -> tuple[int, int]:
    start, length = control & 0xFF, control >> 8 & 0xFF
    result = value >> start & ((1 << length) - 1)
    return result, 0 if result else ZF


def _bzhi(bits: int, flags: int, value: int, control: int) -> tuple[int, int]:
    index = control & 0xFF
    result = value & ((1 << index) - 1) if index < bits else value
    return result, flag.of_result(bits, result) | (CF if index > bits - 1 else 0)


def _blsr(bits: int, flags: int, value: int) -> tuple[int, int]:
    result = value & value - 1
    return result, flag.of_result(bits, result) | (0 if value else CF)


def _blsmsk(bits: int, flags: int, value: int) -> tuple[int, int]:
    result = (value ^ value - 1) & ((1 << bits) - 1)
    return result, flag.of_result(bits, result) & SF | (0 if value else CF)


def _blsi(bits: int, flags: int, value: int) -> tuple[int, int]:
    result = value & -value
    return result, flag.of_result(bits, result) | (CF if value else 0)


def _pdep(bits: int, flags: int, value: int, mask: int) -> tuple[int, int]:
    result = 0
    while mask:
        lowest = mask & -mask
        result |= lowest if value & 1 else 0
        value >>= 1
        mask ^= lowest
    return result, flags


def _pext(bits: int, flags: int, value: int, mask: int) -> tuple[int, int]:
    result = 0
    position = 0
    while mask:
        lowest = mask & -mask
        result |= bool(value & lowest) << position
        position += 1
        mask ^= lowest
    return result, flags


OPERATIONS: dict[str, Operation] = {
    "bt": _bt,
    "bts": _bts,
    "btr": _btr,
    "btc": _btc,
    "bt string": _bt,
    "bts string": _bts,
    "btr string": _btr,
    "btc string": _btc,
    "bsf": _bsf,
    "bsr": _bsr,
    "tzcnt": _tzcnt,
    "lzcnt": _lzcnt,
    "popcnt": _popcnt,
    "crc32": _crc32,
    "andn": _andn,
    "bextr": _bextr,
    "bzhi": _bzhi,
    "blsr": _blsr,
    "blsmsk": _blsmsk,
    "blsi": _blsi,
    "pdep": _pdep,
    "pext": _pext,
}
"""Operations of this module by the table's ``operation``."""
