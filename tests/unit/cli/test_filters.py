"""The filters that show, stats, diff and export share."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trace_sample as sample

from tracer.cli import main
from tracer.devices import library
from tracer.query.sieve import Sieve
from tracer.query.words import Selection, Words, choose
from tracer.trace.phase import DECOMPRESSOR, EARLY, KERNEL, USER, PhaseTracker
from tracer.trace.record import Intercept, MapRecord, Mark, Record

Output = pytest.CaptureFixture[str]


def chosen(selection: Selection, records: list[Record] = sample.RECORDS) -> list[int]:
    sieve = Sieve(selection, library.load())
    return [seq for record in records for seq, _ in sieve.wanted(record)]


@pytest.mark.parametrize(
    ("words", "long", "numbers"),
    [
        ({"offset": "0x14-0x17"}, "offset touches 0x14..0x17", [1]),
        ({"offset": 0xF7}, "offset touches 0xf7..0xf7", [3]),
        ({"offset": "0x0-0x14"}, "offset touches ..0x14", [1, 2]),
        ({"value": "0x460001"}, "value == 0x460001", [1]),
        ({"value": "0x1/0xf"}, "value & 0xf == 1", [0, 1]),
        ({"value": "0/0"}, "value & 0 == 0", [0, 1, 2, 3]),
        ({"vcpu": 0}, "vcpu == 0", [0, 1, 2, 3, 4]),
        ({"vcpu": 1}, "vcpu == 1", []),
        ({"time": "0.214318001-0.214318002"}, "time in 214318001ns..214318002ns", [1, 2]),
        ({"time": "0.214318003-"}, "time >= 0.214318003s", [3, 4]),
        ({"time": "-"}, "true", [0, 1, 2, 3, 4]),
        ({"phase": "kernel"}, "phase == kernel", [0, 1, 2, 3, 4]),
        ({"phase": "k*", "region": "hpet"}, "phase ~ k* and region == hpet", [3]),
        ({"phase": "early"}, "phase is early", []),
        ({"region": "nvme"}, "region is nvme", [0, 1, 2]),
        ({"region": "nvme", "read": True}, "region is nvme and direction == read", [0]),
        ({"region": ("hpet", "lapic")}, "region is hpet or region is lapic", [3, 4]),
        (
            {"region": ["hpet", "nvme"], "write": True},
            "region ~ nvme* and direction == write",
            [1, 2],
        ),
        ({"value": ["1", 0x460001]}, "value == 1 or value == 0x460001", [0, 1]),
        ({"write": True}, "direction == write", [1, 2]),
        ({"register": "nvme.c*"}, "register is nvme.c*", [0, 1]),
        ({"register": "CC"}, "register == CC", [1]),
        ({"symbol": "read_hpet"}, "function == read_hpet", [3]),
        ({"symbol": "nvme_*"}, "symbol is nvme_*", [0, 1]),
        ({"changes": True}, "changes", [0, 1, 2, 3, 4]),
        ({"from_mark": "kernel entry"}, 'mark in "kernel entry"..', [0, 1, 2, 3, 4]),
        ({"to_mark": "kernel entry"}, 'mark in .."kernel entry"', []),
    ],
)
def test_every_filter_is_short_for_a_condition(words: Words, long: str, numbers: list[int]) -> None:
    assert chosen(choose(**words)) == chosen(choose(long)) == numbers


def test_of_a_filter_that_is_given_again_each_will_do(capsys: Output, tmp_path: Path) -> None:
    path = str(sample.write(tmp_path / "run.vtrace"))
    words = ("--region", "hpet", "--region", "lapic", "--offset", "0xf0", "--offset", "0x20")
    assert main.main(["show", path, "--json", *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["seq"] for line in lines] == [3, 4]


def test_changes_are_told_per_place_and_direction() -> None:
    values = [(0, 1), (4, 1), (0, 1), (0, 2), (0, 2), (4, 1), (0, 1)]
    records: list[Record] = [
        sample.intercept(seq, sample.device("nvme", offset, 4, "read", value))
        for seq, (offset, value) in enumerate(values)
    ]
    records.append(sample.intercept(7, sample.device("nvme", 0, 4, "write", 1)))
    records.append(sample.intercept(8, sample.device("hpet", 0, 4, "read", 1)))
    assert chosen(choose(changes=True), records) == [0, 1, 3, 6, 7, 8]


def test_what_other_filters_leave_out_is_no_change() -> None:
    records: list[Record] = [
        sample.intercept(0, sample.device("nvme", 0, 4, "read", 1)),
        sample.intercept(1, sample.device("nvme", 0, 4, "read", 2)),
        sample.intercept(2, sample.device("nvme", 0, 4, "read", 1)),
    ]
    assert chosen(choose(changes=True, value=1), records) == [0]


def intercept(rip: int, cpl: int = 0) -> Intercept:
    import msgspec

    made = sample.intercept(0, sample.device("nvme", 0, 4, "read", 1))
    return msgspec.structs.replace(made, rip=rip, cpl=cpl)


def test_phases_follow_the_boot() -> None:
    ioremap = next(r for r in sample.RECORDS if isinstance(r, MapRecord))
    tracker = PhaseTracker()
    kernel = 0xFFFFFFFF81000000
    assert tracker.add(Mark(time_ns=0, text="kernel entry")) is None
    assert tracker.add(intercept(0x1000000)) == DECOMPRESSOR
    assert tracker.add(intercept(kernel)) == EARLY
    assert tracker.add(intercept(0x1000000)) == EARLY
    assert tracker.add(ioremap) == KERNEL
    assert tracker.add(intercept(kernel)) == KERNEL
    assert tracker.add(intercept(0x400000, cpl=3)) == USER
    assert tracker.add(ioremap) == USER


def test_a_mark_names_a_phase() -> None:
    tracker = PhaseTracker()
    assert tracker.add(Mark(time_ns=0, text="phase: initcall nvme_init")) == "initcall nvme_init"
    assert tracker.add(intercept(0xFFFFFFFF81000000, cpl=3)) == "initcall nvme_init"


@pytest.mark.parametrize(
    ("arguments", "numbers"),
    [
        (["--offset", "0x14-0x17"], [1]),
        (["--offset", "240"], [3]),
        (["--value", "0x460001"], [1]),
        (["--value", "1/0xf"], [0, 1]),
        (["--vcpu", "0"], [0, 1, 2, 3, 4]),
        (["--time", "0.214318001-0.214318002"], [1, 2]),
        (["--time=-0.2143180005"], [0]),
        (["--time", "0.214318003-"], [3, 4]),
        (["--changes", "--read"], [0, 3, 4]),
        (["--phase", "kernel", "--write"], [1, 2]),
        (["--register", "CC"], [1]),
        (["--register", "nvme.c*"], [0, 1]),
        (["--register", "ENTRY[0].*"], [2]),
        (["--register", "MAIN_CNT", "--region", "hpet"], [3]),
    ],
)
def test_the_command_line_has_them(
    tmp_path: Path, capsys: Output, arguments: list[str], numbers: list[int]
) -> None:
    path = sample.write(tmp_path / "run.vtrace")
    assert main.main(["show", str(path), "--json", *arguments]) == 0
    assert [json.loads(line)["seq"] for line in capsys.readouterr().out.splitlines()] == numbers
    assert main.main(["stats", str(path), "--json", *arguments]) == 0
    assert json.loads(capsys.readouterr().out)["accesses"] == len(numbers)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--offset", "nvme"],
        ["--offset", "4-2"],
        ["--offset", "-1"],
        ["--value", "1/"],
        ["--value", "0x10/0xf"],
        ["--vcpu", "-1"],
        ["--time", "5"],
        ["--time", "2-1"],
        ["--time", "now-"],
        ["--time", "inf-"],
    ],
)
def test_what_no_filter_can_mean_is_a_wrong_usage(capsys: Output, arguments: list[str]) -> None:
    assert main.main(["show", "x", *arguments]) == 2
    assert "vetrace: argument" in capsys.readouterr().err


NOWHERE = [
    (["--symbol", "nvme_pci_enabel"],
     "no function of {} is called nvme_pci_enabel; did you mean nvme_pci_enable?"),
    (["--symbol", "foo*"], "no function of {} is called anything like foo*"),
    (["--phase", "kernle"], "no phase of {} is called kernle; did you mean kernel?"),
    (["--region", "nvme", "--offset", "0x2000"], "nvme of {} ends at offset 0x1fff"),
    (["--region", "nvmf"], "no region of {} is called nvmf; did you mean nvme?"),
    (["--register", "CCC"], "no register of {} is called CCC; did you mean CC?"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), NOWHERE)
@pytest.mark.parametrize("command", ["show", "stats", "audit", "diff", "export"])
def test_what_a_trace_does_not_have_is_a_wrong_usage_of_every_command(
    tmp_path: Path, capsys: Output, command: str, arguments: list[str], message: str
) -> None:
    path = sample.write(tmp_path / "run.vtrace")
    output = ["--format", "mmiotrace", "-o", str(tmp_path / "out")]
    words = {"export": output, "diff": [str(path)]}.get(command, [])
    assert main.main([command, str(path), *words, *arguments]) == 2
    named = f"{path} and {path}" if command == "diff" else str(path)
    assert f"vetrace: {message.format(named)}" in capsys.readouterr().err


def test_a_call_site_is_named_by_its_function(tmp_path: Path, capsys: Output) -> None:
    path = str(sample.write(tmp_path / "run.vtrace"))
    assert main.main(["show", path, "--symbol", "nvme_pci_enable+0x5f"]) == 0
    assert main.main(["show", path, "--symbol", "nvme_pci_*", "--offset", "0x3ff0"]) == 0
    assert capsys.readouterr().err.count("has no such access") == 2


def test_show_folds_loops_and_unfolds_them(tmp_path: Path, capsys: Output) -> None:
    records: list[Record] = [
        sample.intercept(seq, sample.device("nvme", 0x1C, 4, "read", seq)) for seq in range(50)
    ]
    path = str(sample.write(tmp_path / "run.vtrace", [*records, sample.end(50)]))
    assert main.main(["show", path]) == 0
    first, fold = capsys.readouterr().out.splitlines()
    assert first.endswith("0x00000000") and "↑ 50 times" in fold and "last read 0x00000031" in fold
    assert main.main(["show", path, "--unfold"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 50
    assert main.main(["show", path, "--json"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 50


def test_show_heads_phases(tmp_path: Path, capsys: Output) -> None:
    path = str(sample.write(tmp_path / "run.vtrace"))
    assert main.main(["show", path, "--phases"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "── kernel ──" and len(lines) == 6


def test_stats_count_registers_and_phases(tmp_path: Path, capsys: Output) -> None:
    path = str(sample.write(tmp_path / "run.vtrace"))
    assert main.main(["stats", path, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    cc = {"region": "nvme", "offset": "0x14", "register": "CC", "accesses": 1, "breaches": 0}
    assert cc in told["registers"]
    assert {"phase": "kernel", "region": "nvme", "accesses": 2} in told["phases"]


@pytest.mark.parametrize("command", ["show", "stats", "audit", "diff", "export"])
def test_every_command_that_filters_takes_a_condition(
    tmp_path: Path, capsys: Output, command: str
) -> None:
    path = str(sample.write(tmp_path / "run.vtrace"))
    words = {"export": ["--format", "mmiotrace", "-o", "-"], "diff": [path]}.get(command, [])
    plain = {"audit": ["--json"], "stats": ["--json"]}.get(command, [])

    def printed(*filters: str) -> str:
        main.main([command, path, *words, *plain, *filters])
        return capsys.readouterr().out

    flags = printed("--region", "nvme", "--write")
    assert printed("--if", "region is nvme and direction == write") == flags
    assert printed("--if", "region is nvme", "--if", "direction == write") == flags
    assert printed("--if", "direction == write", "--region", "nvme") == flags != printed()


@pytest.mark.parametrize(
    ("text", "message", "column"),
    [
        ("regster == CC", "--if: unknown name regster at column 1; did you mean register?", 1),
        ("vcpu == 0 and register == CCC", "no register of {} is called CCC; did you mean CC?", 27),
        ("count == 1", "--if: count is of breaks: nothing else counts", 1),
        ("callers is f", "callers are not known: {} has no call chains;"
         " `vetrace boot --stacks` records them", 1),
        ("$rxx == 1", "--if: unknown register $rxx at column 1; did you mean $rdx?", 1),
        ("mnemonic == movzxx", "--if: no instruction is called movzxx; did you mean movzx?", 13),
        ("1 // cpl == 1", "access 0: division by zero at column 3", 3),
    ],
)  # fmt: skip
def test_a_condition_that_cannot_be_is_a_wrong_usage_with_its_place(
    tmp_path: Path, capsys: Output, text: str, message: str, column: int
) -> None:
    path = sample.write(tmp_path / "run.vtrace")
    assert main.main(["show", str(path), "--if", text]) == 2
    told, typed, caret = capsys.readouterr().err.splitlines()
    assert told == f"vetrace: {message.format(path)}"
    assert (typed, caret) == (f"  {text}", f"  {' ' * (column - 1)}^")
