"""Findings of trials are told to people and to programs."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tracer.confidential.expectation import Came, Expected, foretold
from tracer.confidential.findings import Findings, findings_object, lines
from tracer.confidential.handler import PROFILES
from tracer.confidential.request import Mmio
from tracer.confidential.trial import Ground, Trial, trials

PHYSICAL = 0xFE00_0000
GROUND = Ground(
    code=0xFFFF_FFFF_81C0_1000,
    stack=0xFFFF_C900_0000_3800,
    device=0xFFFF_C900_0010_0000,
    user=0x7F00_0000_0000,
    physical=PHYSICAL,
    span=1,
)
TDX = PROFILES["linux-tdx"]


def came(expected: Expected) -> Came:
    work = expected.handled
    if work is None:
        return Came((), None)
    (wish,) = work.wishes
    return Came((Mmio(wish.direction, wish.width, PHYSICAL, wish.value),), work.cpu)


def collected(count: int = 300, *, worse: int | None = None) -> Findings:
    """Try so many on a handler that does as foretold; but for one, of which it asks too much."""
    findings = Findings(TDX)
    for trial in trials(5, count, GROUND):
        expected = foretold(trial, TDX)
        result = came(expected)
        if trial.number == worse:
            asked = tuple(replace(asked, width=16) for asked in result.asked)
            result = replace(result, asked=asked)
        findings.add(trial, expected, result, GROUND.translate)
    return findings


@pytest.fixture
def emulated() -> Trial:
    return next(
        trial for trial in trials(5, 300, GROUND) if foretold(trial, TDX).handled is not None
    )


def test_a_handler_that_does_as_foretold_agrees() -> None:
    findings = collected()
    assert findings.agrees and findings.tried == 300 == sum(findings.opcodes.values())
    assert findings.carried_out > 100 and findings.rejected > 50
    assert 0 < findings.unlike < findings.carried_out
    *_, counts, unlike, end = lines(findings, 5)
    assert counts.startswith("300 instructions of ") and ", seed 5: " in counts
    assert unlike.startswith(f"{findings.unlike} results are not the CPU's, as foretold")
    assert end == "the handler agrees with linux-tdx"


def test_a_disagreement_is_told_with_all_it_takes_to_see_it(emulated: Trial) -> None:
    findings = collected(worse=emulated.number)
    assert not findings.agrees
    (finding,) = findings.found
    assert finding.trial == emulated
    head, difference, *_, end = lines(findings, 5)
    assert head.startswith(
        f"{emulated.number}: {emulated.insn.text} ({emulated.insn.code[:1].hex()}"
    )
    assert difference.startswith("    width 16, not ")
    assert end == "the handler disagrees with linux-tdx in 1 of 300"
    told = json.loads(json.dumps(findings_object(findings, 5)))
    assert told["agrees"] is False and told["tried"] == 300
    (one,) = told["disagreements"]
    assert one["bytes"] == emulated.insn.code.hex() and one["asked"][0]["width"] == 16
    assert one["registers"]["rsp"] == hex(GROUND.stack)
    assert one["differences"] == [difference.strip()]


def test_nothing_tried_is_no_agreement() -> None:
    findings = Findings(TDX)
    assert not findings.agrees
    assert lines(findings, 1)[-1] == "nothing was tried, so nothing can be said of linux-tdx"
    assert findings_object(findings, 1)["agrees"] is False
