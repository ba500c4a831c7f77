"""AES, SHA, carry-less multiplication, and arithmetic in GF(2^8).

Ref: Intel SDM vol. 1, 12.13 (AES); vol. 2, AESENC to AESKEYGENASSIST, PCLMULQDQ, SHA1RNDS4 to
SHA256MSG2, GF2P8MULB, GF2P8AFFINEQB; FIPS 197 and FIPS 180-4, which name the transformations. The
signature is that of `tracer.x86.emulate.vector`.
"""

from __future__ import annotations

from tracer.x86.emulate.vector import Vector, by_lane, join, split

_AES_POLYNOMIAL = 0x11B
_WORD = 0xFFFFFFFF


def _multiply(a: int, b: int) -> int:
    # The product of two polynomials over GF(2).
    product = 0
    while b:
        lowest = b & -b
        product ^= a * lowest
        b ^= lowest
    return product


def _field(a: int, b: int) -> int:
    # The product in the field of AES.
    product = _multiply(a, b)
    for bit in range(14, 7, -1):
        if product >> bit & 1:
            product ^= _AES_POLYNOMIAL << bit - 8
    return product


def _inverse(value: int) -> int:
    # The 254th power: the inverse, and 0 of 0.
    result, square = 1, value
    for _ in range(7):
        square = _field(square, square)
        result = _field(result, square)
    return result


def _affine(value: int, matrix: int, constant: int) -> int:
    # Bit n of the result by the matrix' byte 7 - n.
    rows = matrix.to_bytes(8, "big")
    return sum(((row & value).bit_count() & 1) << n for n, row in enumerate(rows)) ^ constant


_SUBSTITUTE = [_affine(_inverse(n), 0xF1E3C78F1F3E7CF8, 0x63) for n in range(256)]
_RESTORE = [_SUBSTITUTE.index(n) for n in range(256)]


def _shift_rows(state: list[int], by: int) -> list[int]:
    # Byte 4c + r of the state is in row r of column c; row r moves by r columns.
    return [state[(n + 4 * by * (n & 3)) & 15] for n in range(16)]


def _mix_columns(state: list[int], factors: tuple[int, ...]) -> list[int]:
    mixed = []
    for n in range(16):
        column = state[n & ~3 : (n & ~3) + 4]
        mixed.append(0)
        for row, byte in enumerate(column):
            mixed[n] ^= _field(byte, factors[(row - n) & 3])
    return mixed


_FORTH, _BACK = (2, 3, 1, 1), (14, 11, 13, 9)


def _aesenclast(bits: int, state: int, key: int) -> int:
    rows = _shift_rows(split(bits, 8, state), 1)
    return join(8, [_SUBSTITUTE[byte] for byte in rows]) ^ key


def _aesenc(bits: int, state: int, key: int) -> int:
    return join(8, _mix_columns(split(bits, 8, _aesenclast(bits, state, 0)), _FORTH)) ^ key


def _aesdeclast(bits: int, state: int, key: int) -> int:
    rows = _shift_rows(split(bits, 8, state), -1)
    return join(8, [_RESTORE[byte] for byte in rows]) ^ key


def _aesdec(bits: int, state: int, key: int) -> int:
    return _aesimc(bits, _aesdeclast(bits, state, 0)) ^ key


def _aesimc(bits: int, state: int) -> int:
    return join(8, _mix_columns(split(bits, 8, state), _BACK))


def _aeskeygenassist(bits: int, source: int, constant: int) -> int:
    _, low, _, high = split(bits, 32, source)
    words = []
    for word in (low, high):
        substituted = join(8, [_SUBSTITUTE[byte] for byte in split(32, 8, word)])
        words += [substituted, _right(substituted, 8) ^ constant]
    return join(32, words)


def _pclmulqdq(bits: int, a: int, b: int, control: int) -> int:
    return _multiply(split(bits, 64, a)[control & 1], split(bits, 64, b)[control >> 4 & 1])


def _gf2p8mulb(bits: int, a: int, b: int) -> int:
    return join(8, map(_field, split(bits, 8, a), split(bits, 8, b)))


def _gf2p8affine(inverted: bool) -> Vector:
    # Each quadword of the second operand is the matrix for the bytes of the first one's.
    def operation(bits: int, source: int, matrices: int, constant: int) -> int:
        matrix = split(bits, 64, matrices)
        values = split(bits, 8, source)
        return join(
            8,
            [
                _affine(_inverse(value) if inverted else value, matrix[n // 8], constant)
                for n, value in enumerate(values)
            ],
        )

    return operation


def _right(word: int, count: int) -> int:
    # Rotates a doubleword.
    return (word >> count | word << 32 - count) & _WORD


def _left(word: int, count: int) -> int:
    return _right(word, 32 - count)


def _choose(b: int, c: int, d: int) -> int:
    return b & c ^ ~b & d


def _majority(b: int, c: int, d: int) -> int:
    return b & c ^ b & d ^ c & d


def _parity(b: int, c: int, d: int) -> int:
    return b ^ c ^ d


_SHA1_ROUNDS = (
    (_choose, 0x5A827999),
    (_parity, 0x6ED9EBA1),
    (_majority, 0x8F1BBCDC),
    (_parity, 0xCA62C1D6),
)


def _sha1rnds4(bits: int, state: int, message: int, control: int) -> int:
    mix, constant = _SHA1_ROUNDS[control & 3]
    d, c, b, a = split(bits, 32, state)
    e = 0  # the first word of the message has it in it
    for word in reversed(split(bits, 32, message)):
        total = mix(b, c, d) + _left(a, 5) + word + e + constant
        a, b, c, d, e = total & _WORD, a, _left(b, 30), c, d
    return join(32, (d, c, b, a))


def _sha1nexte(bits: int, state: int, message: int) -> int:
    *rest, last = split(bits, 32, message)
    return join(32, [*rest, last + _left(state >> 96, 30)])


def _sha1msg1(bits: int, first: int, second: int) -> int:
    w3, w2, w1, w0 = split(bits, 32, first)
    _, _, w5, w4 = split(bits, 32, second)
    return join(32, (w5 ^ w3, w4 ^ w2, w3 ^ w1, w2 ^ w0))


def _sha1msg2(bits: int, first: int, second: int) -> int:
    d, c, b, a = split(bits, 32, first)
    w15, w14, w13, _ = split(bits, 32, second)
    w16 = _left(a ^ w13, 1)
    return join(32, (_left(d ^ w16, 1), _left(c ^ w15, 1), _left(b ^ w14, 1), w16))


def _sums(word: int, *counts: int) -> int:
    result = 0
    for count in counts:
        result ^= _right(word, count)
    return result


def _small(word: int, first: int, second: int, shift: int) -> int:
    return _sums(word, first, second) ^ word >> shift


def _sha256rnds2(bits: int, first: int, second: int, message: int) -> int:
    h, g, d, c = split(bits, 32, first)
    f, e, b, a = split(bits, 32, second)
    for word in split(bits, 32, message)[:2]:
        one = _choose(e, f, g) + _sums(e, 6, 11, 25) + word + h
        two = _majority(a, b, c) + _sums(a, 2, 13, 22)
        a, b, c, d, e, f, g, h = one + two & _WORD, a, b, c, one + d & _WORD, e, f, g
    return join(32, (f, e, b, a))


def _sha256msg1(bits: int, first: int, second: int) -> int:
    words = [*split(bits, 32, first), second & _WORD]
    return join(32, [words[n] + _small(words[n + 1], 7, 18, 3) for n in range(4)])


def _sha256msg2(bits: int, first: int, second: int) -> int:
    words = [second >> 64 & _WORD, second >> 96]
    for n, word in enumerate(split(bits, 32, first)):
        words.append(word + _small(words[n], 17, 19, 10) & _WORD)
    return join(32, words[2:])


OPERATIONS: dict[str, Vector] = {
    "aesenc": by_lane(_aesenc),
    "aesenclast": by_lane(_aesenclast),
    "aesdec": by_lane(_aesdec),
    "aesdeclast": by_lane(_aesdeclast),
    "aesimc": _aesimc,
    "aeskeygenassist": _aeskeygenassist,
    "pclmulqdq": by_lane(_pclmulqdq, immediates=1),
    "gf2p8mulb": _gf2p8mulb,
    "gf2p8affineqb": _gf2p8affine(inverted=False),
    "gf2p8affineinvqb": _gf2p8affine(inverted=True),
    "sha1rnds4": _sha1rnds4,
    "sha1nexte": _sha1nexte,
    "sha1msg1": _sha1msg1,
    "sha1msg2": _sha1msg2,
    "sha256rnds2": _sha256rnds2,
    "sha256msg1": _sha256msg1,
    "sha256msg2": _sha256msg2,
}
"""Operations of this module by the table's ``operation``."""
