"""Access lines, JSON objects and tables as the reader sees them."""

from __future__ import annotations

import io
import json
import re

import msgspec
import pytest
import trace_sample as sample
from rich.console import Console
from rich.table import Table

from tracer.check.comparison import Comparison, Difference, RegionComparison, TracedAccess
from tracer.check.lines import difference_line
from tracer.check.qemu_log import LogEntry
from tracer.devices import library
from tracer.report import tables
from tracer.report.objects import access_object
from tracer.trace.call import Hypercall, SharedRecord, TdcallRecord, VmgexitRecord
from tracer.trace.event import Event, events_of
from tracer.trace.layout import UNCUT, layout, padded, short
from tracer.trace.lines import AccessLines, access_line, access_lines, note_line, printable
from tracer.trace.marker import rule_note
from tracer.trace.naming import Naming
from tracer.trace.place import place
from tracer.trace.record import Intercept, MemoryAccess
from tracer.trace.summary import Summary

INTERCEPTS = [record for record in sample.RECORDS if isinstance(record, Intercept)]


def drawn(renderable: Table, width: int = 200) -> str:
    """Draw a table as a file would get it."""
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(renderable)
    return out.getvalue()


def test_a_line_holds_all_there_is_to_tell() -> None:
    (line,) = access_lines(INTERCEPTS[0])
    assert line.split() == [
        "0.214318", "vcpu0", "nvme_pci_enable+0x5e", "mov", "eax,", "dword", "ptr", "[rax", "+",
        "0x1c]", "nvme+0x1c", "R4", "0x00000001",
    ]  # fmt: skip


@pytest.mark.parametrize("columns", [80, 90, 99, 100, 120, 160, 300, None])
def test_columns_stand_below_each_other(columns: int | None) -> None:
    lines = [line for record in INTERCEPTS for line in access_lines(record, layout(columns))]
    directions = {found.start() for line in lines for found in re.finditer(r"  [RW][48]", line)}
    assert len(directions) == 1


@pytest.mark.parametrize("columns", [50, 60, 70])
def test_a_narrow_terminal_keeps_regions_and_values(columns: int) -> None:
    access = sample.device("nvme.msix-table", 0x1C, 4, "read", 0x12345678)
    for named in (Naming(library.load()).name("nvme", 0x1C, 4), None):
        event = Event(0, sample.intercept(0, access), access, named=named)
        line = access_line(event, layout(columns))
        assert len(line) <= columns and line.endswith("R4   0x12345678")
        assert "nvme.msix-table" in line
        assert ("CSTS" in line, "+0x1c" in line) == (named is not None, named is None)


@pytest.mark.parametrize("columns", [80, 90, 99, 100, 120, 160])
def test_no_line_is_wider_than_its_terminal(columns: int) -> None:
    long = sample.intercept(
        0, sample.device("nvme.msix-table", 0x400, 8, "write", 0x1234),
        symbol="__very_long_function_name_of_a_driver.constprop.0.isra.0+0x1c5e",
        text="mov qword ptr [rax + rcx*8 + 0x12345678], 0x12345678",
    )  # fmt: skip
    for record in [*INTERCEPTS[:3], INTERCEPTS[4], long]:
        for line in access_lines(record, layout(columns)):
            assert len(line) <= columns


def test_a_cut_keeps_the_offset() -> None:
    long = sample.intercept(
        0, sample.device("nvme.msix-table", 0x40C, 4, "read", 0), symbol="f" * 50 + "+0x5e"
    )
    (line,) = access_lines(long, layout(80))
    assert "f…+0x5e" in line and "…+0x40c" in line


def test_a_file_gets_lines_that_are_not_cut() -> None:
    long = sample.intercept(
        0, sample.device("nvme", 0, 8, "read", 1), symbol="f" * 70, text="x" * 70
    )
    (line,) = access_lines(long, UNCUT)
    assert "f" * 70 in line and "x" * 70 in line and line.endswith("0x0000000000000001")


@pytest.mark.parametrize(
    ("note", "device", "end"),
    [
        ("by rule 2", 1, "0xffffffff (device 0x00000001) (by rule 2)"),
        ("by rule 2, 0.001 s late; replayed: #3", None, "0xffffffff (by rule 2, 0.001 s late)"),
        ("not emulated: fxsave", None, "0xffffffff"),
        ("by \x1b[2Jrule", None, r"0xffffffff (by \x1b[2Jrule)"),
        (rule_note(["rule 1", "", "rule 1", "own.py"]), None, "0xffffffff (by rule 1, own.py)"),
        (rule_note([""]), None, "0xffffffff"),
    ],
)
def test_a_line_tells_which_rule_decided(note: str | None, device: int | None, end: str) -> None:
    access = sample.device("nvme", 0x1C, 4, "read", 0xFFFFFFFF)
    record = sample.intercept(0, msgspec.structs.replace(access, device=device))
    record = msgspec.structs.replace(record, note=note)
    (line,) = access_lines(record)
    assert line.endswith(f"  {end}")
    (line,) = access_lines(record, layout(100, False))
    assert len(line) <= 100 and line.endswith(end.partition(" ")[2])


def test_only_device_accesses_have_lines() -> None:
    (line,) = access_lines(INTERCEPTS[2])
    assert "nvme.msix-table+0x0" in line and "W4" in line


def test_a_stepped_access_is_marked_and_its_value_may_be_unknown() -> None:
    (line,) = access_lines(INTERCEPTS[4])
    assert line.endswith("R4~  ?") and "0xffffffff81234567" in line


def test_colours_change_nothing_but_colours() -> None:
    for record in INTERCEPTS:
        plain = access_lines(record, layout(120))
        coloured = access_lines(record, layout(120, colour=True))
        assert coloured != plain
        assert [re.sub(r"\x1b\[[\d;]*m", "", line).rstrip() for line in coloured] == plain
        assert not any("\x1b" in line for line in plain)


def test_a_trace_cannot_steer_the_terminal() -> None:
    evil = sample.intercept(
        0, sample.device("nvme", 0, 4, "read", 0), symbol="\x1b[2J\n\r", text="\x07\u202e"
    )
    (line,) = access_lines(evil)
    assert line.isprintable()
    assert r"\x1b[2J\n\r" in line and r"\x07\u202e" in line


@pytest.mark.parametrize(
    ("value", "width", "text"),
    [(1, 1, "0x01"), (1, 8, "0x0000000000000001"), (0, 2, "0x0000"), (None, 4, "?")],
)
def test_a_value_has_all_its_digits(value: int | None, width: int, text: str) -> None:
    assert padded(value, width) == text


def test_printable_text_is_left_alone() -> None:
    assert printable("mov eax, [rax]") == "mov eax, [rax]"


def test_an_object_holds_the_access() -> None:
    (found,) = map(access_object, events_of(INTERCEPTS[3]))
    assert json.loads(json.dumps(found)) == {
        "type": "access",
        "seq": 3,
        "time_ns": 214_318_003,
        "vcpu": 0,
        "rip": "0xffffffff81234567",
        "symbol": "read_hpet+0x8",
        "bytes": "8b401c",
        "text": "mov rax, qword ptr [rax]",
        "region": "hpet",
        "offset": "0xf0",
        "register": None,
        "address": "0xfed000f0",
        "width": 8,
        "extent": None,
        "direction": "read",
        "value": "0x123456789abcdef0",
        "fields": {},
        "breach": None,
        "via": "emulated",
        "tdvmcall": {
            "in": {
                "rax": "0x0", "rcx": "0xffcc", "r10": "0x0", "r11": "0x30", "r12": "0x8",
                "r13": "0x0", "r14": "0x80000fed000f0", "r15": "0x0",
            },
            "out": {"rax": "0x0", "r10": "0x0", "r11": "0x123456789abcdef0"},
        },
        "ghcb": {
            "exit_code": "0x80000001", "info1": "0xfed000f0", "info2": "0x8",
            "buffer": "f0debc9a78563412",
        },
        "agrees": None,
        "device": None,
        "skipped": False,
    }  # fmt: skip


def test_an_object_has_what_an_sev_es_guest_asked() -> None:
    given = {
        "sw_exit_code": 0x8000_0001, "sw_exit_info_1": 0x1234, "sw_exit_info_2": 2, "sw_scratch": 5,
    }  # fmt: skip
    asked = Hypercall(given=given, returned={"sw_exit_info_1": 0, "shared_buffer": 0x1122})
    made = sample.intercept(0, sample.device("nvme", 0x1C, 4, "read", 1), via="guest")
    record = msgspec.structs.replace(made, asked=asked, agrees=False)
    (found,) = map(access_object, events_of(record))
    assert found["ghcb"] == {
        "exit_code": "0x80000001", "info1": "0x1234", "info2": "0x2", "buffer": "2211",
    }  # fmt: skip
    assert found["tdvmcall"]["in"]["r12"] == "0x4"  # what it would ask in a guest of TDX
    assert found["agrees"] is False


def test_each_device_access_is_an_object_with_its_own_number() -> None:
    record = sample.intercept(
        7,
        sample.device("nvme", 0, 4, "read", 1),
        sample.ram(4, "write", 1),
        sample.device("hpet", 0, 4, "write", 1),
    )
    found = [(o["seq"], o["region"], o["direction"]) for o in map(access_object, events_of(record))]
    assert found == [(7, "nvme", "read"), (8, "hpet", "write")]


INPUTS = (
    (sample.port(0x3FD, 1, "read", 0x60), "serial+0x5 @0x3fd", "", "0x60"),
    (sample.port(0x80, 1, "write", 0), "port+0x80", "", "0x00"),
    (sample.msr(0xC0000080, "read", 0xD01), "msr 0xc0000080", "", "0x0000000000000d01"),
    (sample.cpuid(7, 1)[0], "cpuid 0x7.1", "EAX", "0x00000000"),
    (sample.cpuid(0x80000008)[3], "cpuid 0x80000008.0", "EDX", "0x00000003"),
    (sample.tsc(1 << 20), "tsc", "", "0x0000000000100000"),
)
"""Accesses to something else than memory, and what a line says of each."""


@pytest.mark.parametrize(("access", "where", "name", "value"), INPUTS)
def test_an_input_has_its_own_place(
    access: MemoryAccess, where: str, name: str, value: str
) -> None:
    (line,) = access_lines(sample.inputs(0, access, text="in"))
    told = [*where.split(), *name.split(), short(access.direction, access.width), value]
    assert line.split()[4:] == told
    (narrow,) = access_lines(sample.inputs(0, access, text="in"), layout(80))
    assert len(narrow) <= 80


def test_places_that_are_told_alike_are_told_apart_by_their_ports() -> None:
    lines = AccessLines(UNCUT)
    first = sample.port(0x20, 1, "write", 1)
    second = msgspec.structs.replace(first, physical=0xA0)  # the same device's, elsewhere
    found = [lines.line(*events_of(sample.inputs(0, access))) for access in (first, second)]
    assert "pic+0x0 @0x20" in found[0] and "pic+0x0 @0xa0" in found[1]


def test_an_input_whose_offset_is_not_known_has_none() -> None:
    for access, where in ((INPUTS[0][0], "serial+?"), (INPUTS[2][0], "msr +?")):
        assert place(msgspec.structs.replace(access, offset=None)).startswith(where)


def test_an_access_in_whose_place_the_cpu_raised_an_exception_says_so() -> None:
    access = msgspec.structs.replace(sample.msr(0x1234, "read", None), skipped=True)
    (line,) = access_lines(sample.inputs(0, access, text="rdmsr"))
    assert "  msr 0x1234  " in line and line.endswith("R8   ? (exception)")
    (line,) = access_lines(sample.intercept(0, access))
    assert line.endswith("? (skipped)")


@pytest.mark.parametrize("access", [access for access, *_ in INPUTS])
def test_an_object_of_an_input_has_its_space(access: MemoryAccess) -> None:
    (found,) = map(access_object, events_of(sample.inputs(0, access)))
    (memory,) = map(access_object, events_of(INTERCEPTS[0]))
    assert found.pop("space") == access.space and list(found) == list(memory)
    assert (found["address"], found["via"]) == (hex(access.physical), "monitor")
    assert found["tdvmcall"] is found["ghcb"] is None


def test_a_message_is_told_with_its_source_before_its_interrupt() -> None:
    made = sample.inputs(
        4, sample.msi(0xFEE01004, 0x4023), sample.irq(0x23), text="interrupt", symbol="idle+0x9"
    )
    made = msgspec.structs.replace(made, cause="nvme[1]")
    first, second = access_lines(made)
    assert first.split()[3:] == [
        "message", "msi+0xfee01004", "R4", "0x00004023", "from", "nvme[1]",
    ]  # fmt: skip
    assert "interrupt" in second and second.endswith("0x23 from nvme[1]")
    message, interrupt = map(access_object, events_of(made))
    assert (message["seq"], interrupt["seq"]) == (4, 5)
    told = {"space": "msi", "address": "0xfee01004", "data": "0x4023", "source": "nvme[1]"}
    assert told.items() <= message.items() and "cause" not in message
    assert interrupt["cause"] == "nvme[1]" and "source" not in interrupt


def test_what_is_not_known_of_a_message_is_not_told() -> None:
    (found,) = map(access_object, events_of(sample.inputs(0, sample.msi(0, None))))
    assert found["address"] is found["data"] is None
    (line,) = access_lines(sample.inputs(0, sample.msi(0, None)))
    assert "msi+?" in line


def test_tables_tell_inputs_by_their_numbers() -> None:
    result = Summary()
    result.add(sample.ports("serial"))
    for access, *_ in INPUTS:
        result.add(sample.inputs(0, access))
    for access in (sample.irq(0x23), sample.msi(0xFEE01004, 0x23), sample.msi(0, None)):
        result.add(sample.inputs(0, access))
    rows = [line.split() for line in drawn(tables.registers_table(result)).splitlines()]
    assert ["irq", "0x23", "1"] in rows
    assert ["msi", "0xfee01004", "1"] in rows and ["msi", "?", "1"] in rows
    assert ["serial", "0x5", "1"] in rows and ["port", "0x80", "1"] in rows
    assert ["msr", "0xc0000080", "1"] in rows and ["tsc", "1"] in rows
    assert ["cpuid", "0x7.1", "EAX", "1"] in rows and ["cpuid", "0x80000008.0", "EDX", "1"] in rows
    assert "… 7 more" in drawn(tables.registers_table(result, 2))
    text = drawn(tables.closing_table(result))
    rows = [line.split() for line in text.splitlines()]
    assert ["region", "reads", "writes", "emulated", "monitor", "stepped", "call", "sites"] in rows
    assert ["cpuid", "2", "0", "0", "2", "0", "1"] in rows
    assert "monitor" not in drawn(tables.closing_table(summary()))


def summary() -> Summary:
    result = Summary()
    for record in sample.RECORDS:
        result.add(record)
    return result


def test_the_closing_table_has_a_row_for_each_region() -> None:
    rows = [line.split() for line in drawn(tables.closing_table(summary())).splitlines()]
    assert ["nvme", "1", "1", "2", "0", "2"] in rows
    assert ["lapic", "1", "0", "0", "1", "1"] in rows


def test_tables_tell_what_a_limit_leaves_out() -> None:
    text = drawn(tables.sites_table(summary(), limit=2))
    assert "0xffffffff81234567" in text and "memcpy_toio" in text
    assert "read_hpet" not in text
    assert re.search(r"… 3 more +3$", text.rstrip())
    assert "more" not in drawn(tables.forms_table(summary(), limit=5))


def test_tables_fit_a_narrow_terminal() -> None:
    for draw in (tables.closing_table, tables.sites_table, tables.forms_table):
        assert all(len(line) <= 60 for line in drawn(draw(summary()), 60).splitlines())


def test_names_are_no_markup() -> None:
    result = Summary()
    result.add(
        sample.intercept(0, sample.device("hpet", 0, 4, "read", 0), symbol="[bold]x\x1b[/bold]")
    )
    assert r"[bold]x\x1b[/bold]" in drawn(tables.sites_table(result))


def test_the_comparison_table_has_its_counts() -> None:
    comparison = Comparison(regions={"nvme": RegionComparison(1000, 999, 1, 2, 3)})
    rows = [line.split() for line in drawn(tables.comparison_table(comparison)).splitlines()]
    assert ["nvme", "1,000", "999", "1", "2", "3"] in rows


def test_a_difference_is_one_line_with_both_sides() -> None:
    traced = TracedAccess(
        seq=12, site="nvme_pci_enable+0x5e", text="mov eax, dword ptr [rax]", by_vcpu=False,
        direction="read", address=0xFEBF0000, width=4, value=1,
    )  # fmt: skip
    logged = LogEntry(
        line=344, cpu=-1, direction="read", address=0xFEBF0000, width=4, value=2, name="nvme"
    )
    assert difference_line(Difference("different", "nvme", traced, (logged,), 11)) == (
        "different  nvme  after #11: traced #12 R4 0xfebf0000 0x00000001 by nvme_pci_enable+0x5e"
        " (mov eax, dword ptr [rax]); QEMU's line 344 cpu -1 R4 0xfebf0000 0x00000002"
    )
    assert difference_line(Difference("missing", "nvme", None, (logged,), None)) == (
        "missing    nvme  at first: QEMU's line 344 cpu -1 R4 0xfebf0000 0x00000002"
    )


# --- confidential guests


def test_a_guests_call_is_a_line_with_what_it_gives_and_gets() -> None:
    call = TdcallRecord(
        time_ns=0, vcpu=0, rip=0x1000, symbol="__tdcall_ret+0x1e", leaf=7, name="TDG.VM.RD",
        given={"rax": 7, "rdx": 0x1110000300000016}, returned={"rax": 0, "r8": 0},
        note="CONFIG_\x1bFLAGS",
    )  # fmt: skip
    assert note_line(call) == (
        "── tdcall: TDG.VM.RD rdx=0x1110000300000016 → rax=0x0 r8=0x0 at __tdcall_ret+0x1e "
        "(CONFIG_\\x1bFLAGS) ──"
    )
    bare = msgspec.structs.replace(call, symbol=None, returned={}, note=None)
    assert note_line(bare) == "── tdcall: TDG.VM.RD rdx=0x1110000300000016 at 0x1000 ──"


def test_an_exit_of_a_guest_is_a_line_with_its_fields() -> None:
    call = VmgexitRecord(
        time_ns=0, vcpu=0, rip=0x1000, symbol="setup+0x19", code=0x8000_0005, name="AP jump table",
        given={"sw_exit_code": 0x8000_0005, "sw_exit_info_1": 1}, returned={"sw_exit_info_1": 0},
        note="odd",
    )  # fmt: skip
    assert note_line(call) == (
        "── vmgexit: AP jump table sw_exit_info_1=0x1 → sw_exit_info_1=0x0 at setup+0x19 (odd) ──"
    )


def test_what_becomes_of_shared_ram_is_a_line() -> None:
    mapped = SharedRecord(
        time_ns=0, vcpu=0, rip=0x1000, what="map", physical=0x5000, size=0x2000, shared=False
    )
    where = "0x2000 bytes of RAM at physical 0x5000"
    assert note_line(mapped) == f"── shared: {where} to be private at 0x1000 ──"
    touched = msgspec.structs.replace(
        mapped, what="touch", shared=True, linear=0xFFFF888000005000, converted=True
    )
    told = f"── shared: {where} touched through a shared mapping"
    assert note_line(touched) == f"{told} at 0x1000 ──"
    unasked = msgspec.structs.replace(touched, converted=False)
    assert note_line(unasked) == f"{told}, never asked to be shared at 0x1000 ──"
