"""The cases have every odd shape, and the comparison notices a decoder that gets one wrong."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.diff import host, shape
from tests.diff.case import Case, cases
from tests.diff.compare import difference
from tracer.x86 import decode as decoder
from tracer.x86.decode import decode
from tracer.x86.forms import FORMS
from tracer.x86.instruction import Immediate, Memory, Segment
from tracer.x86.prefix import Head
from tracer.x86.state import RCX, RSP, Mode

_SHIFTS = ("shl", "shr", "sar", "rol", "ror", "rcl", "rcr", "shld", "shrd")


def _shapes(case: Case) -> set[str]:
    code, mode = case.code, case.cpu.mode
    insn = decode(code, case.cpu.rip, mode)
    assert insn.form is not None
    lead = shape._lead(code) if mode is Mode.LONG else code[: shape.LONGEST]
    found = set()
    prefixes = [byte for byte in lead if not 0x40 <= byte <= 0x4F]
    if len(prefixes) != len(set(prefixes)):
        found.add("repeated prefix")
    if mode is Mode.LONG:
        found |= {"conflicting REP"} if shape.repeats_both_ways(code) else set()
        found |= {"null override behind FS or GS"} if shape.cancels(code) else set()
        found |= {"FS and GS"} if {0x64, 0x65} <= set(lead) else set()
        found |= {"void REX"} if shape.is_void(code) else set()
    for memory in insn.operands:
        if not isinstance(memory, Memory):
            continue
        if memory.mask == 0xFFFF:
            found.add("16-bit address")
        registers = [n for n in (memory.base, memory.index) if n not in (None, RSP)]
        if any(case.cpu.gpr[n] & ~memory.mask for n in registers):
            found.add("junk beyond the address size")
    if insn.form.modrm and not insn.form.register and memory_by_sib(insn.code, mode):
        found.add("scale without an index")
    if insn.form.name in _SHIFTS:
        last = insn.operands[-1]
        count = last.value if isinstance(last, Immediate) else case.cpu.gpr[RCX] & 0xFF
        found |= {"count beyond the width"} if count > 8 * insn.width else set()
    return found


def memory_by_sib(code: bytes, mode: Mode) -> bool:
    """Tell whether ModRM is followed by an SIB byte with a scale and no index."""
    head = Head(code, mode)
    modrm, sib = code[head.at], code[min(head.at + 1, len(code) - 1)]
    return modrm & 7 == 4 and sib >> 6 > 0 and sib >> 3 & 7 == 4 and not head.rex & 2


@pytest.mark.parametrize(
    ("mode", "wanted"),
    [
        (Mode.LONG, {"repeated prefix", "conflicting REP", "null override behind FS or GS",
                     "FS and GS", "void REX", "junk beyond the address size",
                     "scale without an index", "count beyond the width"}),
        (Mode.COMPAT32, {"16-bit address", "junk beyond the address size",
                         "scale without an index", "count beyond the width"}),
        (Mode.COMPAT16, {"16-bit address", "junk beyond the address size",
                         "count beyond the width"}),
    ],
)  # fmt: skip
def test_every_shape_is_made(mode: Mode, wanted: set[str]) -> None:
    made: Counter[str] = Counter()
    for form in FORMS:
        skipped = form.size64 and mode is Mode.COMPAT16
        if form.only != ("i64" if mode is Mode.LONG else "o64") and not skipped:
            for case in cases(form, mode, 8, 7):
                made.update(_shapes(case))
    assert all(made[name] >= 5 for name in wanted), made


def _keeps_rex(head: Head) -> None:
    # A REX counts although another prefix follows it.
    lead = head.code[: head.at]
    for byte in lead:
        head.rex = byte if 0x40 <= byte <= 0x4F else head.rex


def _cancels(head: Head) -> None:
    # A null override takes FS and GS back.
    if shape.cancels(head.code):
        head.segment = None


def _last_of_all(head: Head) -> None:
    # The first override counts.
    first: dict[int, Segment] = {0x64: "fs", 0x65: "gs"}
    found = [first[byte] for byte in head.code[: head.at] if byte in first]
    head.segment = found[0] if found else head.segment


@pytest.mark.parametrize("wrong", [_keeps_rex, _cancels, _last_of_all])
def test_a_wrong_rule_for_prefixes_is_noticed(
    wrong: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    available = host.features()
    if not available:
        pytest.skip("the host is no x86-64 CPU with FSGSBASE")
    forms = [form for form in FORMS if host.executes(form, available)][:150]
    batch = [case for form in forms for case in cases(form, Mode.LONG, 12, 3)]
    batch = [case for case in batch if case.cpu.segments.fs_base != case.cpu.segments.gs_base]
    results = host.run(batch)
    right = Head._read_prefixes

    def read(head: Head) -> None:
        right(head)
        wrong(head)  # type: ignore[operator]

    monkeypatch.setattr(Head, "_read_prefixes", read)
    for cached in (decoder._decode_at, decoder._decode_known):
        cached.cache_clear()
    try:
        assert any(_differs(case, result) for case, result in zip(batch, results, strict=True))
    finally:
        for cached in (decoder._decode_at, decoder._decode_known):
            cached.cache_clear()


def _differs(case: Case, result: object) -> bool:
    try:
        return difference(case, result, whole=True) is not None  # type: ignore[arg-type]
    except AssertionError:  # an access outside the RAM, or another instruction
        return True
