"""Decoding: prefixes, ModRM and SIB, widths, and what is no instruction.

Numbers in names are those of the list of known pitfalls of x86 decoders.
"""

from __future__ import annotations

import pytest

from tracer.errors import InvalidInstruction, NotEnoughBytes
from tracer.trace.summary import mnemonic
from tracer.x86.decode import decode
from tracer.x86.disassembler import foreign, is_mnemonic
from tracer.x86.forms import FORMS, candidates
from tracer.x86.instruction import File, Immediate, Instruction, Memory, Register
from tracer.x86.opcode import MAPS, rows_of_map
from tracer.x86.opcode.row import opcodes
from tracer.x86.state import RAX, RBP, RBX, RCX, RDI, RSI, RSP, Mode

RIP = 0x40_0000


def dec(code: str, mode: Mode = Mode.LONG) -> Instruction:
    return decode(bytes.fromhex(code), RIP, mode)


def memory(code: str, mode: Mode = Mode.LONG) -> Memory:
    (found,) = [operand for operand in dec(code, mode).operands if isinstance(operand, Memory)]
    return found


def register(code: str, position: int = 1) -> Register:
    found = dec(code).operands[position]
    assert isinstance(found, Register)
    return found


def immediate(code: str) -> int:
    found = dec(code).operands[-1]
    assert isinstance(found, Immediate)
    return found.value


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("89 48 10", "mov dword ptr [rax + 0x10], ecx"),
        ("88 23", "mov byte ptr [rbx], ah"),
        ("40 88 23", "mov byte ptr [rbx], spl"),
        ("f3 48 a5", "rep movsq qword ptr [rdi], qword ptr [rsi]"),
        ("f2 a5", "repne movsd dword ptr [rdi], dword ptr [rsi]"),
        ("f0 01 0b", "lock add dword ptr [rbx], ecx"),
        ("c4 e2 71 e4 03", "cmpexadd dword ptr [rbx], eax, ecx"),
        ("c4 e2 71 e4 43 f0", "cmpexadd dword ptr [rbx - 0x10], eax, ecx"),
        ("66 63 0b", "movsxd cx, word ptr [rbx]"),
        ("8e 03", "mov es, word ptr [rbx]"),
    ],
)
def test_text(code: str, text: str) -> None:
    assert dec(code).text == text


def test_bytes_after_the_instruction_do_not_count() -> None:
    insn = dec("89 48 10 cc cc cc")
    assert insn.code == bytes.fromhex("89 48 10")
    assert insn.length == 3
    assert insn.next_rip == RIP + 3


def test_same_code_elsewhere_differs_in_rip_alone() -> None:
    code = bytes.fromhex("8b 05 10 00 00 00")
    here, there = decode(code, RIP, Mode.LONG), decode(code, 0x1000, Mode.LONG)
    assert (here.rip, there.rip) == (RIP, 0x1000)
    assert here.operands == there.operands
    assert here.text == there.text


def test_every_row_is_found_under_its_opcode() -> None:
    for form in FORMS:
        assert form in candidates(bool(form.opcode.vex), form.opcode.map, form.opcode.byte)


def test_every_map_is_read_whole() -> None:
    for (encoding, number), text in MAPS.items():
        told = [line.partition(";")[0].split() for line in text.splitlines() if line.strip()]
        expected = {byte for head, *_ in told for byte, _, _ in opcodes(head)}
        assert rows_of_map(encoding, number).keys() == expected
        assert all(rows_of_map(encoding, number).values())
    assert not rows_of_map("xop", 1)


def test_pitfall_01_high_byte_registers_without_rex_only() -> None:
    assert register("88 23") == Register(File.GPR, 0, 1, high=True)
    assert register("88 3b") == Register(File.GPR, 3, 1, high=True)
    assert register("40 88 23") == Register(File.GPR, 4, 1)
    assert register("40 88 3b") == Register(File.GPR, 7, 1)
    assert register("8a 23", 0) == Register(File.GPR, 0, 1, high=True)


def test_pitfall_02_rex_is_cancelled_by_a_later_legacy_prefix() -> None:
    insn = dec("48 66 89 0b")
    assert insn.operand_size == 2
    assert register("44 3e 89 0b").number == RCX


def test_pitfall_03_rex_w_wins_over_66() -> None:
    assert dec("66 48 89 0b").operand_size == 8
    assert dec("66 44 89 0b").operand_size == 2
    assert memory("66 48 89 0b").width == 8


def test_pitfall_04_no_base_is_by_the_three_bit_number() -> None:
    # r13 as base with mod 0 is disp32 (RIP-relative) too, and no base under SIB.
    assert memory("41 8b 05 10 00 00 00").rip_relative
    bare = memory("41 8b 04 25 10 00 00 00")
    assert (bare.base, bare.index, bare.displacement) == (None, None, 0x10)
    assert not bare.rip_relative
    assert memory("41 8b 45 00").base == 13
    assert memory("41 8b 44 25 00").base == 13


def test_pitfall_05_r12_is_an_index_rsp_is_not() -> None:
    assert memory("8b 04 23").index is None
    assert memory("42 8b 04 23").index == 12
    assert memory("42 8b 04 a3").scale == 4


def test_pitfall_06_rip_relative_counts_the_immediate() -> None:
    insn = dec("c7 05 10 00 00 00 78 56 34 12")
    assert insn.next_rip == RIP + 10
    assert memory("c7 05 10 00 00 00 78 56 34 12").rip_relative


def test_pitfall_07_address_size_prefix_sets_the_mask() -> None:
    assert memory("67 8b 03").mask == 0xFFFF_FFFF
    assert memory("8b 03").mask == 0xFFFF_FFFF_FFFF_FFFF
    assert memory("67 8b 05 10 00 00 00").rip_relative


@pytest.mark.parametrize("code", ["64 2e 8b 03", "64 3e 8b 03", "2e 64 8b 03", "64 26 36 8b 03"])
def test_pitfall_08_null_segment_prefixes_cancel_nothing(code: str) -> None:
    assert memory(code).segment == "fs"


def test_pitfall_08_null_segment_prefix_keeps_the_default_segment() -> None:
    assert memory("3e 8b 45 00").segment == "ss"
    assert memory("36 8b 03").segment == "ds"
    assert memory("36 8b 03", Mode.COMPAT32).segment == "ss"


def test_pitfall_09_frame_and_stack_bases_default_to_ss() -> None:
    assert memory("8b 45 00").segment == "ss"
    assert memory("8b 04 24").segment == "ss"
    assert memory("41 8b 45 00").segment == "ds"  # r13
    assert memory("41 8b 04 24").segment == "ds"  # r12
    assert memory("8b 04 2b").segment == "ds"  # rbp as index
    assert memory("8b 46 00", Mode.COMPAT16).segment == "ss"


def test_pitfall_10_c7_immediate_is_sign_extended() -> None:
    assert immediate("48 c7 03 fe ff ff ff") == 0xFFFF_FFFF_FFFF_FFFE
    assert dec("48 c7 03 fe ff ff ff").length == 7
    assert immediate("66 c7 03 34 12") == 0x1234
    assert dec("66 c7 03 34 12").length == 5
    assert immediate("66 83 0b ff") == 0xFFFF


@pytest.mark.parametrize("code", ["c7 0b 00 00 00 00", "c6 3b 00", "c6 0b 00"])
def test_pitfall_11_only_digit_0_of_c6_and_c7_is_mov(code: str) -> None:
    with pytest.raises(InvalidInstruction):
        dec(code)


def test_pitfall_12_moffs_has_the_address_size() -> None:
    assert dec("67 a1 44 33 22 11").length == 6
    assert memory("67 a1 44 33 22 11").displacement == 0x11223344
    wide = dec("48 a1 88 77 66 55 44 33 22 11")
    assert (wide.length, wide.width) == (10, 8)
    assert memory("48 a1 88 77 66 55 44 33 22 11").displacement == 0x1122334455667788
    assert dec("a2 00 00 00 00 00 00 00 80").operands[1] == Register(File.GPR, RAX, 1)
    assert dec("66 a3 44 33 22 11", Mode.COMPAT32).width == 2


def test_pitfall_13_opcode_maps_are_not_confused() -> None:
    assert dec("0f b6 03").text.startswith("movzx")
    assert dec("b6 03").form is None
    assert dec("0f 88 00 00 00 00").form is None


@pytest.mark.parametrize(
    ("code", "source", "target"), [("63 0b", 4, 4), ("48 63 0b", 4, 8), ("66 63 0b", 2, 2)]
)
def test_pitfall_14_movsxd_widths(code: str, source: int, target: int) -> None:
    assert memory(code).width == source
    assert register(code, 0).width == target


def test_pitfall_14_63_is_no_movsxd_outside_64_bit_mode() -> None:
    assert dec("63 0b", Mode.COMPAT32).form is None


def test_pitfall_15_fifteen_bytes_and_many_prefixes() -> None:
    assert dec("66 " * 13 + "89 0b").length == 15
    with pytest.raises(InvalidInstruction, match="15 bytes"):
        dec("66 " * 14 + "89 0b")
    with pytest.raises(InvalidInstruction, match="15 bytes"):
        dec("2e " * 15)


@pytest.mark.parametrize(
    "code",
    [
        "48 c7 84 88 10 20 30 40 55 66 77 08", "0f b6 44 24 10", "f3 0f 6f 44 24 10",
        "c4 e2 f8 f7 44 24 10", "c5 f8 11 44 24 10", "c5 f8 ae 54 24 10", "66 0f 38 00 44 24 10",
        "48 a1 88 77 66 55 44 33 22 11", "0f 01 54 24 10", "e8 00 00 00 00", "62 f1 7c 48 28 03",
    ],
)  # fmt: skip
def test_pitfall_16_every_proper_prefix_asks_for_more(code: str) -> None:
    whole = bytes.fromhex(code)
    assert decode(whole, RIP, Mode.LONG).code == whole
    for length in range(len(whole)):
        with pytest.raises(NotEnoughBytes):
            decode(whole[:length], RIP, Mode.LONG)


def test_pitfall_20_truncated_bytes_are_shown_as_such() -> None:
    with pytest.raises(NotEnoughBytes, match="8b 84"):
        dec("8b 84")
    with pytest.raises(NotEnoughBytes, match="no bytes"):
        dec("")


def test_pitfall_21_vex_w_is_ignored_outside_64_bit_mode() -> None:
    assert dec("c4 e2 f0 f2 03").operand_size == 8  # andn
    assert dec("c4 e2 f0 f2 03", Mode.COMPAT32).width == 4
    assert dec("c5 03", Mode.COMPAT32).form is None  # lds


@pytest.mark.parametrize("prefix", ["66", "f2", "f3", "f0", "48"])
def test_pitfall_21_vex_after_another_prefix_is_invalid(prefix: str) -> None:
    with pytest.raises(InvalidInstruction):
        dec(prefix + " c4 e2 70 f2 03")


def test_vex_register_number_has_three_bits_outside_64_bit_mode() -> None:
    assert dec("c4 e2 30 f2 03", Mode.COMPAT32).operands[1] == Register(File.GPR, RCX, 4)
    assert dec("c4 e2 30 f2 03").operands[1] == Register(File.GPR, 9, 4)


def test_mandatory_66_is_no_operand_size() -> None:
    assert dec("66 0f 38 f6 03").operand_size == 4
    assert dec("66 f2 0f 38 f1 03").operand_size == 2


def test_vex_vvvv_must_be_unused_where_no_operand_is() -> None:
    assert dec("c5 f8 11 03").form is not None
    with pytest.raises(InvalidInstruction):
        dec("c5 f0 11 03")


@pytest.mark.parametrize(
    ("code", "width", "first"),
    [
        ("c5 f8 10 03", 16, Register(File.XMM, 0, 16)),
        ("c5 7c 10 03", 32, Register(File.XMM, 8, 32)),
        ("c4 e2 7d 18 03", 4, Register(File.XMM, 0, 32)),
        ("c5 ed d1 03", 16, Register(File.XMM, 0, 32)),
    ],
)
def test_vector_length_is_of_the_registers(code: str, width: int, first: Register) -> None:
    insn = dec(code)
    assert (insn.width, insn.operands[0]) == (width, first)


@pytest.mark.parametrize(
    ("code", "mode", "number"),
    [
        ("c4 e3 71 4c 03 f0", Mode.LONG, 15),
        ("c4 e3 71 4c 03 f0", Mode.COMPAT32, 7),
        ("66 0f 38 10 03", Mode.LONG, 0),
    ],
)
def test_mask_of_a_blend_is_in_the_immediate_or_xmm0(code: str, mode: Mode, number: int) -> None:
    assert dec(code, mode).operands[-1] == Register(File.XMM, number, 16)


def test_w_selects_a_row_outside_64_bit_mode_too() -> None:
    assert dec("c4 e2 71 8c 03", Mode.COMPAT32).text.startswith("vpmaskmovd")
    assert dec("c4 e2 f1 8c 03", Mode.COMPAT32).text.startswith("vpmaskmovq")
    # But it is no operand size there.
    assert dec("c4 e3 f1 22 03 01", Mode.COMPAT32).width == 4
    assert dec("c4 e3 f1 22 03 01").width == 8


def test_a_length_that_a_form_does_not_have_is_no_instruction() -> None:
    assert dec("c4 e2 7d 1a 03").width == 16  # vbroadcastf128: 256 bits only
    for code in ("c4 e2 79 1a 03", "c4 e3 75 63 03 00"):
        with pytest.raises(InvalidInstruction):
            dec(code)


@pytest.mark.parametrize(
    ("code", "text", "width"),
    [
        ("41 50", "push r8", 8),
        ("66 58", "pop ax", 2),
        ("6a fe", "push 0xfffffffffffffffe", 8),
        ("66 68 34 12", "push 0x1234", 2),
        ("c8 10 00 01", "enter 0x10, 1", 8),
        ("c9", "leave", 8),
        ("c2 08 00", "ret 8", 8),
        ("e8 fb ff ff ff", f"call {RIP:#x}", 8),
    ],
)
def test_stack_forms(code: str, text: str, width: int) -> None:
    insn = dec(code)
    assert (insn.text, insn.width) == (text, width)
    assert insn.form is not None


def test_target_of_a_call_is_where_the_code_is() -> None:
    code = bytes.fromhex("e8 00 01 00 00")
    assert decode(code, 0x1000, Mode.LONG).text == "call 0x1105"
    assert decode(code, 0x2000, Mode.LONG).text == "call 0x2105"
    assert decode(bytes.fromhex("66 e8 00 ff"), 0x1000, Mode.COMPAT32).text == "call 0xf04"


@pytest.mark.parametrize("code", ["66 e8 00 00 00 00", "66 c3", "66 ff 13", "66 ff 23"])
def test_operand_size_of_a_near_branch_is_the_vendor_s(code: str) -> None:
    assert dec(code).form is None
    assert dec(code.replace("66", "66 48")).form is not None


@pytest.mark.parametrize("prefix", ["66", "f2", "f3"])
def test_pitfall_23_movnti_takes_no_prefix(prefix: str) -> None:
    with pytest.raises(InvalidInstruction):
        dec(prefix + " 0f c3 0b")


@pytest.mark.parametrize("prefix", ["", "66", "f2", "f3"])
def test_pitfall_23_cmpxchg8b_ignores_prefixes(prefix: str) -> None:
    form = dec(prefix + " 0f c7 0b").form
    assert form is not None
    assert form.name == "cmpxchg8b"


@pytest.mark.parametrize("code", ["8d c0", "0f 38 f0 c0", "0f 38 f1 c0"])
def test_pitfall_24_register_forms_of_lea_and_movbe_are_invalid(code: str) -> None:
    with pytest.raises(InvalidInstruction):
        dec(code)


@pytest.mark.parametrize(
    "code",
    [
        "f0 89 0b", "f0 39 0b", "f0 85 0b", "f0 0f a3 0b", "f0 0f ba 23 01", "f0 d1 23",
        "f0 03 0b", "f0 f7 23", "f0 a4", "f0 8b 0b", "f0 01 c1", "f0 ff 33", "f0 0f b6 03",
        "f0 90", "f0 0f 10 03",
    ],
)  # fmt: skip
def test_pitfall_25_lock_where_it_is_illegal(code: str) -> None:
    with pytest.raises(InvalidInstruction, match="LOCK"):
        dec(code)


@pytest.mark.parametrize(
    "code",
    ["f0 01 0b", "f0 81 03 01 00 00 00", "f0 0f ab 0b", "f0 0f ba 2b 01", "f0 0f c1 0b",
     "f0 0f b1 0b", "f0 0f c7 0b", "f0 87 0b", "f0 ff 03", "f0 f7 1b", "f0 f6 13"],
)  # fmt: skip
def test_pitfall_25_lock_where_it_is_legal(code: str) -> None:
    assert dec(code).lock


@pytest.mark.parametrize("code", ["89 c8", "65 89 c8", "f3 0f 10 c1", "0f ae f8", "0f af c1"])
def test_pitfall_26_register_operands_are_no_memory(code: str) -> None:
    insn = dec(code)
    assert insn.form is None
    assert insn.operands == ()


@pytest.mark.parametrize("code", ["90", "8d 03", "0f a2", "e9 00 00 00 00", "0f 0b"])
def test_pitfall_27_what_makes_no_access_has_no_form(code: str) -> None:
    assert dec(code).form is None


@pytest.mark.parametrize(
    ("code", "width"),
    [
        ("0f c3 0b", 4), ("0f 2b 03", 16), ("66 0f d6 03", 8), ("f3 0f 7e 03", 8),
        ("f3 0f 11 03", 4), ("0f 17 03", 8), ("87 0b", 4), ("86 0b", 1), ("66 ff 33", 2),
        ("ff 33", 8), ("67 48 8b 03", 8), ("f3 a7", 4), ("0f c7 0b", 8), ("48 0f c7 0b", 16),
        ("66 0f b7 03", 2), ("0f 38 f0 03", 4), ("db 2b", 10), ("8c 03", 2), ("48 8c 03", 2),
        ("f2 0f 38 f0 03", 1), ("66 f2 0f 38 f1 03", 2), ("f2 48 0f 38 f1 03", 8),
    ],
)  # fmt: skip
def test_pitfall_28_widths_come_from_the_table(code: str, width: int) -> None:
    assert dec(code).width == width


def test_pitfall_71_override_moves_the_source_of_movs_alone() -> None:
    destination, source = dec("64 a5").operands
    assert isinstance(source, Memory) and isinstance(destination, Memory)
    assert (source.segment, source.base) == ("fs", RSI)
    assert (destination.segment, destination.base) == ("es", RDI)


def test_pitfall_89_scale_and_displacement() -> None:
    found = memory("8b 44 cb f0")
    assert (found.base, found.index, found.scale, found.displacement) == (RBX, RCX, 8, -0x10)


def test_16_bit_addressing() -> None:
    pair = memory("8b 40 f0", Mode.COMPAT16)
    assert (pair.base, pair.index, pair.displacement, pair.mask) == (RBX, RSI, -0x10, 0xFFFF)
    absolute = memory("8b 06 34 12", Mode.COMPAT16)
    assert (absolute.base, absolute.displacement) == (None, 0x1234)
    assert memory("8b 46 34", Mode.COMPAT16).base == RBP
    assert memory("67 8b 04 24", Mode.COMPAT16).base == RSP
    assert dec("8b 07", Mode.COMPAT16).width == 2
    assert dec("66 8b 07", Mode.COMPAT16).width == 4


def test_stack_forms_of_16_bit_code_are_left_to_the_cpu() -> None:
    assert dec("ff 37", Mode.COMPAT16).form is None


def test_82_exists_outside_64_bit_mode_alone() -> None:
    assert dec("82 03 01", Mode.COMPAT32).form is not None
    with pytest.raises(InvalidInstruction):
        dec("82 03 01")


def test_mov_from_a_segment_register_that_is_none() -> None:
    with pytest.raises(InvalidInstruction):
        dec("8c 33")


def test_rep_is_told_of_string_instructions_alone() -> None:
    assert dec("f3 a5").rep == "rep"
    assert dec("f2 ae").rep == "repne"
    assert dec("f3 89 0b").rep is None


OPCODES_BEHIND = (
    "66", "0f", "0f38", "0f3a", "660f", "f30f", "f20f", "660f38", "48", "f0", "f2", "f3", "d9",
    "de", "c5f8", "c5f9", "c4e279", "62f17c48",
)  # fmt: skip


@pytest.mark.parametrize("head", OPCODES_BEHIND)
def test_every_instruction_has_a_name_that_is_known(head: str) -> None:
    names = set()
    for opcode in range(256):
        for modrm in (0x00, 0x08, 0x10, 0x20, 0x38, 0xC1, 0xD8, 0xF1):
            code = (bytes.fromhex(head) + bytes([opcode, modrm, 1, *bytes(12)]))[:15]
            try:
                names.add(mnemonic(foreign(code, 0, Mode.LONG).text))
            except (InvalidInstruction, NotEnoughBytes):
                continue
    assert len(names) > 1
    assert [name for name in names if not is_mnemonic(name)] == []
    assert not is_mnemonic("movq8") and not is_mnemonic("")
