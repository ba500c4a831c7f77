"""Findings of trials on a guest's own handler: counts, and every disagreement."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tracer.confidential.expectation import Came, Expected, differences
from tracer.confidential.handler import Profile
from tracer.confidential.trial import Place, Trial
from tracer.text.printable import printable
from tracer.x86.state import GPR


@dataclass(frozen=True, slots=True)
class Finding:
    """Hold a trial in which something came that was not foretold, and what, in words."""

    trial: Trial
    expected: Expected
    came: Came
    differences: tuple[str, ...]


class Findings:
    """Collect what came of each trial; one handler is asked, and held to one profile.

    ``carried_out`` and ``rejected`` count what the handler did. Of the former ``unlike`` have
    another result than the CPU's, as was foretold, and ``alike`` the same, though another one was
    foretold: the values happened to be equal.
    """

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.carried_out = 0
        self.rejected = 0
        self.unlike = 0
        self.alike = 0
        self.opcodes: Counter[str] = Counter()
        self.places: Counter[Place] = Counter()
        self.found: list[Finding] = []

    @property
    def tried(self) -> int:
        """Return how many trials there were."""
        return self.carried_out + self.rejected

    @property
    def agrees(self) -> bool:
        """Return whether all came as foretold; a handler that nothing was tried on does not."""
        return self.tried > 0 and not self.found

    def add(
        self, trial: Trial, expected: Expected, came: Came, physical: Callable[[int], int]
    ) -> Finding | None:
        """Count a trial; return what was not foretold of it, None where everything was.

        ``physical`` tells where a linear address is, as the guest was told.
        """
        if came.cpu is None:
            self.rejected += 1
        else:
            self.carried_out += 1
        self.opcodes[trial.insn.form.opcode.text if trial.insn.form else "?"] += 1
        self.places[trial.place] += 1
        told = differences(trial, expected, came, physical)
        if told:
            finding = Finding(trial, expected, came, tuple(told))
            self.found.append(finding)
            return finding
        if came.cpu is not None and expected.verdict.note:
            if expected.agreement.agrees:
                self.alike += 1
            else:
                self.unlike += 1
        return None


def lines(findings: Findings, seed: int) -> list[str]:
    """Return the findings in lines for people, the disagreements first."""
    told = [line for finding in findings.found for line in _finding(finding)]
    counts = (
        f"{findings.tried:,} instructions of {len(findings.opcodes):,} opcodes, seed {seed}: "
        f"{findings.carried_out:,} carried out, {findings.rejected:,} rejected"
    )
    told.append(counts)
    if findings.unlike or findings.alike:
        told.append(
            f"{findings.unlike:,} results are not the CPU's, as foretold; "
            f"of {findings.alike:,} more that could differ, the values were equal"
        )
    name = findings.profile.name
    many = len(findings.found)
    told.append(
        f"the handler agrees with {name}"
        if findings.agrees
        else f"the handler disagrees with {name} in {many:,} of {findings.tried:,}"
        if many
        else f"nothing was tried, so nothing can be said of {name}"
    )
    return told


def findings_object(findings: Findings, seed: int) -> dict[str, Any]:
    """Return the findings ready for JSON; numbers that may exceed 2^53 are hex strings."""
    return {
        "profile": findings.profile.name,
        "seed": seed,
        "tried": findings.tried,
        "opcodes": len(findings.opcodes),
        "carried_out": findings.carried_out,
        "rejected": findings.rejected,
        "unlike_the_cpu": findings.unlike,
        "alike_though_noted": findings.alike,
        "places": {place: findings.places[place] for place in sorted(findings.places)},
        "agrees": findings.agrees,
        "disagreements": [_object(finding) for finding in findings.found],
    }


def _finding(finding: Finding) -> list[str]:
    trial = finding.trial
    head = (
        f"{trial.number}: {printable(trial.insn.text)} ({trial.insn.code.hex(' ')}), "
        f"{trial.place} {trial.linear:#x}, {finding.expected.verdict.outcome}"
    )
    return [head, *(f"    {words}" for words in finding.differences)]


def _object(finding: Finding) -> dict[str, Any]:
    trial, came = finding.trial, finding.came
    return {
        "number": trial.number,
        "bytes": trial.insn.code.hex(),
        "text": trial.insn.text,
        "place": trial.place,
        "linear": hex(trial.linear),
        "outcome": finding.expected.verdict.outcome,
        "reason": finding.expected.verdict.reason,
        "note": finding.expected.verdict.note or None,
        "carried_out": came.cpu is not None,
        "asked": [
            {
                "direction": asked.direction,
                "width": asked.width,
                "physical": hex(asked.physical),
                "value": None if asked.value is None else hex(asked.value),
            }
            for asked in came.asked
        ],
        "registers": {name: hex(value) for name, value in zip(GPR, trial.cpu.gpr, strict=True)},
        "differences": list(finding.differences),
    }
