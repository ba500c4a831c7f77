"""Trials are the same for ever, everywhere they have to be, and of every kind."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import islice

import pytest

from tracer.confidential.handler import KNOWN, PROFILES, judge
from tracer.confidential.trial import (
    KNOWN_OPCODES,
    OTHER_OPCODES,
    Ground,
    Trial,
    trials,
)
from tracer.x86.instruction import File, Memory, Register
from tracer.x86.state import RCX, RDI, RSI, RSP

GROUND = Ground(
    code=0xFFFF_FFFF_81C0_1000,
    stack=0xFFFF_C900_0000_3800,
    device=0xFFFF_C900_0010_0000,
    user=0x7F00_0000_0000,
    physical=0xFE00_0000,
    span=1 << 20,
)
STEERED = replace(GROUND, user=0x10_0000, physical=0xFE00_1000, span=4096, pages=1, steered=True)


@pytest.fixture(scope="module")
def many() -> list[Trial]:
    return list(trials(1, 3000, GROUND))


@pytest.fixture(scope="module")
def steered() -> list[Trial]:
    return list(trials(1, 1000, STEERED))


def opcodes(found: list[Trial]) -> Counter[str]:
    return Counter(trial.insn.form.opcode.text for trial in found if trial.insn.form)


def test_every_opcode_has_its_turn(many: list[Trial]) -> None:
    seen = opcodes(many)
    assert set(seen) >= set(KNOWN)
    assert len(KNOWN) == KNOWN_OPCODES and OTHER_OPCODES >= 80
    assert len(set(seen) - set(KNOWN)) == OTHER_OPCODES
    share = sum(count for text, count in seen.items() if text in KNOWN) / len(many)
    assert 0.6 < share < 0.8


def test_known_opcodes_come_first_in_a_short_run() -> None:
    assert set(opcodes(list(trials(7, 60, GROUND)))) >= set(KNOWN)


def test_operands_are_of_every_kind(many: list[Trial]) -> None:
    seen = Counter(trial.place for trial in many)
    assert set(seen) == {"device", "crossing", "user", "elsewhere"}
    assert min(seen.values()) >= 30
    heads = {trial.insn.code[0] for trial in many}
    assert heads >= {0x66, 0x67, 0x2E, 0x3E, 0x26, 0x36, 0xF2, 0xF3, *range(0x40, 0x50)}
    memories = [o for trial in many for o in trial.insn.operands if isinstance(o, Memory)]
    assert any(memory.rip_relative for memory in memories)
    assert {memory.scale for memory in memories if memory.index is not None} == {1, 2, 4, 8}
    crossing = [trial for trial in many if trial.place == "crossing"]
    assert all(trial.linear // 4096 != (trial.linear + trial.insn.width - 1) // 4096
               for trial in crossing)  # fmt: skip


def test_where_the_tables_are_looked_up_nothing_is_elsewhere(steered: list[Trial]) -> None:
    assert {trial.place for trial in steered} == {"device", "crossing", "user"}
    pages = STEERED.device // 4096, STEERED.user // 4096
    assert all(trial.linear // 4096 in pages for trial in steered)
    assert set(opcodes(steered)) >= set(KNOWN)
    assert len(set(opcodes(steered)) - set(KNOWN)) >= 80


def test_strings_are_moved_within_the_pages_that_there_are(steered: list[Trial]) -> None:
    moves = [it for it in steered if it.insn.form and it.insn.form.operation == "movs"]
    assert {it.place for it in moves} >= {"device", "user"}
    assert {it.cpu.gpr[RCX] for it in moves if it.insn.rep is not None} == {1, 2, 3}
    for trial in moves:
        count = 1 if trial.insn.rep is None else trial.cpu.gpr[RCX]
        size = trial.insn.width * count
        for begin in (trial.cpu.gpr[RSI], trial.cpu.gpr[RDI]):
            crossing = trial.place == "crossing" and begin == trial.cpu.gpr[RSI]
            assert begin // 4096 in (STEERED.user // 4096, STEERED.device // 4096)
            assert crossing or begin % 4096 + size <= 4096


def test_where_a_linear_address_is() -> None:
    assert STEERED.translate(STEERED.user + 0x123) == 0xFE00_1123
    assert STEERED.translate(STEERED.device + 0x123) == 0xFE00_1123
    assert GROUND.translate(0xFFFF_C900_0012_3456) == 0xFE02_3456


def test_no_guest_loses_its_stack(many: list[Trial]) -> None:
    for trial in many:
        target = trial.insn.operands[0]
        assert trial.cpu.gpr[RSP] == GROUND.stack
        if isinstance(target, Register) and target.file is File.GPR and target.number == RSP:
            assert target.width == 1


def test_each_profile_has_something_to_do(many: list[Trial]) -> None:
    for profile in PROFILES.values():
        outcomes = Counter(
            judge(profile, trial.insn, linear=trial.linear).outcome for trial in many
        )
        assert outcomes["emulated"] > 1000 and outcomes["oops"] > 700, profile.name


def test_a_seed_says_it_all() -> None:
    once, again = (list(trials(3, 100, GROUND)) for _ in range(2))
    assert once == again
    assert once[:20] == list(islice(trials(3, 1000, GROUND), 20))
    assert once != list(trials(4, 100, GROUND))
