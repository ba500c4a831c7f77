"""Any instruction, any handler: what it makes is the CPU's own, or the verdict says in what not."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from tracer.confidential.agreement import Made, compared, differing
from tracer.confidential.expectation import Came, differences, foretold
from tracer.confidential.handler import PROFILES
from tracer.confidential.request import Mmio
from tracer.confidential.trial import Ground, trials
from tracer.x86.decode import decode
from tracer.x86.state import Mode

PHYSICAL = 0xFE00_0000
GROUND = Ground(
    code=0xFFFF_FFFF_81C0_1000,
    stack=0xFFFF_C900_0000_3800,
    device=0xFFFF_C900_0010_0000,
    user=0x7F00_0000_0000,
    physical=PHYSICAL,
    span=1,
)
SEEDS = st.integers(0, (1 << 64) - 1)


@settings(deadline=None, max_examples=25)
@given(SEEDS, st.booleans())
def test_what_a_handler_makes_is_the_cpus_or_told(seed: int, steered: bool) -> None:
    for trial in trials(seed, 40, replace(GROUND, steered=steered)):
        assert decode(trial.insn.code, GROUND.code, Mode.LONG) == trial.insn
        operation = trial.insn.form.operation if trial.insn.form else ""
        for profile in PROFILES.values():
            expected = foretold(trial, profile)
            assert not expected.agreement.unforetold, (profile.name, trial.insn.text)
            emulated = expected.verdict.outcome == "emulated"
            if steered or operation not in ("movs", "ins", "outs"):
                assert (expected.handled is not None) == emulated, trial.insn.text


@settings(deadline=None, max_examples=25)
@given(SEEDS, st.integers(0, 15), st.integers(0, 63))
def test_a_bit_that_is_not_foretold_is_told(seed: int, register: int, bit: int) -> None:
    for trial in trials(seed, 20, GROUND):
        expected = foretold(trial, PROFILES["linux-tdx"])
        work = expected.handled
        if work is None:
            continue
        (wish,) = work.wishes
        asked = Mmio(wish.direction, wish.width, PHYSICAL, wish.value)
        good = Came((asked,), work.cpu)
        assert differences(trial, expected, good, GROUND.translate) == []
        gpr = list(work.cpu.gpr)
        gpr[register] ^= 1 << bit
        worse = [
            replace(good, cpu=replace(work.cpu, gpr=tuple(gpr))),
            replace(good, asked=(replace(asked, physical=PHYSICAL ^ 1 << bit),)),
            replace(good, asked=(replace(asked, width=asked.width + 1),)),
            Came((), None),
        ]
        if wish.value is not None and wish.known >> bit & 1:
            worse.append(replace(good, asked=(replace(asked, value=wish.value ^ 1 << bit),)))
        assert all(differences(trial, expected, came, GROUND.translate) for came in worse)


@settings(deadline=None, max_examples=25)
@given(SEEDS)
def test_what_is_asked_agrees_as_foretold(seed: int) -> None:
    """The verdict on one hypercall says the same as the one on the whole trial."""
    for trial in trials(seed, 40, GROUND):
        expected = foretold(trial, PROFILES["linux-tdx"])
        work = expected.handled
        if work is None:
            continue
        (wish,) = work.wishes
        value = wish.value
        made = Made(wish.direction, wish.width, PHYSICAL, value)
        asked = Mmio(wish.direction, wish.width, PHYSICAL, value)
        assert not differing(made, asked)
        other = replace(asked, value=None if value is None else value ^ 1)
        found = compared(differing(made, other), expected.verdict)
        assert (not found.unforetold) == (value is None or "value" in expected.verdict.differs)
