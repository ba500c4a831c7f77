"""`vetrace registers`: what is known of a register, and of none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tracer.cli import main

Output = pytest.CaptureFixture[str]

EDU = """
title = "A device"
specification = "Its manual"
applies = [{ region = "nvme" }, { qemu = "edu-mmio" }]

[register.CC]
offset = 0x8
access = "rw1c"
section = "3.4"
description = "What it is"
[register.CC.fields]
GO = { bits = 0, description = "Begin" }
MODE = { bits = "5:4", values = { 0 = "slow", 3 = "fast" } }
LEVEL = "15:8"
"""


def told(capsys: Output, *arguments: str) -> list[str]:
    assert main.main(["registers", *arguments]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out.splitlines()


def objects(capsys: Output, *arguments: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in told(capsys, *arguments, "--json")]


@pytest.fixture
def edu(tmp_path: Path) -> str:
    path = tmp_path / "edu.toml"
    path.write_text(EDU)
    return str(path)


@pytest.mark.parametrize("name", ["edu.CC", "edu-mmio.cc", "nvme.CC", "edu+0x8"])
def test_a_register_is_told_in_full(edu: str, capsys: Output, name: str) -> None:
    lines = told(capsys, name, "--registers", edu)
    region = name.partition(".")[0].partition("+")[0]
    assert lines == [
        f"register   {region}.CC",
        f"place      {region}+0x8, 4 bytes",
        "is         What it is",
        "access     read and written; a 1 clears its bit",
        "specified  Its manual, 3.4",
        "15:8  LEVEL",
        "5:4   MODE   0 slow, 3 fast",
        "0     GO     Begin",
    ]


def test_a_register_as_json(edu: str, capsys: Output) -> None:
    assert objects(capsys, "edu.CC", "--registers", edu) == [{
        "region": "edu", "register": "CC", "offset": "0x8", "repeats": [], "selector": None,
        "bank": None, "width": 4, "access": "rw1c", "description": "What it is",
        "specification": "Its manual", "section": "3.4",
        "fields": [
            {"name": "GO", "bits": "0", "description": "Begin", "values": {}},
            {"name": "MODE", "bits": "5:4", "description": "",
             "values": {"0": "slow", "3": "fast"}},
            {"name": "LEVEL", "bits": "15:8", "description": "", "values": {}},
        ],
        "device": "A device", "source": edu,
    }]  # fmt: skip


def test_of_several_registers_each_has_a_line(capsys: Output) -> None:
    lines = told(capsys, "hpet")
    assert lines[0].split() == ["place", "bytes", "access", "register", "what", "it", "is"]
    (row,) = [line for line in lines if "TIMER[*].CONFIG" in line]
    assert row.split()[:4] == ["hpet+0x100", "8", "rw", "TIMER[*].CONFIG"]
    found = [each["register"] for each in objects(capsys, "hpet.TIMER*CO*")]
    assert found == ["TIMER[*].CONFIG", "TIMER[*].COMPARATOR"]


def test_an_array_and_a_window_say_so(tmp_path: Path, capsys: Output) -> None:
    assert "repeats    every 0x20 bytes, 32 times" in told(capsys, "hpet.TIMER[*].CONFIG")
    own = tmp_path / "own.toml"
    own.write_text('applies = [{ region = "own" }]\n[register.A]\noffset = 0\nstride = 8\n')
    lines = told(capsys, "own.A[*]", "--registers", str(own))
    assert "repeats   every 0x8 bytes, to the end of the region" in lines
    assert "shown      while IOREGSEL.INDEX is 0x1" in told(capsys, "ioapic.VER")
    (found,) = objects(capsys, "own.A[*]", "--registers", str(own))
    assert found["repeats"] == [{"stride": "0x8", "count": None}]
    (found,) = objects(capsys, "ioapic.VER")
    assert (found["selector"], found["bank"]) == ("IOREGSEL.INDEX", 1)


def test_without_a_name_the_maps_are_listed(edu: str, capsys: Output) -> None:
    lines = told(capsys, "--registers", edu)
    assert lines[0].split() == ["map", "registers", "of", "specified"]
    assert lines[1].split() == ["edu", "1", "A", "device", "Its", "manual"]
    found = objects(capsys, "--registers", edu)
    assert [each["map"] for each in found][:2] == ["edu", "ahci"]
    assert found[0]["applies"] == [
        {"region": "nvme", "qemu_name": None, "device": None},
        {"region": None, "qemu_name": "edu-mmio", "device": None},
    ]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["nvme.CCC"], "nvme has no register CCC; did you mean CC?"),
        (["CSTSS"], "no register is called CSTSS; did you mean CSTS?"),
        (["nvem"], "no register is called nvem; did you mean nvme?"),
        (["nvme+0xfff"], "nvme has no register at offset 0xfff"),
        ([""], "name a register: CC, nvme.CC, or nvme+0x14"),
        (["CC", "--registers", "/no/such.toml"], "cannot read /no/such.toml: No such file or"
         " directory; look at its name"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_status_2(arguments: list[str], error: str, capsys: Output) -> None:
    assert main.main(["registers", *arguments]) == 2
    assert capsys.readouterr() == ("", f"vetrace: {error}\n")


@pytest.mark.parametrize("name", ["nvme.CC", "hpet", "ioapic.REDTBL[*].LOW"])
def test_lines_fit_the_terminal(name: str, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("NO_COLOR", "1")
    assert max(len(line) for line in told(capsys, name)) <= 60
