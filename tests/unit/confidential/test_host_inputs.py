"""What a guest reads of its host, by the code that reads it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trace_sample as sample
from msgspec.structs import replace

from tracer.cli.main import main
from tracer.confidential.host_inputs import HostInputs
from tracer.devices import library
from tracer.trace.event import Events, Everything
from tracer.trace.naming import Naming
from tracer.trace.record import Record

Output = pytest.CaptureFixture[str]

EFER, MTRR = 0xC0000080, 0x2FF


def cpuid(seq: int, leaf: int, subleaf: int = 0) -> Record:
    return sample.inputs(seq, *sample.cpuid(leaf, subleaf), text="cpuid", symbol="native_cpuid+0xf")


RECORDS: list[Record] = [
    sample.region("nvme"),
    sample.ports("serial"),
    sample.intercept(0, sample.device("nvme", 0x1C, 4, "read", 1)),
    sample.intercept(1, sample.device("nvme", 0x14, 4, "write", 1), symbol="writes+0x1"),
    sample.intercept(2, sample.ram(4, "read", 7), sample.device("nvme", 0, 8, "read", 1)),
    sample.inputs(3, sample.port(0x3FD, 1, "read", 0x60)),
    sample.inputs(4, sample.port(0x3F8, 1, "write", 65), symbol="outb+0x1"),
    sample.inputs(5, sample.port(0x3FD, 1, "read", 0x60)),
    sample.inputs(6, sample.port(0x80, 1, "read", 0), symbol="probe+0x2 [mod]"),
    sample.inputs(7, sample.msr(EFER, "read", 1), text="rdmsr", symbol="rdmsr+0x1"),
    sample.inputs(8, sample.msr(MTRR, "read", 1), text="rdmsr", symbol="rdmsr+0x1"),
    sample.inputs(9, sample.msr(EFER, "write", 1), text="wrmsr", symbol="wrmsr+0x1"),
    cpuid(10, 1),
    cpuid(14, 7, 1),
    cpuid(18, 7, 1),
    sample.inputs(22, sample.tsc(5), text="rdtsc", symbol=None),
    sample.inputs(23, replace(sample.msr(1, "read", None), skipped=True), symbol="raised+0x1"),
    sample.end(24),
]
"""Reads in every space, among what is no input: writes, RAM, what was never read."""


def counted(*records: Record) -> HostInputs:
    found = HostInputs()
    events = Events(Everything(Naming(library.load())))
    for record in records or RECORDS:
        found.add(record, events.add(record))
    return found


def test_reads_are_counted_by_space_and_call_site() -> None:
    assert [(site.space, site.name, site.texts, site.accesses) for site in counted().sites] == [
        ("memory", "nvme_pci_enable+0x5e", ["nvme.CAP", "nvme.CSTS"], 2),
        ("port", "inb+0x1", ["0x3fd LSR"], 2),
        ("port", "probe+0x2 [mod]", ["0x80 POST"], 1),
        ("msr", "rdmsr+0x1", ["0x2ff MTRR_DEF_TYPE", "0xc0000080 EFER"], 2),
        ("cpuid", "native_cpuid+0xf", ["0x7.1", "0x1.0"], 12),
        ("tsc", "0xffffffff81234567", ["TSC"], 1),
    ]
    assert counted().totals() == [
        ("memory", 1, 2), ("port", 2, 3), ("msr", 1, 2), ("cpuid", 1, 12), ("tsc", 1, 1),
    ]  # fmt: skip


def test_what_is_read_without_a_name_goes_by_its_place() -> None:
    found = counted(
        sample.intercept(0, sample.device("nvme", 0xF00, 4, "read", 1)),
        sample.inputs(1, sample.port(0x5658, 4, "read", 1)),
        sample.inputs(2, sample.msr(0x12345, "read", 1)),
    )
    assert [site.texts for site in found.sites] == [["nvme+0xf00"], ["0x5658 port"], ["0x12345"]]


def test_one_site_may_read_several_spaces_and_one_place_be_of_several_symbols() -> None:
    access = sample.tsc(1)
    found = counted(
        sample.inputs(0, access, symbol="a+0x1"), sample.inputs(1, access, symbol="b+0x1"),
        sample.inputs(2, sample.msr(0x10, "read", 1), symbol="a+0x1"),
    )  # fmt: skip
    told = [(site.space, site.name) for site in found.sites]
    assert told == [("msr", "a+0x1"), ("tsc", "a+0x1"), ("tsc", "b+0x1")]


def test_records_that_are_alike_are_told_once() -> None:
    found, events = HostInputs(), Events(Everything())
    record = RECORDS[5]
    found.add(record, events.add(record), times=1000)
    assert found.sites[0].accesses == 1000


# --- the command -----------------------------------------------------------------------------


def run(tmp_path: Path, *arguments: str, records: list[Record] = RECORDS) -> int:
    path = sample.write(tmp_path / "a.vtrace", records)
    return main(["audit", str(path), "--host-inputs", *arguments])


def test_a_line_a_call_site_and_totals(tmp_path: Path, capsys: Output) -> None:
    assert run(tmp_path) == 0
    out, error = capsys.readouterr()
    rows = [line.split() for line in out.splitlines()]
    assert ["port", "inb+0x1", "0x3fd", "LSR", "2"] in rows
    assert ["cpuid", "native_cpuid+0xf", "0x7.1,", "0x1.0", "12"] in rows
    assert ["tsc", "0xffffffff81234567", "TSC", "1"] in rows
    assert rows[-6:] == [
        line.split()
        for line in (
            "memory: 2 reads from 1 call site", "port: 3 reads from 2 call sites",
            "msr: 2 reads from 1 call site", "cpuid: 12 reads from 1 call site",
            "tsc: 1 read from 1 call site", "all: 20 reads from 6 call sites",
        )
    ]  # fmt: skip
    assert error == ""


def test_a_limit_is_of_each_space_and_many_reads_are_cut(tmp_path: Path, capsys: Output) -> None:
    many: list[Record] = [cpuid(4 * number, 0x1000 + number) for number in range(300)]
    ports: list[Record] = [
        sample.inputs(1200 + number, sample.port(0x80, 1, "read", 0), symbol=f"f{number}+0x1")
        for number in range(3)
    ]
    assert run(tmp_path, "--limit", "2", records=[*many, *ports, sample.end(1203)]) == 0
    lines = capsys.readouterr().out.splitlines()
    (port,) = [line.split() for line in lines if "1 more" in line and "port" in line]
    assert port == ["port", "…", "1", "more", "1"]
    assert sum(line.split()[:1] == ["port"] for line in lines) == 3
    (leaves,) = [line for line in lines if "native_cpuid" in line]
    assert "0x1000.0, " in leaves and " more  " in leaves and leaves.rstrip().endswith("1,200")
    assert all(len(line) <= 240 for line in lines)


def test_json_has_all_of_it(tmp_path: Path, capsys: Output) -> None:
    assert run(tmp_path, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert [site["space"] for site in told["host_inputs"]] == [
        "memory", "port", "port", "msr", "cpuid", "tsc",
    ]  # fmt: skip
    module = told["host_inputs"][2]
    assert (module["function"], module["module"]) == ("probe", "mod")
    assert module["reads"] == [
        {"region": "port", "offset": "0x80", "register": "POST", "port": "0x80", "accesses": 1}
    ]
    leaves = told["host_inputs"][4]
    assert [(read["leaf"], read["subleaf"], read["accesses"]) for read in leaves["reads"]] == [
        ("0x7", 1, 8), ("0x1", 0, 4),
    ]  # fmt: skip
    assert {read["msr"] for read in told["host_inputs"][3]["reads"]} == {hex(EFER), hex(MTRR)}
    assert told["totals"][0] == {"space": "memory", "call_sites": 1, "accesses": 2}
    assert "damage" in told and "unknown_records" in told


def test_filters_choose_what_is_listed(tmp_path: Path, capsys: Output) -> None:
    assert run(tmp_path, "--json", "--if", "space == msr and msr == 0xc0000080") == 0
    (site,) = json.loads(capsys.readouterr().out)["host_inputs"]
    assert (site["space"], site["accesses"]) == ("msr", 1)
    assert run(tmp_path, "--region", "serial") == 0
    assert "all: 2 reads from 1 call site\n" in capsys.readouterr().out


def test_a_trace_of_memory_alone_says_so(tmp_path: Path, capsys: Output) -> None:
    assert run(tmp_path, records=sample.RECORDS) == 0
    assert "it may be of memory alone" in capsys.readouterr().err
    assert run(tmp_path, records=[sample.end(0)]) == 0
    assert capsys.readouterr() == ("nothing is read of the host\n", "")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["x", "--host-inputs", "--live"], "--host-inputs is of a trace, and --live reads none"),
        (["x", "--host-inputs", "--profile", "all"], "--host-inputs judges no handler"),
        (["x", "--host-inputs", "--write"], "no write is an input of the host's"),
        (["--host-inputs"], "give a TRACE"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(words: list[str], told: str, capsys: Output) -> None:
    assert main(["audit", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line
