"""The commands over traces name registers: vetrace's own devices, and those of a user's file."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
import trace_sample as sample

from tracer.cli import main
from tracer.devices import library
from tracer.query.source import Source
from tracer.query.words import Selection
from tracer.report.objects import access_object
from tracer.trace.event import Events, Everything
from tracer.trace.layout import UNCUT, layout
from tracer.trace.lines import access_lines, decoded_lines, explained_lines
from tracer.trace.naming import Naming
from tracer.trace.reader import TraceReader
from tracer.trace.record import Intercept, MemoryAccess, Record

Output = pytest.CaptureFixture[str]
GOLDEN = sorted((Path(__file__).parents[2] / "golden").glob("**/*.vtrace.zst"))

# What Linux accesses of the local APIC in a boot of the default guest.
LAPIC = (0x20, 0x30, 0x80, 0xB0, 0xD0, 0xE0, 0xF0, *range(0x100, 0x180, 0x10),
         *range(0x200, 0x280, 0x10), 0x280, 0x320, 0x330, 0x340, 0x350, 0x360, 0x370, 0x380, 0x390,
         0x3E0)  # fmt: skip

MINE = """
title = "A counter"
applies = [{ region = "nvme" }]

[register.CONTROL]
offset = 0x14
fields = { GO = 0, SPEED = { bits = "23:16", values = { 0x46 = "fast" } } }
"""


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.name)
def test_every_access_of_a_real_boot_has_a_name(path: Path) -> None:
    with TraceReader(path) as trace:
        source = Source(trace, Selection(), library.load())
        named = [(event.access, event.named) for event in source.events()]
    assert named
    for access, found in named:
        assert found is not None and "IOWIN" not in found.text, access
        assert "queue[" in found.text or found.text != "queue", access


def test_there_is_a_real_boot_to_test_with() -> None:
    assert len(GOLDEN) >= 6


def test_linux_finds_no_nameless_register_in_the_local_apic() -> None:
    naming = Naming(library.load())
    assert all(naming.name("lapic", offset, 4) for offset in LAPIC)


def write(tmp_path: Path, records: list[Record] = sample.RECORDS) -> str:
    return str(sample.write(tmp_path / "run.vtrace", records))


def test_show_names_registers(tmp_path: Path, capsys: Output) -> None:
    path = write(tmp_path)
    assert main.main(["show", path]) == 0
    out = capsys.readouterr().out
    assert "nvme+0x14                   CC                      W4   0x00460001" in out
    assert "ENTRY[0].ADDR" in out and "MAIN_CNT" in out
    assert main.main(["show", path, "--json", "--register", "CC"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["register"] == "CC" and told["offset"] == "0x14"
    assert told["fields"] == {
        "EN": 1, "CSS": 0, "MPS": 0, "AMS": 0, "SHN": 0, "IOSQES": 6, "IOCQES": 4,
    }  # fmt: skip


def test_show_decodes_values(tmp_path: Path, capsys: Output) -> None:
    assert main.main(["show", write(tmp_path), "--decode", "--register", "C*"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.strip() for line in lines if "↳" in line] == [
        "↳ Controller Status: RDY (Ready)",
        "↳ Controller Configuration: EN (Enable), IOSQES=6 (I/O Submission Queue Entry Size, as a"
        " power of 2), IOCQES=4 (I/O Completion Queue Entry Size, as a power of 2)",
    ]


def test_a_users_file_goes_before_vetraces_own(tmp_path: Path, capsys: Output) -> None:
    path, mine = write(tmp_path), tmp_path / "mine.toml"
    mine.write_text(MINE)
    arguments = ["--registers", str(mine), "--region", "nvme"]
    assert main.main(["show", path, "--decode", *arguments]) == 0
    out = capsys.readouterr().out
    assert "CONTROL" in out and "↳ GO, SPEED=fast" in out and "CSTS" not in out
    assert main.main(["stats", path, "--json", *arguments]) == 0
    registers = json.loads(capsys.readouterr().out)["registers"]
    assert [(row["offset"], row["register"]) for row in registers if row["region"] == "nvme"] == [
        ("0x14", "CONTROL"),
        ("0x1c", None),
    ]
    assert main.main(["diff", path, path, *arguments]) == 0


@pytest.mark.parametrize("command", ["show", "stats", "diff", "export", "boot"])
def test_a_wrong_file_is_a_wrong_usage(tmp_path: Path, capsys: Output, command: str) -> None:
    path, mine = write(tmp_path), tmp_path / "mine.toml"
    mine.write_text(MINE.replace("offset", "ofset"))
    places = {
        "show": [path], "stats": [path], "diff": [path, path], "boot": [],
        "export": [path, "--format", "mmiotrace", "-o", str(tmp_path / "out")],
    }  # fmt: skip
    assert main.main([command, *places[command], "--registers", str(mine)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (f"vetrace: {mine}: register CONTROL: unknown key ofset; did you mean offset?\n")


def test_a_register_that_is_nowhere_is_told(tmp_path: Path, capsys: Output) -> None:
    path = write(tmp_path)
    for command in (["show", path], ["stats", path], ["diff", path, path]):
        assert main.main([*command, "--register", "main_count"]) == 2
        assert "is called main_count; did you mean MAIN_CNT?" in capsys.readouterr().err
    # One that is there, and was not accessed, is no mistake.
    assert main.main(["show", path, "--register", "ENTRY[900].CONTROL"]) == 0
    assert "has no such access" in capsys.readouterr().err
    assert main.main(["show", path, "--region", "hpet", "--register", "CC"]) == 2


def test_an_index_that_a_filter_leaves_out_still_counts(tmp_path: Path, capsys: Output) -> None:
    records: list[Record] = []
    for seq, (offset, value) in enumerate(((0x0, 0x11), (0x10, 5), (0x0, 0x12), (0x10, 6))):
        access = sample.device("nvme", offset, 4, "write", value)
        access = msgspec.structs.replace(access, region="ioapic")
        records.append(sample.intercept(seq, access))
    path = write(tmp_path, [*records, sample.end(4)])
    assert main.main(["show", path, "--json", "--offset", "0x10"]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [item["register"] for item in told] == ["REDTBL[0].HIGH", "REDTBL[1].LOW"]
    assert main.main(["stats", path, "--json"]) == 0
    registers = json.loads(capsys.readouterr().out)["registers"]
    assert {
        "region": "ioapic", "offset": "0x10", "register": "REDTBL[1].LOW", "accesses": 1,
        "breaches": 0,
    } in registers  # fmt: skip


# CAP is read-only, SQ0TDBL write-only, INTMC,CC neither; VS has a byte that is read.
AGAINST: list[Record] = [
    sample.region("nvme"),
    sample.intercept(0, sample.device("nvme", 0x0, 8, "write", 1)),
    sample.intercept(1, sample.device("nvme", 0x4, 4, "write", 1)),
    sample.intercept(2, sample.device("nvme", 0x0, 8, "read", 1)),
    sample.intercept(3, sample.device("nvme", 0x10, 8, "write", 1)),
    sample.intercept(4, sample.device("nvme", 0x1000, 4, "read", 0)),
    sample.intercept(5, sample.device("nvme", 0x1000, 4, "write", 0)),
    sample.intercept(6, sample.device("nvme", 0x0, 16, "unknown", None)),
    sample.intercept(7, sample.device("nvme", 0x0, 16, "write", 1)),
    sample.inputs(8, sample.msr(0xFE, "write", 1), text="wrmsr"),
]


def test_an_access_against_a_registers_right_is_marked(tmp_path: Path, capsys: Output) -> None:
    path = write(tmp_path, AGAINST)
    assert main.main(["show", path, "--json"]) == 0
    told = [json.loads(line)["breach"] for line in capsys.readouterr().out.splitlines()]
    nothing = [None, None, None]
    assert told == ["read-only", "read-only", None, None, "write-only", *nothing, "read-only"]
    assert main.main(["show", path, "--unfold"]) == 0
    ends = [
        line.rpartition("  ")[2].partition(" ")[2] for line in capsys.readouterr().out.splitlines()
    ]
    nothing = ["", "", ""]
    assert ends == ["(read-only)", "(read-only)", "", "", "(write-only)", *nothing, "(read-only)"]


def test_a_marked_line_fits_the_terminal() -> None:
    naming = Naming(library.load())
    (record,) = [r for r in AGAINST if isinstance(r, Intercept) and r.seq == 0]
    for columns in (80, 100, 120):
        (line,) = access_lines(record, layout(columns), naming)
        assert line.endswith(" (read-only)") and len(line) <= columns


def test_accesses_against_a_registers_right_are_counted(tmp_path: Path, capsys: Output) -> None:
    path = write(tmp_path, AGAINST)
    assert main.main(["stats", path, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    counts = {row["register"]: row["breaches"] for row in found["registers"]}
    assert counts.pop("MTRRCAP") == 1
    assert counts == {"CAP": 1, "CAP+4": 1, "INTMC,CC": 0, "SQ0TDBL": 1, "CAP..INTMS": 0}
    assert found["breaches"] == 4
    assert main.main(["stats", path]) == 0
    out = capsys.readouterr().out
    assert "CAP (read-only, written: 1)" in out and "SQ0TDBL (write-only, read: 1)" in out
    assert "MTRRCAP (read-only, written: 1)" in out
    assert "4 accesses against a register being read-only or write-only" in out


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.name)
def test_linux_writes_nothing_that_is_read_only(path: Path) -> None:
    with TraceReader(path) as trace:
        source = Source(trace, Selection(), library.load())
        named = [(event.access, event.named) for event in source.events()]
    assert [a for a, n in named if n is not None and n.breach(a.direction)] == []


def test_a_diff_has_registers_in_json(tmp_path: Path, capsys: Output) -> None:
    first = write(tmp_path)
    other: list[Record] = [sample.intercept(0, sample.device("nvme", 0x1C, 4, "read", 0x9))]
    second = str(sample.write(tmp_path / "b.vtrace", [sample.region("nvme"), *other]))
    assert main.main(["diff", first, second, "--json", "--region", "nvme"]) == 3
    ((line, *_),) = json.loads(capsys.readouterr().out)["regions"][0]["hunks"]
    assert line["first"]["register"] == "CSTS" and line["second"]["register"] == "CSTS"


def test_a_live_printer_names_what_it_is_given() -> None:
    naming = Naming(library.load())
    (record,) = [r for r in sample.RECORDS if isinstance(r, Intercept) and r.seq == 1]
    (line,) = access_lines(record, UNCUT, naming)
    assert " CC " in line
    (found,) = map(access_object, Events(Everything(naming)).add(record))
    assert found["register"] == "CC" and found["fields"]["EN"] == 1


def test_decoded_lines_keep_to_the_terminal() -> None:
    naming = Naming(library.load())
    access = sample.device("nvme", 0x0, 8, "read", (1 << 64) - 1)
    for columns in (40, 80, 120):
        lines = decoded_lines(access, naming.add(access), layout(columns))
        assert lines and all(len(line) <= columns for line in lines)
    assert len(decoded_lines(access, naming.add(access), layout(40))) > 2
    assert len(decoded_lines(access, naming.add(access), UNCUT)) == 1


# --- what is not memory ----------------------------------------------------------------------


def called(*accesses: MemoryAccess) -> list[str | None]:
    """Return what vetrace's own maps call accesses, one after another."""
    naming = Naming(library.load())
    naming.learn(sample.ports("serial"))
    naming.learn(sample.ports("pic"))
    return [None if (named := naming.add(each)) is None else named.text for each in accesses]


def test_msrs_and_cpuid_have_names() -> None:
    msrs = (0x1B, 0xC0000080, 0x2FF, 0x205, 0x406, 0x80B, 0x825, 0xC0011029)
    assert called(*(sample.msr(index, "read", 0) for index in msrs)) == [
        "APIC_BASE", "EFER", "MTRR_DEF_TYPE", "MTRR[2].MASK", "MC[1].ADDR", "X2APIC.EOI",
        "X2APIC.IRR[5]", "DE_CFG",
    ]  # fmt: skip
    assert called(sample.msr(0x12345678, "read", 0)) == [None]
    assert called(*sample.cpuid(1)) == [f"FEATURES.E{letter}X" for letter in "ABCD"]
    leaves = ((7, 0), (7, 1), (4, 3), (0xD, 17), (0x21, 0), (0x80000003, 0), (0x40000100, 0))
    assert called(*(sample.cpuid(*leaf)[1] for leaf in leaves)) == [
        "EXTENDED.EBX", "EXTENDED_1.EBX", "CACHE[3].EBX", "XSTATE[17].EBX", "TDX.EBX",
        "BRAND[1].EBX", "HYPERVISOR[1].EBX",
    ]  # fmt: skip
    assert called(sample.cpuid(0x12345)[0]) == [None]


def test_a_port_goes_by_the_map_of_its_region_or_else_by_its_number() -> None:
    ports = (0x3FD, 0x20, 0x80, 0x64, 0x2FD, 0x5658)
    assert called(*(sample.port(number, 1, "read", 0) for number in ports)) == [
        "LSR", "PIC1_CMD", "POST", "KBD_STATUS_CMD", "COM2.LSR", None,
    ]  # fmt: skip
    pic = sample.port(0x20, 1, "write", 0)
    second = msgspec.structs.replace(pic, physical=0xA0)  # at the same offset of the same region
    assert called(pic, second, pic) == ["PIC1_CMD", "PIC2_CMD", "PIC1_CMD"]
    memory = sample.device("nvme", 0x20, 4, "read", 0)
    assert called(msgspec.structs.replace(memory, region="elsewhere")) == [None]


def test_ports_that_select_what_others_show_are_followed() -> None:
    def out(number: int, value: int, width: int = 1) -> MemoryAccess:
        return sample.port(number, width, "write", value)

    assert called(out(0x70, 0x8B), sample.port(0x71, 1, "read", 2)) == ["CMOS_INDEX", "CMOS.B"]
    data, line = out(0x3F8, 1), out(0x3FB, 0x83)
    assert called(data, line, data, out(0x3FB, 3), data) == ["DATA", "LCR", "DLL", "LCR", "DATA"]
    chosen = out(0xCF8, 0x80000000 | 1 << 11 | 4, 4)
    reads = [sample.port(number, 2, "read", 0) for number in (0xCFC, 0xCFE)]
    assert called(chosen, *reads) == ["CONFIG_ADDRESS", "00:01.0 COMMAND", "00:01.0 STATUS"]


def test_a_register_of_a_port_can_be_asked_for(tmp_path: Path, capsys: Output) -> None:
    records = [
        sample.ports("pic"),
        sample.inputs(0, sample.port(0x20, 1, "write", 0x20)),
        sample.inputs(1, sample.port(0x80, 1, "write", 0)),
        sample.end(2),
    ]
    path = str(sample.write(tmp_path / "run.vtrace", records))
    for asked, found in (("PIC1_CMD", 1), ("pic.PIC1_CMD", 1), ("port.POST", 1), ("P*", 2)):
        assert main.main(["show", path, "--register", asked]) == 0
        assert len(capsys.readouterr().out.splitlines()) == found
    assert main.main(["show", path, "--region", "pic"]) == 0
    assert "pic+0x0 @0x20" in capsys.readouterr().out
    assert main.main(["show", path, "--register", "PIC3_CMD"]) == 2
    assert "did you mean PIC2_CMD?" in capsys.readouterr().err


def test_exports_have_the_register(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    result = tmp_path / "run.parquet"
    assert main.main(["export", write(tmp_path), "--format", "parquet", "-o", str(result)]) == 0
    rows = parquet.read_table(result).to_pylist()
    assert [row["register"] for row in rows] == [
        "CSTS", "CC", "ENTRY[0].ADDR", "MAIN_CNT", "ID",
    ]  # fmt: skip


def test_of_a_value_that_is_not_known_the_register_is_explained() -> None:
    naming = Naming(library.load())
    access = sample.device("nvme", 0x14, 4, "read", None)
    (line,) = explained_lines(access, naming.add(access), UNCUT)
    assert line.strip() == "↳ Controller Configuration"
    assert explained_lines(access, None, UNCUT) == []
