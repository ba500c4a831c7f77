"""Emulation: registers, flags, order and number of accesses, REP, exceptions.

Numbers in names are those of the list of known pitfalls of x86 emulators. Every form is also held
against the host CPU in ``tests/diff``; what is here is what those tests cannot see, and the facts
that a reader will look for.
"""

from __future__ import annotations

from dataclasses import fields, replace
from random import Random

import pytest
from cell import AT, RIP, Ran, run, state

from tests.diff.case import cases
from tracer.errors import EmulationError, GuestException, UnsupportedInstruction
from tracer.x86 import emulate
from tracer.x86.bus import In, Load, Operand, Out, Store
from tracer.x86.decode import decode
from tracer.x86.emulate import execute, plan
from tracer.x86.forms import FORMS, Form, Unit
from tracer.x86.state import CpuState, Flag, Mode, Segments

CF, PF, AF, ZF, SF, OF, DF = Flag.CF, Flag.PF, Flag.AF, Flag.ZF, Flag.SF, Flag.OF, Flag.DF
ALL = CF | PF | AF | ZF | SF | OF
ONES = 0xFFFF_FFFF_FFFF_FFFF


def flags(ran: Ran) -> int:
    return ran.cpu.rflags & ALL


def raises(code: str, cpu: CpuState, *loads: int) -> GuestException:
    with pytest.raises(GuestException) as caught:
        run(code, cpu, *loads)
    return caught.value


# -- the table and the emulator


def test_every_row_of_the_table_has_semantics() -> None:
    assert {form.operation for form in FORMS} == set(emulate._RUN)


def test_state_fields_that_retire_copies() -> None:
    # `retire` builds states by position: the first three fields are the ones it sets.
    assert [field.name for field in fields(CpuState)][:3] == ["gpr", "rip", "rflags"]


def test_pitfall_32_nothing_is_committed_before_the_end() -> None:
    cpu = state(rax=1)
    emulation = execute(decode(bytes.fromhex("8703"), RIP, Mode.LONG), cpu)  # xchg [rbx], eax
    assert next(emulation) == Load(AT, 4)
    emulation.answer = 5
    assert next(emulation) == Store(AT, 4, 1)
    assert cpu == state(rax=1)


# -- 3.1: decode, as far as execution shows it


def test_pitfall_06_rip_relative_address_is_after_the_immediate() -> None:
    ran = run("c7 05 10 00 00 00 78 56 34 12", state())
    assert ran.accesses == [Store(RIP + 10 + 0x10, 4, 0x12345678)]


def test_pitfall_07_address_is_truncated_before_the_base_is_added() -> None:
    cpu = replace(state(rbx=0xFFFF_FFFF), segments=Segments(gs_base=0xFFFF_8000_0000_0000))
    ran = run("65 67 8b 43 11", cpu, 1)  # mov eax, gs:[ebx + 0x11]
    assert ran.accesses == [Load(0xFFFF_8000_0000_0010, 4)]


def test_pitfall_08_fs_survives_a_null_prefix_and_decides_the_exception() -> None:
    cpu = replace(state(rbp=1 << 47), segments=Segments(fs_base=0))
    assert raises("64 36 8b 45 00", cpu).vector == 13
    assert raises("3e 8b 45 00", cpu).vector == 12


# -- 3.2: results


@pytest.mark.parametrize(
    ("code", "loads", "register", "expected"),
    [
        ("8b 03", [0x80000000], "rax", 0x80000000),
        ("0f b6 03", [0x80], "rax", 0x80),
        ("0f b7 03", [0x8000], "rax", 0x8000),
        ("0f be 03", [0x80], "rax", 0xFFFFFF80),
        ("0f bf 03", [0x8000], "rax", 0xFFFF8000),
        ("63 03", [0x80000000], "rax", 0x80000000),
        ("87 03", [7], "rax", 7),
        ("0f c1 03", [7], "rax", 7),
        ("a1 00 00 01 00 00 00 00 00", [7], "rax", 7),
        ("0f 38 f0 03", [0x01020304], "rax", 0x04030201),
        ("0f bc 03", [0x10], "rax", 4),
        ("ad", [7], "rax", 7),
    ],
)
def test_pitfall_29_32_bit_results_zero_the_upper_half(
    code: str, loads: list[int], register: str, expected: int
) -> None:
    ran = run(code, state(rax=ONES), *loads)
    assert getattr(ran, register) == expected


@pytest.mark.parametrize("source", [1, 0x80000001])
def test_pitfall_29_cmov_zeroes_the_upper_half_when_false_too(source: int) -> None:
    taken = run("0f 44 03", state(rax=ONES, flags=ZF), source)
    assert taken.rax == source
    skipped = run("0f 44 03", state(rax=ONES), source)
    assert skipped.rax == 0xFFFF_FFFF
    assert skipped.accesses == taken.accesses == [Load(AT, 4)]


@pytest.mark.parametrize(
    ("code", "load", "expected"),
    [
        ("8a 03", 0x12, 0xFFFF_FFFF_FFFF_FF12),
        ("8a 23", 0x12, 0xFFFF_FFFF_FFFF_12FF),
        ("66 8b 03", 0x1234, 0xFFFF_FFFF_FFFF_1234),
        ("66 0f b6 03", 0x12, 0xFFFF_FFFF_FFFF_0012),
        ("66 0f be 03", 0x82, 0xFFFF_FFFF_FFFF_FF82),
        ("02 03", 0x01, 0xFFFF_FFFF_FFFF_FF00),
        ("ac", 0x12, 0xFFFF_FFFF_FFFF_FF12),
    ],
)
def test_pitfall_30_narrow_results_keep_the_rest(code: str, load: int, expected: int) -> None:
    assert run(code, state(rax=ONES), load).rax == expected


@pytest.mark.parametrize(
    ("code", "load", "expected"),
    [
        ("48 0f be 03", 0x80, 0xFFFF_FFFF_FFFF_FF80),
        ("48 0f be 03", 0x7F, 0x7F),
        ("48 0f bf 03", 0x8000, 0xFFFF_FFFF_FFFF_8000),
        ("48 0f bf 03", 0x0080, 0x80),
        ("48 63 03", 0x8000_0000, 0xFFFF_FFFF_8000_0000),
        ("48 63 03", 0x0000_8080, 0x8080),
    ],
)
def test_pitfall_31_sign_is_the_source_width_s(code: str, load: int, expected: int) -> None:
    assert run(code, state(), load).rax == expected


def test_pitfall_33_xadd_and_xchg_order_of_writes() -> None:
    added = run("48 0f c1 1b", state(rbx=AT), 5)  # xadd [rbx], rbx
    assert added.accesses == [Load(AT, 8), Store(AT, 8, AT + 5)]
    assert added.rbx == 5
    swapped = run("48 87 1b", state(rbx=AT), 5)
    assert swapped.accesses == [Load(AT, 8), Store(AT, 8, AT)]
    assert swapped.rbx == 5


def test_pitfall_34_failed_cmpxchg_stores_back_and_loads_eax() -> None:
    ran = run("0f b1 0b", state(rax=ONES, rcx=9), 7)
    assert ran.accesses == [Load(AT, 4), Store(AT, 4, 7)]
    assert ran.rax == 7
    assert not flags(ran) & ZF


def test_pitfall_34_successful_cmpxchg_leaves_rax_whole() -> None:
    ran = run("0f b1 0b", state(rax=0xFFFF_FFFF_0000_0007, rcx=9), 7)
    assert ran.accesses == [Load(AT, 4), Store(AT, 4, 9)]
    assert ran.rax == 0xFFFF_FFFF_0000_0007
    assert flags(ran) == ZF | PF


def test_pitfall_34_cmpxchg16b_both_ways() -> None:
    cpu = state(rax=1, rdx=2, rbx=AT, rcx=4)
    hit = run("48 0f c7 0b", cpu, 2 << 64 | 1)
    assert hit.stored == 4 << 64 | AT
    assert flags(hit) == ZF
    miss = run("48 0f c7 0b", cpu, 6 << 64 | 5)
    assert miss.stored == 6 << 64 | 5
    assert (miss.rax, miss.rdx, flags(miss)) == (5, 6, 0)


def test_pitfall_34_cmpxchg8b_failure_zeroes_upper_halves() -> None:
    ran = run("0f c7 0b", state(rax=ONES, rdx=ONES), 6 << 32 | 5)
    assert (ran.rax, ran.rdx, ran.stored) == (5, 6, 6 << 32 | 5)


@pytest.mark.parametrize(
    ("code", "condition_holds"), [("c4 e2 71 e4 03", False), ("c4 e2 71 e5 03", True)]
)
def test_cmpccxadd_stores_in_any_case(code: str, condition_holds: bool) -> None:
    ran = run(code, state(rax=3, rcx=100), 5)  # compares 5 with 3: not equal
    assert ran.accesses == [Load(AT, 4), Store(AT, 4, 105 if condition_holds else 5)]
    assert ran.rax == 5
    assert flags(ran) == 0


def test_cmpccxadd_compares_memory_with_the_register() -> None:
    ran = run("c4 e2 71 e2 03", state(rax=6, rcx=1), 5)  # 5 is below 6
    assert (ran.stored, flags(ran) & CF) == (6, CF)


@pytest.mark.parametrize(
    ("code", "registers", "load", "rax", "rdx"),
    [
        ("f6 23", {"rax": 0x1_00FF}, 0xFF, 0x1_FE01, 0),
        ("f7 23", {"rax": ONES, "rdx": ONES}, 2, 0xFFFF_FFFE, 1),
        ("48 f7 2b", {"rax": ONES}, 2, ONES - 1, ONES),
        ("f6 33", {"rax": 0x1_0107}, 2, 0x1_0183, 0),
        ("f7 3b", {"rax": 0xFFFF_FFF9, "rdx": 0xFFFF_FFFF}, 2, 0xFFFF_FFFD, 0xFFFF_FFFF),
        ("48 f7 33", {"rax": 1, "rdx": 1}, 3, 0x5555_5555_5555_5555, 2),
    ],
)
def test_pitfall_35_multiply_and_divide(
    code: str, registers: dict[str, int], load: int, rax: int, rdx: int
) -> None:
    ran = run(code, state(**registers), load)
    assert (ran.rax, ran.rdx) == (rax, rdx)


@pytest.mark.parametrize(
    ("code", "registers", "load"),
    [
        ("f7 33", {"rax": 1}, 0),
        ("f7 33", {"rdx": 5}, 5),
        ("f6 33", {"rax": 0x500}, 5),
        ("f7 3b", {"rax": 0x8000_0000, "rdx": 0xFFFF_FFFF}, 0xFFFF_FFFF),
        ("48 f7 3b", {"rax": 1 << 63, "rdx": ONES}, ONES),
    ],
)
def test_pitfall_35_divide_error(code: str, registers: dict[str, int], load: int) -> None:
    error = raises(code, state(**registers), load)
    assert (error.vector, error.error_code) == (0, None)


def test_pitfall_36_double_shifts() -> None:
    left = run("0f a4 0b 04", state(rcx=0xA000_0000), 0x1234_5678)
    assert (left.stored, flags(left) & CF) == (0x2345_678A, CF)
    right = run("0f ac 0b 04", state(rcx=0xA), 0x1234_5678)
    assert (right.stored, flags(right) & CF) == (0xA123_4567, CF)


@pytest.mark.parametrize("code", ["0f a4 0b 20", "0f ac 0b 40", "c1 23 20", "d3 2b", "48 c1 03 40"])
@pytest.mark.parametrize("before", [0, ALL])
def test_pitfall_36_count_of_zero_changes_no_flag_but_writes(code: str, before: int) -> None:
    ran = run(code, state(flags=before), 0x1234_5678)
    assert ran.stored == 0x1234_5678
    assert flags(ran) == before


def test_pitfall_36_counts_are_masked_by_the_operand_size() -> None:
    assert run("c1 23 21", state(), 1).stored == 2
    assert run("48 c1 23 21", state(), 1).stored == 1 << 33
    assert run("c0 23 09", state(), 0xFF).stored == 0


def test_pitfall_37_bit_scans_of_zero() -> None:
    assert run("0f bc 0b", state(rcx=77), 0).rcx == 77
    assert flags(run("0f bd 0b", state(rcx=77), 0)) & ZF
    lz = run("f3 0f bd 0b", state(rcx=77), 0)
    assert (lz.rcx, flags(lz) & (CF | ZF)) == (32, CF)
    tz = run("66 f3 0f bc 0b", state(rcx=77), 0)
    assert (tz.rcx, flags(tz) & (CF | ZF)) == (16, CF)
    assert flags(run("f3 0f bc 0b", state(), 1)) & (CF | ZF) == ZF


@pytest.mark.parametrize(
    ("code", "control", "load", "result", "after"),
    [
        ("c4 e2 70 f5 03", 31, 0xFFFF_FFFF, 0x7FFF_FFFF, 0),
        ("c4 e2 70 f5 03", 32, 0xFFFF_FFFF, 0xFFFF_FFFF, CF | SF),
        ("c4 e2 70 f5 03", 0x100, 0xFFFF_FFFF, 0, ZF),
        ("c4 e2 f0 f5 03", 63, ONES, ONES >> 1, 0),
        ("c4 e2 70 f7 03", 0x2000, 0xFFFF_FFFF, 0xFFFF_FFFF, 0),
        ("c4 e2 70 f7 03", 0x0804, 0x1234_5678, 0x67, 0),
        ("c4 e2 70 f7 03", 0xFF20, 0x1234_5678, 0, ZF),
        ("c4 e2 70 f7 03", 0x0004, 0x1234_5678, 0, ZF),
    ],
)
def test_bzhi_and_bextr_at_their_edges(
    code: str, control: int, load: int, result: int, after: int
) -> None:
    ran = run(code, state(rcx=control), load)
    assert ran.rax == result
    undefined = emulate.undefined_flags(decode(bytes.fromhex(code), RIP, Mode.LONG), state())
    assert flags(ran) & ~undefined == after


def test_mulx_into_one_register_keeps_the_high_half() -> None:
    ran = run("c4 e2 fb f6 03", state(rdx=1 << 63), 6)  # mulx rax, rax, [rbx]
    assert ran.rax == 3


def test_rcl_and_rcr_rotate_through_carry() -> None:
    left = run("d2 13", state(rcx=9, flags=CF), 0x81)  # nine positions: back where it was
    assert (left.stored, flags(left) & CF) == (0x81, CF)
    right = run("d0 1b", state(flags=CF), 0x02)
    assert (right.stored, flags(right) & CF) == (0x81, 0)


@pytest.mark.parametrize(
    ("code", "before", "load", "stored", "after"),
    [
        ("83 13 00", CF, 0xFFFF_FFFF, 0, CF | ZF | PF | AF),
        ("83 1b 00", CF, 0, 0xFFFF_FFFF, CF | SF | PF | AF),
        ("ff 03", CF, 0x7FFF_FFFF, 0x8000_0000, CF | SF | OF | PF | AF),
        ("ff 03", 0, 0xFFFF_FFFF, 0, ZF | PF | AF),
        ("ff 0b", CF, 0, 0xFFFF_FFFF, CF | SF | PF | AF),
        ("f7 13", ALL, 0, 0xFFFF_FFFF, ALL),
        ("f7 1b", 0, 1, 0xFFFF_FFFF, CF | SF | PF | AF),
        ("f7 1b", ALL, 0, 0, ZF | PF),
        ("83 0b 01", ALL, 0, 1, 0),
        ("83 0b 00", ALL, 0x8000_0000, 0x8000_0000, SF | PF),
    ],
)
def test_pitfall_38_which_flags_come_and_stay(
    code: str, before: int, load: int, stored: int, after: int
) -> None:
    ran = run(code, state(flags=before), load)
    assert ran.stored == stored
    undefined = emulate.undefined_flags(decode(bytes.fromhex(code), RIP, Mode.LONG), state())
    assert flags(ran) & ~undefined == after & ~undefined


@pytest.mark.parametrize("others", [0, 0x003E_F302])
@pytest.mark.parametrize(
    ("code", "loads"),
    [("01 0b", 1), ("89 0b", 0), ("ff 03", 1), ("0f b1 0b", 1), ("c1 23 03", 1), ("0f ab 0b", 1),
     ("f7 23", 1), ("aa", 0), ("0f c7 0b", 1), ("f3 a6", 2)],
)  # fmt: skip
def test_pitfall_39_other_flags_never_change(code: str, loads: int, others: int) -> None:
    cpu = replace(state(flags=others, rcx=5), cr0=0x8000_0033)
    ran = run(code, cpu, *[5] * loads)
    assert ran.cpu.rflags & ~int(ALL) == others | 2


@pytest.mark.parametrize(
    ("offset", "linear", "bit"),
    [
        (0, AT, 0), (31, AT, 31), (32, AT + 4, 0), (-1 & 0xFFFF_FFFF, AT - 4, 31),
        (-32 & 0xFFFF_FFFF, AT - 4, 0), (-33 & 0xFFFF_FFFF, AT - 8, 31),
        (0x7FFF_FFFF, AT + 0x0FFF_FFFC, 31), (ONES << 32 | 8, AT, 8),
    ],
)  # fmt: skip
def test_pitfall_40_bit_strings_reach_beyond_the_operand(
    offset: int, linear: int, bit: int
) -> None:
    ran = run("0f a3 0b", state(rcx=offset, rbx=AT), 1 << bit)
    assert ran.accesses == [Load(linear & ONES, 4)]
    assert flags(ran) & CF


def test_pitfall_40_wide_bit_offsets_are_not_truncated() -> None:
    ran = run("48 0f ab 0b", state(rcx=1 << 40), 0)
    assert ran.accesses == [Load(AT + (1 << 37), 8), Store(AT + (1 << 37), 8, 1)]
    far = run("66 0f a3 0b", state(rcx=0x8000), 0)  # -0x8000 bits
    assert far.accesses == [Load(AT - 0x1000, 2)]


def test_pitfall_40_immediate_bit_offset_stays_in_the_operand() -> None:
    ran = run("0f ba 2b 21", state(), 0)
    assert ran.accesses == [Load(AT, 4), Store(AT, 4, 2)]


def test_pitfall_41_push_and_pop_widths() -> None:
    pushed = run("66 ff 33", state(), 0x1234)
    assert pushed.accesses == [Load(AT, 2), Store(0x1_FFFE, 2, 0x1234)]
    assert pushed.rsp == 0x1_FFFE
    popped = run("8f 03", state(), 7)
    assert popped.accesses == [Load(0x2_0000, 8), Store(AT, 8, 7)]
    assert popped.rsp == 0x2_0008


def test_pitfall_42_movbe_swaps_then_merges() -> None:
    assert run("66 0f 38 f0 03", state(rax=ONES), 0x1234).rax == 0xFFFF_FFFF_FFFF_3412
    assert run("48 0f 38 f1 03", state(rax=0x0102030405060708)).stored == 0x0807060504030201


def test_pitfall_43_push_finds_its_operand_before_rsp_moves_pop_after() -> None:
    pushed = run("ff 74 24 08", state(), 7)
    assert pushed.accesses == [Load(0x2_0008, 8), Store(0x1_FFF8, 8, 7)]
    popped = run("8f 44 24 08", state(), 7)
    assert popped.accesses == [Load(0x2_0000, 8), Store(0x2_0010, 8, 7)]


def test_call_and_jmp_through_memory() -> None:
    called = run("ff 13", state(), 0x1234)
    assert called.accesses == [Load(AT, 8), Store(0x1_FFF8, 8, RIP + 2)]
    assert (called.cpu.rip, called.rsp) == (0x1234, 0x1_FFF8)
    assert run("ff 23", state(), 0x1234).cpu.rip == 0x1234
    error = raises("ff 23", state(), 1 << 63)
    assert (error.vector, error.error_code) == (13, 0)


def test_call_with_shadow_stacks_is_left_to_the_cpu() -> None:
    with pytest.raises(UnsupportedInstruction):
        run("ff 13", replace(state(), cr4=1 << 23))


def test_pitfall_44_vector_and_x87_state_survive_a_refused_store() -> None:
    cpu = replace(state(), xmm=(5,) * 16, st=(7,) * 8, fpu_tag=0)
    for code in ("0f 11 03", "d9 1b", "0f 7f 03"):
        assert isinstance(next(execute(decode(bytes.fromhex(code), RIP, Mode.LONG), cpu)), Store)
    assert (cpu.xmm, cpu.st, cpu.fpu_tag, cpu.fpu_status) == ((5,) * 16, (7,) * 8, 0, 0)


# -- 3.3: memory


@pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{form.name} {form.opcode.text}")
def test_pitfall_45_one_access_for_each_foretold_direction(form: Form) -> None:
    mode = Mode.COMPAT32 if form.only == "i64" else Mode.LONG
    for case in cases(form, mode, 1, 3):
        cpu = replace(case.cpu, fpu_control=0x37F)
        insn = decode(case.code, cpu.rip, mode)
        accesses = []
        try:
            emulation = execute(insn, cpu)
            for access in emulation:
                accesses.append(access)
                emulation.answer = 1 if isinstance(access, Load | In) else None
        except GuestException as error:
            assert error.vector in (0, 13)  # #DE, or a jump to nowhere canonical
            continue
        after = emulation.after
        foretold = plan(insn, cpu)
        assert [(a.linear, a.width) for a in accesses if isinstance(a, Load)] == [
            (o.linear, o.width) for o in foretold if o.read
        ]
        assert [(a.linear, a.width) for a in accesses if isinstance(a, Store)] == [
            (o.linear, o.width) for o in foretold if o.write
        ]
        for access in accesses:
            if isinstance(access, Store):
                assert 0 <= access.value < 1 << 8 * access.width
        if insn.rep is None and form.operation not in ("call", "jmp", "ret"):
            assert after.rip == insn.next_rip
        assert all(0 <= value <= ONES for value in after.gpr)


@pytest.mark.parametrize(
    "code", ["0f 28 03", "0f 29 03", "66 0f 6f 03", "66 0f e7 03", "66 0f 38 2a 03", "c5 f8 29 03"]
)
def test_pitfall_52_aligned_moves_insist(code: str) -> None:
    cpu = replace(state(rbx=AT + 8), xmm=(0,) * 16, cr4=0x406F0)
    error = raises(code, cpu)
    assert (error.vector, error.error_code) == (13, 0)
    assert plan(decode(bytes.fromhex(code), RIP, Mode.LONG), replace(cpu, gpr=state().gpr))


@pytest.mark.parametrize("code", ["0f 11 03", "f3 0f 7f 03", "66 0f d6 03", "c5 f8 11 03"])
def test_pitfall_52_unaligned_moves_do_not(code: str) -> None:
    cpu = replace(state(rbx=AT + 1), xmm=(0,) * 16, cr4=0x406F0)
    assert run(code, cpu).stored == 0


def test_pitfall_52_cmpxchg16b_insists_cmpxchg8b_does_not() -> None:
    assert raises("48 0f c7 0b", state(rbx=AT + 8)).vector == 13
    assert run("0f c7 0b", state(rbx=AT + 4), 0).stored == AT + 4


@pytest.mark.parametrize(
    ("code", "registers", "vector"),
    [
        ("8b 03", {"rbx": 1 << 47}, 13),
        ("8b 03", {"rbx": 0xFFFF_7FFF_FFFF_FFFF}, 13),
        ("48 8b 03", {"rbx": 0x7FFF_FFFF_FFF9}, 13),
        ("8b 45 00", {"rbp": 1 << 47}, 12),
        ("8b 04 24", {"rsp": 1 << 63}, 12),
        ("ff 33", {"rsp": 1 << 63}, 12),
        ("8f 03", {"rsp": 1 << 63}, 12),
        ("a4", {"rdi": 1 << 63}, 13),
    ],
)
def test_pitfall_53_non_canonical_addresses(
    code: str, registers: dict[str, int], vector: int
) -> None:
    error = raises(code, state(**registers))
    assert (error.vector, error.error_code, error.linear) == (vector, 0, None)


def test_pitfall_53_57_bit_addresses_with_la57() -> None:
    cpu = replace(state(rbx=1 << 47), cr4=0x6F0 | 1 << 12)
    assert run("8b 03", cpu, 5).rax == 5
    assert raises("8b 03", replace(cpu, gpr=state(rbx=1 << 56).gpr)).vector == 13


def test_alignment_check_needs_cpl_3_am_and_ac() -> None:
    cpu = replace(state(rbx=AT + 1, flags=Flag.AC), cpl=3, cr0=0x8005_0033)
    error = raises("8b 03", cpu)
    assert (error.vector, error.error_code) == (17, 0)
    assert run("8a 03", cpu, 1).rax == 1
    for spared in (replace(cpu, cpl=0), replace(cpu, cr0=0x8001_0033), replace(cpu, rflags=2)):
        assert run("8b 03", spared, 1).rax == 1


def test_pitfall_56_locked_operands_say_so() -> None:
    cpu = state()

    def locked(code: str) -> list[bool]:
        return [o.locked for o in plan(decode(bytes.fromhex(code), RIP, Mode.LONG), cpu)]

    assert locked("f0 01 0b") == [True]
    assert locked("87 0b") == [True]
    assert locked("01 0b") == [False]
    assert locked("0f b1 0b") == [False]
    assert locked("89 0b") == [False]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{form.name} {form.opcode.text}")
def test_pitfall_57_every_form_has_a_width(form: Form) -> None:
    mode = Mode.COMPAT32 if form.only == "i64" else Mode.LONG
    for case in cases(form, mode, 1, 5):
        assert decode(case.code, RIP, mode).width in (1, 2, 4, 8, 10, 16, 32, 64)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("a4", [(0x10, "r"), (0x20, "w")]),
        ("a6", [(0x10, "r"), (0x20, "r")]),
        ("ff 33", [(AT, "r"), (0x1_FFF8, "w")]),
        ("8f 03", [(0x2_0000, "r"), (AT, "w")]),
        ("ff 13", [(AT, "r"), (0x1_FFF8, "w")]),
    ],
)
def test_pitfall_59_both_operands_are_foretold(code: str, expected: list[tuple[int, str]]) -> None:
    operands = plan(decode(bytes.fromhex(code), RIP, Mode.LONG), state(rsi=0x10, rdi=0x20))
    assert [(o.linear, "r" * o.read + "w" * o.write) for o in operands] == expected


def test_pitfall_58_addresses_wrap() -> None:
    assert run("8b 43 10", state(rbx=ONES - 7), 1).accesses == [Load(8, 4)]
    narrow = state(Mode.COMPAT32, rbx=0xFFFF_FFFF)
    assert run("8b 43 10", narrow, 1).accesses == [Load(0xF, 4)]
    end = replace(state(Mode.COMPAT32), rip=0xFFFF_FFFE)
    assert run("8b 03", end, 1).cpu.rip == 0


def test_plan_of_cache_lines_and_prefetches_names_a_byte_without_access() -> None:
    for code in ("0f ae 3b", "66 0f ae 3b", "66 0f ae 33", "0f 18 0b", "0f 0d 0b"):
        insn = decode(bytes.fromhex(code), RIP, Mode.LONG)
        assert plan(insn, state()) == (Operand(AT, 1, read=False, write=False),)
        ran = run(code, state())
        assert (ran.accesses, ran.cpu.rip) == ([], RIP + insn.length)


def test_movdir64b() -> None:
    cpu = state(rax=0x3_0040)
    value = int.from_bytes(bytes(range(64)), "little")
    ran = run("66 0f 38 f8 03", cpu, value)
    assert ran.accesses == [Load(AT, 64), Store(0x3_0040, 64, value)]
    assert raises("66 0f 38 f8 03", state(rax=0x3_0020)).vector == 13


def test_xlat() -> None:
    ran = run("d7", state(rax=0xFF03), 9)
    assert ran.accesses == [Load(AT + 3, 1)]
    assert ran.rax == 0xFF09


# -- 3.4: REP


@pytest.mark.parametrize("code", ["f3 a4", "f3 aa", "f2 ac", "f3 a6", "f2 ae"])
def test_pitfall_64_count_of_zero_does_nothing(code: str) -> None:
    cpu = state(flags=ALL, rsi=5, rdi=6)
    insn = decode(bytes.fromhex(code), RIP, Mode.LONG)
    assert plan(insn, cpu) == ()
    ran = run(code, cpu)
    assert ran.accesses == []
    assert ran.cpu == replace(cpu, rip=RIP + 2)


def test_pitfall_65_count_has_the_address_size() -> None:
    cpu = state(rcx=1 << 32, rdi=AT)
    assert run("67 f3 66 ab", cpu).accesses == []
    assert run("f3 66 ab", cpu).rcx == (1 << 32) - 1
    narrow = run("67 f3 ab", state(rcx=0xFFFF_FFFF_0000_0002, rdi=AT))
    assert (narrow.rcx, narrow.cpu.rip) == (1, RIP)


def test_pitfall_66_pointers_move_by_df_and_are_truncated() -> None:
    forth = run("a5", state(rsi=0x100, rdi=0x200), 1)
    assert (forth.rsi, forth.rdi) == (0x104, 0x204)
    back = run("48 a5", state(rsi=0x100, rdi=0x200, flags=DF), 1)
    assert (back.rsi, back.rdi) == (0xF8, 0x1F8)
    wrapped = run("67 aa", state(rdi=ONES))
    assert wrapped.accesses == [Store(0xFFFF_FFFF, 1, 0)]
    assert wrapped.rdi == 0
    sixteen = run("aa", replace(state(Mode.COMPAT16), gpr=state(rdi=0x1_FFFF).gpr))
    assert sixteen.rdi == 0x1_0000


def test_pitfall_67_rip_stays_until_the_last_iteration() -> None:
    first = run("f3 aa", state(rcx=2, rdi=AT))
    assert (first.rcx, first.rdi, first.cpu.rip) == (1, AT + 1, RIP)
    last = run("f3 aa", first.cpu)
    assert (last.rcx, last.cpu.rip) == (0, RIP + 2)


@pytest.mark.parametrize(
    ("code", "loads", "left", "ends"),
    [
        ("f3 a6", [1, 1], 1, False),
        ("f3 a6", [1, 2], 1, True),
        ("f2 a6", [1, 2], 1, False),
        ("f2 a6", [1, 1], 1, True),
        ("f3 ae", [0], 1, False),
        ("f2 ae", [0], 1, True),
    ],
)
@pytest.mark.parametrize("before", [0, ZF])
def test_pitfall_69_zf_counts_after_an_iteration_only(
    code: str, loads: list[int], left: int, ends: bool, before: int
) -> None:
    ran = run(code, state(rcx=2, flags=before), *loads)
    assert ran.rcx == left
    assert ran.cpu.rip == (RIP + 2 if ends else RIP)


@pytest.mark.parametrize("code", ["f2 a4", "f2 aa", "f2 ac"])
def test_pitfall_70_repne_repeats_by_count_alone(code: str) -> None:
    loads = [] if code == "f2 aa" else [0]
    ran = run(code, state(rcx=2, flags=ZF), *loads)
    assert (ran.rcx, ran.cpu.rip) == (1, RIP)


def test_pitfall_71_movs_reads_the_overridden_segment_and_writes_es() -> None:
    cpu = replace(state(rsi=0x10, rdi=0x20), segments=Segments(fs_base=0x5000))
    assert run("64 a4", cpu, 7).accesses == [Load(0x5010, 1), Store(0x20, 1, 7)]


def test_cmps_reads_source_then_destination() -> None:
    ran = run("a6", state(rsi=0x10, rdi=0x20), 5, 6)
    assert ran.accesses == [Load(0x10, 1), Load(0x20, 1)]
    assert flags(ran) & CF


def test_pitfall_75_count_and_condition_both_end_a_comparison() -> None:
    ran = run("f3 a6", state(rcx=1), 1, 1)
    assert (ran.rcx, ran.cpu.rip) == (0, RIP + 2)


# -- 3.5: control


@pytest.mark.parametrize("code", ["90", "0f a2", "8e 03", "62 f1 7c 08 10 03", "0f ae 03"])
def test_pitfall_78_unsupported_is_refused_before_any_access(code: str) -> None:
    insn = decode(bytes.fromhex(code), RIP, Mode.LONG)
    with pytest.raises(UnsupportedInstruction) as caught:
        next(execute(insn, state()))
    assert caught.value.code == insn.code
    with pytest.raises(UnsupportedInstruction):
        plan(insn, state())


def test_pitfall_78_unknown_registers_are_refused_before_any_access() -> None:
    for code in ("0f 11 03", "d9 03", "0f 7f 03"):
        with pytest.raises(UnsupportedInstruction):
            run(code, state())


@pytest.mark.parametrize(
    ("code", "width", "mode"),
    [
        ("6c", 1, Mode.LONG), ("666d", 2, Mode.LONG), ("6d", 4, Mode.LONG), ("486d", 4, Mode.LONG),
        ("6d", 4, Mode.COMPAT32), ("6d", 2, Mode.COMPAT16),
    ],
)  # fmt: skip
def test_ins_and_outs_use_the_port_once_after_the_load_before_the_store(
    code: str, width: int, mode: Mode
) -> None:
    value = 0x4433_2211 & (1 << 8 * width) - 1
    pointers = {"rdi": 0x7000, "rsi": 0x6000, "rdx": 0x1_0071}
    ran = run(code, state(mode, **pointers), value)
    assert ran.accesses == [In(0x71, width), Store(0x7000, width, value)]
    assert (ran.rdi, ran.rsi) == (0x7000 + width, 0x6000)
    out = code[:-2] + f"{int(code[-2:], 16) + 2:02x}"
    ran = run(out, state(mode, flags=Flag.DF, **pointers), value)
    assert ran.accesses == [Load(0x6000, width), Out(0x71, width, value)]
    assert (ran.rdi, ran.rsi) == (0x7000, 0x6000 - width)


@pytest.mark.parametrize("code", ["f36c", "f26c", "f36e", "f26e"])
def test_ins_and_outs_repeat_by_the_count_of_the_address_size(code: str) -> None:
    counted = state(rdi=0x7000, rsi=0x6000, rcx=0x1_0000_0000)
    assert run(code, counted, 1).rcx == 0xFFFF_FFFF
    assert run("67" + code, counted).accesses == []


def test_pitfall_79_no_bytes_whatever_break_the_emulator() -> None:
    random = Random(79)
    executed = 0
    for _ in range(6000):
        mode = random.choice(tuple(Mode))
        head = random.choice((b"", b"\x0f", b"\x66", b"\xf3", b"\x48", b"\xc4\xe2", b"\xf0"))
        cpu = replace(state(mode), xmm=(1,) * 16, st=(1,) * 8, cr4=0x406F0)
        try:
            insn = decode(head + random.randbytes(15), RIP, mode)
            emulation = execute(insn, cpu)
            for access in emulation:
                if isinstance(access, Load | In):
                    emulation.answer = random.getrandbits(8 * access.width)
            executed += 1
        except EmulationError:
            pass  # the only way out that is not the end
    assert executed > 500


def test_pitfall_84_rf_is_cleared_by_the_instruction_s_end() -> None:
    assert not run("89 03", state(flags=Flag.RF)).cpu.rflags & Flag.RF
    going_on = run("f3 aa", state(rcx=2, flags=Flag.RF))
    assert going_on.cpu.rflags & Flag.RF
    assert not run("f3 aa", going_on.cpu).cpu.rflags & Flag.RF


# -- units


@pytest.mark.parametrize(
    ("code", "cr0", "cr4", "vector"),
    [
        ("0f 11 03", 0x8005_0037, 0x406F0, 6),
        ("0f 11 03", 0x8005_003B, 0x406F0, 7),
        ("0f 11 03", 0x8005_0033, 0x404F0, 6),
        ("c5 f8 11 03", 0x8005_0033, 0x006F0, 6),
        ("d9 03", 0x8005_0037, 0x406F0, 7),
        ("d9 03", 0x8005_003B, 0x406F0, 7),
        ("0f 7f 03", 0x8005_0037, 0x406F0, 6),
    ],
)
def test_units_switched_off(code: str, cr0: int, cr4: int, vector: int) -> None:
    cpu = replace(state(), cr0=cr0, cr4=cr4, xmm=(0,) * 16, st=(0,) * 8)
    assert raises(code, cpu).vector == vector


def test_pending_x87_error_is_raised_by_waiting_instructions() -> None:
    cpu = replace(state(), st=(0,) * 8, fpu_status=0x8081, fpu_control=0x37E)
    assert raises("d9 03", cpu).vector == 16
    assert run("dd 3b", cpu).stored == 0x8081  # fnstsw does not wait


def test_rows_of_the_vector_units_declare_them() -> None:
    for form in FORMS:
        slots = {slot[0] for slot in form.operands}
        assert (form.unit is Unit.SSE) == bool(slots & {"V", "W"}), form.opcode.text
        assert (form.unit is Unit.MMX) == bool(slots & {"P", "Q"}), form.opcode.text
