"""`vetrace allow-list`: what of a device is used, in one trace or several."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import trace_sample as sample

from tracer.cli import main
from tracer.trace.allowed import MOST_VALUES
from tracer.trace.record import Record

Output = pytest.CaptureFixture[str]


def listed(capsys: Output, *arguments: str | Path) -> dict[str, Any]:
    """Return a list, which is the same as TOML and as JSON but for how numbers are written."""
    words = [str(argument) for argument in arguments]
    assert main.main(["allow-list", *words]) == 0, capsys.readouterr().err
    told = tomllib.loads(capsys.readouterr().out)
    assert main.main(["allow-list", *words, "--json"]) == 0
    assert numbers(json.loads(capsys.readouterr().out)) == numbers(told)
    return told


def numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: numbers(each) for name, each in value.items()}
    if isinstance(value, list):
        return [numbers(each) for each in value]
    return int(value, 16) if isinstance(value, str) and value.startswith("0x") else value


def writes(values: list[int | None], first: int = 0, symbol: str = "f+0x1") -> list[Record]:
    return [
        sample.intercept(first + n, sample.device("nvme", 0x14, 4, "write", value), symbol=symbol)
        for n, value in enumerate(values)
    ]


def trace(path: Path, *records: Record) -> Path:
    count = len(records)
    return sample.write(path, [sample.region("nvme"), *records, sample.end(count)])


def test_an_entry_is_a_place_and_a_way_to_access_it(tmp_path: Path, capsys: Output) -> None:
    path = sample.write(tmp_path / "run.vtrace")
    told = listed(capsys, path)
    assert told["traces"] == [str(path)] and told["accesses"] == 5
    assert [each for each in told["allow"] if each["region"] == "nvme"] == [
        {
            "region": "nvme", "offset": 0x14, "register": "CC", "direction": "write", "width": 4,
            "accesses": 1, "values": [0x460001], "sites": ["nvme_enable_ctrl+0x10"],
        },
        {
            "region": "nvme", "offset": 0x1C, "register": "CSTS", "direction": "read", "width": 4,
            "accesses": 1, "values": [1], "sites": ["nvme_pci_enable+0x5e"],
        },
    ]  # fmt: skip
    (hidden,) = (each for each in told["allow"] if each["region"] == "lapic")
    assert (hidden["hidden"], hidden["values"]) == (1, [])
    assert hidden["sites"] == ["0xffffffff81234567"]


def test_few_values_are_told_and_many_by_their_bits(tmp_path: Path, capsys: Output) -> None:
    few = trace(tmp_path / "few", *writes([*range(MOST_VALUES), 3, None]))
    (entry,) = listed(capsys, few)["allow"]
    assert entry["values"] == list(range(MOST_VALUES)) and "bits" not in entry
    assert (entry["accesses"], entry["hidden"]) == (MOST_VALUES + 2, 1)
    many = trace(tmp_path / "many", *writes([0x100 + 4 * n for n in range(MOST_VALUES + 1)]))
    (entry,) = listed(capsys, many)["allow"]
    assert "values" not in entry
    assert (entry["first"], entry["last"], entry["bits"]) == (0x100, 0x140, 0x17C)


def test_several_traces_are_merged(tmp_path: Path, capsys: Output) -> None:
    one = trace(tmp_path / "one", *writes([1, 2], symbol="f+0x1"))
    other = trace(tmp_path / "other", *writes([2, 3], symbol="g+0x2 [nvme]"))
    told = listed(capsys, one, other)
    assert told["traces"] == [str(one), str(other)] and told["accesses"] == 4
    (entry,) = told["allow"]
    assert (entry["accesses"], entry["values"]) == (4, [1, 2, 3])
    assert entry["sites"] == ["f+0x1", "g+0x2 [nvme]"]


def test_widths_and_directions_are_apart(tmp_path: Path, capsys: Output) -> None:
    path = trace(
        tmp_path / "run",
        sample.intercept(0, sample.device("nvme", 0x14, 4, "read", 1)),
        sample.intercept(1, sample.device("nvme", 0x14, 4, "write", 1)),
        sample.intercept(2, sample.device("nvme", 0x14, 1, "read", 1)),
    )
    told = [(each["direction"], each["width"]) for each in listed(capsys, path)["allow"]]
    assert told == [("read", 1), ("read", 4), ("write", 4)]
    assert len(listed(capsys, path, "--write")["allow"]) == 1


def test_inputs_have_their_numbers(tmp_path: Path, capsys: Output) -> None:
    records: list[Record] = [
        sample.ports("serial"),
        sample.inputs(0, sample.port(0x3FD, 1, "read", 0x60)),
        sample.inputs(1, sample.msr(0xC0000080, "write", 1 << 63), text="wrmsr"),
        sample.inputs(2, *sample.cpuid(7, 1), text="cpuid"),
        sample.end(6),
    ]
    told = listed(capsys, sample.write(tmp_path / "run", records))["allow"]
    by = {each["space"]: each for each in told}
    assert (by["port"]["port"], by["port"]["region"]) == (0x3FD, "serial")
    assert by["msr"]["msr"] == 0xC0000080
    assert by["msr"]["values"] == ["0x8000000000000000"]  # no reader of TOML has to take it bare
    assert (by["cpuid"]["leaf"], by["cpuid"]["subleaf"]) == (7, 1)


def test_a_name_that_no_trace_has_is_refused(tmp_path: Path, capsys: Output) -> None:
    one, other = trace(tmp_path / "one", *writes([1])), sample.write(tmp_path / "other")
    assert main.main(["allow-list", str(one), str(other), "--region", "hpet"]) == 0
    assert 'region = "hpet"' in capsys.readouterr().out
    assert main.main(["allow-list", str(one), "--region", "hpet"]) == 2
    assert "no region" in capsys.readouterr().err
    assert main.main(["allow-list", str(one), str(other), "--region", "nosuch"]) == 2
    assert main.main(["allow-list", "-", "-"]) == 2
    assert main.main(["allow-list", str(tmp_path / "none")]) == 1


def test_what_is_missing_of_a_trace_is_told(tmp_path: Path, capsys: Output) -> None:
    path = sample.write(tmp_path / "cut", [sample.region("nvme"), *writes([1])])
    assert main.main(["allow-list", str(path)]) == 0
    assert "there is no end record" in capsys.readouterr().err
