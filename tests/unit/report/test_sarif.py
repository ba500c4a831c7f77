"""SARIF of an audit, against its schema.

The schema in tests/data is that of Microsoft's jest-sarif (MIT).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trace_sample as sample
from msgspec.structs import replace

from tracer.cli import main
from tracer.trace.record import Record

jsonschema = pytest.importorskip("jsonschema")
Output = pytest.CaptureFixture[str]
SCHEMA = Path(__file__).parents[2] / "data" / "sarif-2.1.0-rtm.5.json"


def sites() -> list[Record]:
    """A trace with an instruction that oopses, one with another result, and a plain one."""
    atomic = replace(
        sample.intercept(
            0, sample.device("nvme", 0x14, 4, "read", 0),
            sample.device("nvme", 0x14, 4, "write", 1),
            text="lock or dword ptr [rax], 1", symbol="bad_driver+0x5 [a \x1b]",
        ),
        code=bytes.fromhex("f0830801"),
    )  # fmt: skip
    extended = replace(
        sample.intercept(
            2, sample.device("nvme", 0x1C, 1, "read", 1), text="movzx eax, byte ptr [rax]",
            symbol="odd_driver+0x8",
        ),
        code=bytes.fromhex("0fb600"),
    )  # fmt: skip
    plain = sample.intercept(3, sample.device("nvme", 0x1C, 4, "read", 1))
    return [sample.region("nvme"), atomic, extended, plain, sample.end(4)]


def audited(tmp_path: Path, capsys: Output, *more: str) -> tuple[int, dict[str, Any]]:
    path = sample.write(tmp_path / "run 1%.vtrace", sites())
    status = main.main(["audit", str(path), "--sarif", *more])
    log: dict[str, Any] = json.loads(capsys.readouterr().out)
    jsonschema.validate(log, json.loads(SCHEMA.read_text()))
    return status, log


def test_what_would_not_survive_is_a_result(tmp_path: Path, capsys: Output) -> None:
    status, log = audited(tmp_path, capsys)
    assert status == 3
    (run,) = log["runs"]
    told = [(each["ruleId"], each["level"], each["occurrenceCount"]) for each in run["results"]]
    assert told == [("oops", "error", 2), ("differs", "warning", 1)]
    rules = run["tool"]["driver"]["rules"]
    assert all(rules[each["ruleIndex"]]["id"] == each["ruleId"] for each in run["results"])
    first, second = run["results"]
    assert first["message"]["text"].startswith("a \\x1b:bad_driver+0x5: lock or dword ptr")
    place = second["locations"][0]
    assert place["logicalLocations"][0]["name"] == "odd_driver"
    assert place["physicalLocation"]["artifactLocation"]["uri"] == "vmlinuz"
    assert place["physicalLocation"]["address"]["offsetFromParent"] == 8
    assert run["properties"]["callSites"] == 3
    assert run["artifacts"][0]["location"]["uri"].endswith("/run%201%25.vtrace")


def test_code_without_a_symbol_is_in_no_kernel(tmp_path: Path, capsys: Output) -> None:
    (region, atomic, *_), path = sites(), tmp_path / "run.vtrace"
    sample.write(path, [region, replace(atomic, symbol=None), sample.end(2)])
    assert main.main(["audit", str(path), "--sarif"]) == 3
    log = json.loads(capsys.readouterr().out)
    jsonschema.validate(log, json.loads(SCHEMA.read_text()))
    (place,) = log["runs"][0]["results"][0]["locations"]
    assert place["physicalLocation"]["artifactLocation"]["uri"].endswith("/run.vtrace")
    assert "logicalLocations" not in place
    assert main.main(["audit", str(path)]) == 3
    (row,) = (line for line in capsys.readouterr().out.splitlines() if " 2 " in line)
    assert row.split()[2:4] == ["0xffffffff81234567", "lock"], "which module is not known"


def test_each_profile_is_a_run(tmp_path: Path, capsys: Output) -> None:
    _, log = audited(tmp_path, capsys, "--profile", "all")
    names = [run["automationDetails"]["id"] for run in log["runs"]]
    assert len(names) == len(set(names)) > 3 and "vetrace-audit/linux-sev" in names


def test_a_trace_with_nothing_to_tell_is_a_log_too(tmp_path: Path, capsys: Output) -> None:
    status, log = audited(tmp_path, capsys, "--symbol", "nvme_pci_enable")
    assert status == 0 and log["runs"][0]["results"] == []


@pytest.mark.parametrize("more", [("--json",), ("--host-inputs",)])
def test_one_shape_at_a_time(tmp_path: Path, more: tuple[str, ...]) -> None:
    path = sample.write(tmp_path / "run.vtrace", sites())
    assert main.main(["audit", str(path), "--sarif", *more]) == 2
