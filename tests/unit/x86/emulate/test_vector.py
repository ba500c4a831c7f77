"""Vectors: values from the manuals and standards, registers above what is written, alignment.

Every form is also held against the host CPU in ``tests/diff``.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from cell import AT, RIP, Ran, run, state

from tests.diff.case import cases
from tracer.confidential.handler import PROFILES, Profile, judge
from tracer.errors import GuestException, UnsupportedInstruction
from tracer.x86.bus import Load, Store
from tracer.x86.decode import decode
from tracer.x86.emulate import plan
from tracer.x86.forms import FORMS, Unit
from tracer.x86.forms.stack import STACK
from tracer.x86.state import CpuState, Flag, Mode

CF, ZF, SF, OF = Flag.CF, Flag.ZF, Flag.SF, Flag.OF
STATUS = CF | ZF | SF | OF | Flag.PF | Flag.AF
UPPER = 0xAAAA_BBBB_CCCC_DDDD_EEEE_FFFF_0123_4567


def vectors(*low: int, high: int = UPPER, **registers: int) -> CpuState:
    """Make a state with XMM0 and its followers set, and ``high`` above each."""
    xmm = (*low, *(0,) * (16 - len(low)))
    return replace(state(**registers), xmm=xmm, ymm=(high,) * 16, cr4=0x406F0)


def text(value: str) -> int:
    return int.from_bytes(value.encode().ljust(16, b"\0"), "little")


def words(value: str) -> int:
    """Read bytes as standards print them: the first one is the lowest."""
    return int.from_bytes(bytes.fromhex(value), "little")


def result(code: str, cpu: CpuState, load: int, register: int = 0) -> int:
    return run(code, cpu, load).cpu.xmm[register]


# -- registers above what is written


def test_legacy_sse_keeps_what_is_above_and_vex_zeroes_it() -> None:
    cpu = vectors(1, 2, 4)
    legacy = run("66 0f fe 03", cpu, 8).cpu  # paddd xmm0, [rbx]
    assert (legacy.xmm[0], legacy.ymm[0]) == (9, UPPER)
    vex = run("c5 f1 fe 03", cpu, 8).cpu  # vpaddd xmm0, xmm1, [rbx]
    assert (vex.xmm[0], vex.ymm[0], vex.ymm[1]) == (10, 0, UPPER)


@pytest.mark.parametrize(
    "code", ["c5 f8 10 03", "c5 fa 10 03", "c5 f9 6e 03", "c5 fa 7e 03", "c5 f0 12 03"]
)
def test_every_vex_load_of_xmm_zeroes_what_is_above(code: str) -> None:
    assert run(code, vectors(1, 2), 5).cpu.ymm[0] == 0


def test_256_bits_are_two_lanes() -> None:
    cpu = vectors(0, words("000102030405060708090a0b0c0d0e0f"), high=7)
    ran = run("c5 f5 fe 03", cpu, 1 << 128 | 1)  # vpaddd ymm0, ymm1, [rbx]
    assert (ran.cpu.xmm[0], ran.cpu.ymm[0]) == (cpu.xmm[1] + 1, 8)
    # Shuffled within a lane: bytes 0 of both to all of it.
    ran = run("c4 e2 75 00 03", cpu, 0)
    assert (ran.cpu.xmm[0], ran.cpu.ymm[0]) == (0, int.from_bytes(b"\7" * 16, "little"))


def test_256_bits_are_loaded_and_stored_whole() -> None:
    value = int.from_bytes(bytes(range(32)), "little")
    loaded = run("c5 fe 6f 03", vectors(), value)  # vmovdqu ymm0, [rbx]
    assert loaded.accesses == [Load(AT, 32)]
    assert loaded.cpu.xmm[0] | loaded.cpu.ymm[0] << 128 == value
    stored = run("c5 fe 7f 03", loaded.cpu)
    assert stored.accesses == [Store(AT, 32, value)]


def test_halves_of_a_ymm_register() -> None:
    cpu = vectors(5, 6, high=9)
    assert run("c4 e3 7d 39 03 01", cpu).stored == 9  # vextracti128 [rbx], ymm0, 1
    assert run("c4 e3 7d 39 03 00", cpu).stored == 5
    inserted = run("c4 e3 75 38 03 01", cpu, 7).cpu  # vinserti128 ymm0, ymm1, [rbx], 1
    assert (inserted.xmm[0], inserted.ymm[0]) == (6, 7)


# -- state that is not known


@pytest.mark.parametrize(
    "code",
    ["c5 f8 10 03", "c5 f1 fe 03", "c5 fe 7f 03", "c4 e2 7d 17 03", "c4 e3 79 62 03 00"],
)
def test_upper_halves_that_are_not_known_are_refused(code: str) -> None:
    cpu = replace(vectors(1), ymm=())
    insn = decode(bytes.fromhex(code), RIP, Mode.LONG)
    with pytest.raises(UnsupportedInstruction):
        plan(insn, cpu)
    assert plan(insn, vectors(1))


@pytest.mark.parametrize(
    ("code", "loads"),
    [
        ("c5 fa 7f 03", 0),  # vmovdqu [rbx], xmm0
        ("c4 e3 79 14 03 00", 0),  # vpextrb [rbx], xmm0, 0
        ("c4 e2 79 17 03", 1),  # vptest xmm0, [rbx]
        ("c4 e3 79 63 03 00", 1),  # vpcmpistri xmm0, [rbx], 0
        ("66 0f ef 03", 1),  # pxor xmm0, [rbx]
    ],
)
def test_what_leaves_upper_halves_alone_does_without(code: str, loads: int) -> None:
    assert run(code, replace(vectors(1), ymm=()), *[0] * loads).cpu.ymm == ()


# -- alignment


def test_legacy_sse_insists_on_alignment_and_vex_does_not() -> None:
    cpu = vectors(rbx=AT + 8)
    for code in ("66 0f ef 03", "0f 54 03", "66 0f 38 dc 03", "0f c6 03 00", "66 0f 38 17 03"):
        with pytest.raises(GuestException) as caught:
            run(code, cpu)
        assert (caught.value.vector, caught.value.error_code) == (13, 0), code
    for code in ("c5 f1 ef 03", "c4 e2 71 dc 03", "66 0f 3a 63 03 00", "f2 0f f0 03"):
        assert run(code, cpu, 0).accesses == [Load(AT + 8, 16)]
    for code in ("66 0f 38 20 03", "66 0f 3a 22 03 01", "66 0f 3a 21 03 00"):
        assert run(code, vectors(rbx=AT + 1), 0).accesses[0].linear == AT + 1


def test_256_bit_aligned_moves_insist_on_32() -> None:
    with pytest.raises(GuestException):
        run("c5 fd 6f 03", vectors(rbx=AT + 16))
    assert run("c5 f9 6f 03", vectors(rbx=AT + 16), 0).accesses == [Load(AT + 16, 16)]


def test_rows_of_legacy_sse_that_do_not_insist() -> None:
    # All others with an operand of 16 bytes do (SDM vol. 2A, tables 2-20 and 2-21).
    spared = {
        form.name
        for form in FORMS
        if form.unit is Unit.SSE and not form.opcode.vex and not form.aligned
        and any(slot in ("Wdq", "Mdq") for slot in form.operands)
    }  # fmt: skip
    moves = {"movups", "movupd", "movdqu", "lddqu"}
    strings = {"pcmpestri", "pcmpestrm", "pcmpistri", "pcmpistrm"}
    assert spared == moves | strings | {name for name in spared if name.startswith("sha")}


def test_no_form_of_the_table_reads_or_changes_mxcsr() -> None:
    # What rounds is left to the CPU: addps, dpps, cvtps2dq, and their kin.
    for code in ("0f 58 03", "66 0f 3a 40 03 00", "66 0f 5b 03", "c5 f0 58 03"):
        assert decode(bytes.fromhex(code), RIP, Mode.LONG).form is None
    cpu = replace(vectors(1 << 127, 3), mxcsr=0x1F80)
    for code in ("66 0f f4 03", "0f 57 03", "66 0f 3a 42 03 00"):
        assert run(code, cpu, 5).cpu.mxcsr == 0x1F80


# -- arithmetic


@pytest.mark.parametrize(
    ("code", "target", "source", "expected"),
    [
        ("66 0f fc 03", 0x01FF, 0x0102, 0x0201),  # paddb wraps
        ("66 0f dc 03", 0x01FF, 0x0102, 0x02FF),  # paddusb saturates
        ("66 0f ec 03", 0x7F80, 0x0181, 0x7F80),  # paddsb, both ways
        ("66 0f d8 03", 0x0110, 0x0220, 0x0000),  # psubusb
        ("66 0f e3 03", 0x0001, 0x0002, 0x0002),  # pavgw rounds up
        ("66 0f e5 03", 0x8000, 0x8000, 0x4000),  # pmulhw
        ("66 0f e4 03", 0xFFFF, 0xFFFF, 0xFFFE),  # pmulhuw
        ("66 0f 38 0b 03", 0x8000, 0x8000, 0x8000),  # pmulhrsw: the one that overflows
        ("66 0f f5 03", 0x8000_8000, 0x8000_8000, 0x8000_0000),  # pmaddwd: likewise
        ("66 0f 38 04 03", 0xFFFF, 0x7F7F, 0x7FFF),  # pmaddubsw: unsigned by signed
        ("66 0f f6 03", 0x00FF, 0xFF00, 0x01FE),  # psadbw
        ("66 0f 38 09 03", 0x8000_0005, 0xFFFF_0000, 0x8000_0000),  # psignw of -32768
        ("66 0f 38 1d 03", 0, 0x8000_FFFF, 0x8000_0001),  # pabsw of -32768
        ("66 0f 64 03", 0x7F00, 0x80FF, 0xFFFF),  # pcmpgtb is signed
        ("66 0f f1 03", 0xFFFF, 16, 0),  # psllw by the width
        ("66 0f e1 03", 0x8000, 1 << 63, 0xFFFF),  # psraw by far more
        ("66 0f d3 03", 1 << 63, 1 << 64, 1 << 63),  # psrlq: only the low quadword counts
        ("66 0f 38 41 03", 0, words("05000300 03000900 04000400 04000400"), 0x1_0003),
        ("66 0f 67 03", 0xFFFF_0100, 0, 0x00FF),  # packuswb of -1 and 256
    ],
)
def test_packed_integers(code: str, target: int, source: int, expected: int) -> None:
    mask = (1 << 16) - 1 if expected < 1 << 16 else (1 << 32) - 1
    got = result(code, vectors(target), source)
    assert got & mask == expected if code != "66 0f d3 03" else got == expected


def test_mpsadbw_takes_a_block_and_a_window() -> None:
    # Four bytes of the source against eight windows of the target (SDM vol. 2B, figure 4-9).
    target = int.from_bytes(bytes(range(16)), "little")
    source = int.from_bytes(bytes([0] * 12 + [10] * 4), "little")
    got = result("66 0f 3a 42 03 07", vectors(target), source)
    expected = [sum(abs(4 + n + k - 10) for k in range(4)) for n in range(8)]
    assert [got >> 16 * n & 0xFFFF for n in range(8)] == expected


# -- elements


def test_insert_and_extract_take_the_low_bits_of_the_place() -> None:
    ones = (1 << 128) - 1
    assert result("66 0f 3a 20 03 1f", vectors(0), 0x5A) == 0x5A << 120  # pinsrb, place 15
    assert result("66 0f 3a 22 03 07", vectors(ones), 0) == ones >> 32  # pinsrd, place 3
    assert run("66 0f 3a 15 03 0a", vectors(0x1234 << 32)).stored == 0x1234  # pextrw, place 2
    assert run("66 48 0f 3a 16 03 01", vectors(7 << 64)).accesses == [Store(AT, 8, 7)]
    assert run("66 0f 3a 17 03 ff", vectors(9 << 96)).accesses == [Store(AT, 4, 9)]


def test_insertps_from_memory_ignores_the_source_s_place() -> None:
    cpu = vectors(words("11111111 22222222 33333333 44444444"))
    got = result("66 0f 3a 21 03 d9", cpu, 0x55555555)  # source 3, target 1, zero 0 and 3
    assert got == words("00000000 55555555 33333333 00000000")


def test_masked_moves_touch_only_what_the_mask_chooses() -> None:
    mask = words("00000080 ffffff7f 00000000 000000ff")
    cpu = vectors(words("11111111 22222222 33333333 44444444"), mask)
    stored = run("c4 e2 71 8e 03", cpu)  # vpmaskmovd [rbx], xmm1, xmm0
    assert stored.accesses == [Store(AT, 4, 0x11111111), Store(AT + 12, 4, 0x44444444)]
    loaded = run("c4 e2 71 8c 03", cpu, 5, 6)
    assert loaded.accesses == [Load(AT, 4), Load(AT + 12, 4)]
    assert loaded.cpu.xmm[0] == 6 << 96 | 5
    nothing = run("c4 e2 71 8c 03", vectors(1, 0))
    assert (nothing.accesses, nothing.cpu.xmm[0]) == ([], 0)


# -- comparisons


@pytest.mark.parametrize(
    ("register", "memory", "flags"),
    [(0b1100, 0b0011, ZF), (0b1100, 0b1000, CF), (0b1100, 0b1010, 0), (0, 0, ZF | CF)],
)
def test_ptest(register: int, memory: int, flags: int) -> None:
    ran = run("66 0f 38 17 03", replace(vectors(register), rflags=2 | STATUS), memory)
    assert ran.cpu.rflags & STATUS == flags


def test_vtestps_looks_at_signs() -> None:
    ran = run("c4 e2 79 0e 03", vectors(0x7FFF_FFFF), 0xFFFF_FFFF)
    assert ran.cpu.rflags & (ZF | CF) == ZF


def index(control: int, needle: str, hay: str) -> tuple[int, int]:
    ran = run(f"66 0f 3a 63 03 {control:02x}", vectors(text(needle)), text(hay))  # pcmpistri
    return ran.rcx, ran.cpu.rflags & STATUS


def test_string_comparisons() -> None:
    assert index(0x00, "aeiou", "xyz one") == (4, CF | ZF | SF)  # any of
    assert index(0x04, "09AZ", "ab7c") == (2, CF | ZF | SF)  # in ranges
    assert index(0x08, "same", "same") == (0, CF | ZF | SF | OF)  # equal, both ends too
    assert index(0x18, "same", "sane") == (2, CF | ZF | SF)  # the first that differs
    assert index(0x0C, "ne", "sane one") == (2, CF | ZF | SF)  # a substring
    assert index(0x4C, "ne", "sane one") == (6, CF | ZF | SF)  # its last place
    assert index(0x0C, "x" * 16, "y" * 16) == (16, 0)


def test_string_comparison_by_explicit_lengths() -> None:
    cpu = vectors(text("abc"), rax=0xFFFF_FFFF_FFFF_FFFE, rdx=300)  # -2 and far more than 16
    ran = run("66 0f 3a 61 03 0c", cpu, text("xxab"))
    assert (ran.rcx, ran.cpu.rflags & STATUS) == (2, CF | SF)


def test_string_comparison_to_a_mask() -> None:
    cpu = vectors(text("b"), high=UPPER)
    assert result("66 0f 3a 62 03 00", cpu, text("abab")) == 0b1010
    bytes_ = run("66 0f 3a 62 03 40", cpu, text("abab")).cpu
    assert (bytes_.xmm[0], bytes_.ymm[0]) == (0xFF00FF00, UPPER)
    assert run("c4 e3 79 62 03 40", cpu, text("abab")).cpu.ymm[0] == 0


# -- ciphers


def test_a_round_of_aes() -> None:
    # FIPS 197, appendix B: round 1, its start, its key, and what comes out of it.
    start, key = (
        words("193de3bea0f4e22b9ac68d2ae9f84808"),
        words("a0fafe1788542cb123a339392a6c7605"),
    )
    assert result("66 0f 38 dc 03", vectors(start), key) == words(
        "a49c7ff2689f352b6b5bea43026a5049"
    )


def test_the_last_round_of_aes() -> None:
    start, key = (
        words("eb40f21e592e38848ba113e71bc342d2"),
        words("d014f9a8c9ee2589e13f0cc8b6630ca6"),
    )
    assert result("66 0f 38 dd 03", vectors(start), key) == words(
        "3925841d02dc09fbdc118597196a0b32"
    )


def test_decryption_undoes_encryption() -> None:
    state_, key = (
        words("00112233445566778899aabbccddeeff"),
        words("000102030405060708090a0b0c0d0e0f"),
    )
    encrypted = result("66 0f 38 dd 03", vectors(state_), key)
    undone = result("66 0f 38 df 03", vectors(encrypted ^ key), 0)  # aesdeclast
    assert undone == state_
    mixed = result("66 0f 38 dc 03", vectors(state_), 0)
    unmixed = result("66 0f 38 db 03", vectors(), mixed)  # aesimc
    assert result("66 0f 38 df 03", vectors(unmixed), 0) == state_


def test_a_step_of_the_key_schedule_of_aes() -> None:
    # FIPS 197, appendix A.1: of 09cf4f3c, substituted and rotated, with the round's constant.
    source = words("2b7e1516 28aed2a6 abf71588 09cf4f3c")
    assert result("66 0f 3a df 03 01", vectors(), source) >> 96 == words("8b84eb01")


def test_carry_less_multiplication() -> None:
    # x^64 + ... : (x + 1) squared is x^2 + 1 without a carry.
    assert result("66 0f 3a 44 03 00", vectors(3), 3) == 5
    assert result("66 0f 3a 44 03 11", vectors(3 << 64), 1 << 127) == 3 << 63


def test_sha256_of_abc() -> None:
    # FIPS 180-4, and its example: two rounds at a time, the state as SHA256RNDS2 wants it.
    first = [int(2**32 * (n ** (1 / 3) % 1)) for n in (2, 3, 5, 7)]
    assert first == [0x428A2F98, 0x71374491, 0xB5C0FBCF, 0xE9B5DBA5]
    h = [0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A,
         0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19]  # fmt: skip
    a, b, c, d, e, f, g, last = h
    abef = a << 96 | b << 64 | e << 32 | f
    cdgh = c << 96 | d << 64 | g << 32 | last
    message = 0x61626380  # "abc" and the bit that ends it; the second word is 0
    sums = (message + first[0] & 0xFFFFFFFF) | first[1] << 32
    got = result("0f 38 cb 0b", replace(vectors(sums), xmm=(sums, cdgh, *(0,) * 14)), abef, 1)
    # The working variables after t = 1, from the example: A, B, E, F.
    assert got == 0x5A6AD9AD << 96 | 0x5D6AEBCD << 64 | 0x78CE7989 << 32 | 0xFA2A4622


def test_galois_field() -> None:
    # FIPS 197, 4.2: {57} times {83} is {c1}; 0 has no inverse, and is taken for its own.
    assert result("66 0f 38 cf 03", vectors(0x57), 0x83) == 0xC1
    identity = 0x0102040810204080
    assert result("66 0f 3a ce 03 00", vectors(0xA5), identity) & 0xFF == 0xA5
    assert result("66 0f 3a cf 03 00", vectors(0x0053), identity) & 0xFFFF == 0x00CA


# -- MMX


def test_mmx_arithmetic_goes_through_the_x87_registers() -> None:
    cpu = replace(state(), st=(0x7F,) * 8, fpu_status=3 << 11, fpu_tag=0xFFFF)
    ran: Ran = run("0f fc 03", cpu, 0x0101)  # paddb mm0, [rbx]
    assert ran.accesses == [Load(AT, 8)]
    assert ran.cpu.st[0] == 0xFFFF << 64 | 0x0180
    assert (ran.cpu.fpu_status >> 11 & 7, ran.cpu.fpu_tag) == (0, 0)


def test_mmx_unpack_reads_four_bytes() -> None:
    cpu = replace(state(), st=(0x04030201,) * 8, fpu_tag=0)
    ran = run("0f 60 03", cpu, 0x14131211)
    assert ran.accesses == [Load(AT, 4)]
    assert ran.cpu.st[0] & (1 << 64) - 1 == 0x1404_1303_1202_1101


# -- inside a confidential guest


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: profile.name)
def test_no_handler_decodes_vectors_or_the_stack(profile: Profile) -> None:
    forms = [form for form in FORMS if form.unit is not Unit.INTEGER or form in STACK]
    assert len(forms) > 500
    for form in forms:
        insn = decode(next(iter(cases(form, Mode.LONG, 1, 1))).code, 0, Mode.LONG)
        assert judge(profile, insn).outcome == "oops", insn.text
