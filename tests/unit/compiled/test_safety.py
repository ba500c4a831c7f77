"""Which forms compile: each one of the table, or the reason why it does not."""

from __future__ import annotations

import pytest

from tests.diff.case import cases
from tracer.compiled.common import common_code
from tracer.compiled.safety import NotCompiled, Template, template_of
from tracer.compiled.thunk import compile_thunk
from tracer.x86.decode import decode
from tracer.x86.forms import FORMS, Access
from tracer.x86.state import Mode

COMMON = common_code(smp=False, la57=False)


def outcome(code: str) -> str:
    """The template of an instruction, or why there is none."""
    insn = decode(bytes.fromhex(code) + bytes(15), 0x1000, Mode.LONG)
    try:
        return template_of(insn).value
    except NotCompiled as refusal:
        return refusal.reason


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("8b07", "move"),
        ("668907", "move"),
        ("660fb607", "cell"),
        ("f00107", "cell"),
        ("d7", "move"),
        ("c5fe6f07", "cell"),
        ("8c1f", "cell"),
        ("8c0f", "the stub has another CS and SS"),
        ("f737", "a quotient may not fit (#DE)"),
        ("f73f", "a quotient may not fit (#DE)"),
        ("ff37", "push"),
        ("8f07", "pop"),
        ("50", "its operand is the stack"),
        ("ff17", "it goes elsewhere"),
        ("f3a4", "string"),
        ("64a4", "the base of FS or GS is not known in a thunk"),
        ("64ac", "string"),
        ("a6", "what is read decides whether it goes on"),
        ("0fae3f", "it accesses nothing"),
        ("c4e2718c07", "a mask decides what is accessed"),
        ("660f38f807", "it stores 64 bytes elsewhere"),
        ("6c", "it accesses a port"),
        ("0f2907", "cell"),
        ("0fae07", "the table does not have it"),
        ("62f17c481007", "the table does not have it"),
    ],
)
def test_what_becomes_of_an_instruction(code: str, expected: str) -> None:
    assert outcome(code) == expected


def test_code_of_another_mode_is_left_alone() -> None:
    with pytest.raises(NotCompiled, match="no 64-bit code"):
        template_of(decode(b"\x8b\x07" + bytes(15), 0x1000, Mode.COMPAT32))


def test_every_form_compiles_or_has_its_reason() -> None:
    refused = set()
    for form in FORMS:
        if form.only == "i64":
            continue
        for case in cases(form, Mode.LONG, 1, 3):
            insn = decode(case.code, case.cpu.rip, Mode.LONG)
            try:
                thunk = compile_thunk(insn, 1, 0x30000, COMMON)
            except NotCompiled as refusal:
                assert refusal.reason in str(refusal)
                if "crosses a page" not in refusal.reason:
                    refused.add(form.operation)
                continue
            assert thunk.code
            if form.repeat is None and form.operation not in ("push", "pop"):
                store = insn.operands[0].__class__.__name__ == "Memory"
                assert thunk.writes == (store and Access.W in form.access)
    assert refused <= {
        "div", "idiv", "none", "movdir64b", "maskmov 32", "maskmov 64", "cmps", "scas", "call",
        "ins", "outs", "jmp", "ret", "enter", "leave", "pushf", "push", "pop", "mov", "movs",
        *(form.operation for form in FORMS if form.name.endswith("xadd") and form.name != "xadd"),
    }  # fmt: skip


def test_a_template_for_each_way() -> None:
    assert {template.value for template in Template} == {"move", "cell", "push", "pop", "string"}
