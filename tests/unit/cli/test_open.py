"""`vetrace open`: the prompt's commands on a trace, forwards and back, without a guest."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from trace_sample import (
    RECORDS,
    cpuid,
    device,
    end,
    inputs,
    intercept,
    msr,
    port,
    ports,
    region,
    write,
)

from tracer.cli import main
from tracer.trace import tape
from tracer.trace.queue import QueueEntry, QueueRecord
from tracer.trace.reader import TraceReader
from tracer.trace.record import Mark, Record, StackFrame, StackRecord
from tracer.trace.waiting import WaitRecord, WayOut

Output = pytest.CaptureFixture[str]

END = "the end of the trace: the guest has powered off"
GOLDEN = Path(__file__).parents[2] / "golden" / "6.1.0-56-cloud-amd64" / "nvme.vtrace.zst"


def opened(capsys: Output, path: Path, *commands: str, status: int = 0) -> list[str]:
    """Carry commands out on a trace; return what is printed."""
    arguments = [word for command in commands for word in ("-e", command)]
    assert main.main(["open", str(path), *arguments]) == status
    return capsys.readouterr().out.splitlines()


def refused(capsys: Output, path: Path, command: str, status: int = 2) -> str:
    assert main.main(["open", str(path), "-e", command]) == status
    return capsys.readouterr().err.removeprefix("vetrace: ").rstrip("\n")


def results(capsys: Output, path: Path, *commands: str) -> list[Any]:
    """Carry commands out; return their results as programs get them."""
    assert main.main(["open", str(path), "--json", "-e", "; ".join(commands)]) == 0
    return [json.loads(line)["result"] for line in capsys.readouterr().out.splitlines()]


def numbers(found: list[Any]) -> list[int | None]:
    """Return at which access each command has come to stand, None for the end."""
    return [
        None if stop["state"] == "ended" else stop["access"]["seq"]
        for stop in found
        if isinstance(stop, dict) and "state" in stop
    ]


def stood(capsys: Output, path: Path, *commands: str) -> list[int | None]:
    return numbers(results(capsys, path, *commands))


@pytest.fixture(params=["run.vtrace", "run.vtrace.zst"])
def sample(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write(tmp_path / str(request.param))


def many(path: Path, count: int = 40) -> Path:
    """Write accesses to registers of a device in turn, every tenth to another one's."""
    made: list[Record] = [region("nvme"), region("hpet")]
    for seq in range(count):
        if seq == 25:
            made.append(Mark(time_ns=214_318_025, text="half way"))
        name, offset = ("hpet", 0xF0) if seq % 10 == 9 else ("nvme", 0x14 + 4 * (seq % 3))
        direction = "write" if seq % 2 else "read"
        access = device(name, offset, 4, direction, seq // 4)  # type: ignore[arg-type]  # it is one
        made.append(intercept(seq, access, symbol=f"f{seq % 4}+0x10"))
    return write(path, [*made, end(count)])


# ---- going on, and back


def test_one_goes_to_and_fro(capsys: Output, sample: Path) -> None:
    assert stood(capsys, sample, "step", "step 2", "back", "rs", "back 5", "goto 3", "step") == [
        1, 3, 2, 1, 0, 3, 4,
    ]  # fmt: skip
    assert stood(capsys, sample, "goto end", "back", "goto start", "step 9", "rc") == [
        None, 4, 0, None, 0,
    ]  # fmt: skip
    assert stood(capsys, sample, "next hpet", "reverse-next nvme", "rn nvme") == [3, 2, 1]


def test_an_empty_line_goes_on_the_same_way(capsys: Output, sample: Path) -> None:
    script = sample.with_name("script")
    script.write_text("goto end\nback\n\nback\n")
    assert main.main(["open", str(sample), "-x", str(script)]) == 0
    assert "nvme_enable_ctrl" not in capsys.readouterr().out  # nothing is repeated in a script


@pytest.mark.parametrize("size", [1, 3, 7, 2048])
def test_breaks_stop_in_both_directions_wherever_chunks_end(
    capsys: Output, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(tape, "ACCESSES", size)
    path = many(tmp_path / "run.vtrace")
    go, back = ["c"] * 5, ["rc"] * 5
    assert stood(capsys, path, "break hpet", *go, *back) == [
        9, 19, 29, 39, None, 39, 29, 19, 9, 0,
    ]  # fmt: skip
    assert stood(capsys, path, "break write nvme+0x18 if value > 5", *go[:4], "rc") == [
        25, 31, 37, None, 37,
    ]  # fmt: skip
    assert stood(capsys, path, "break if function == f3 and seq > 10", "c", "c", "rc") == [
        11, 15, 11,
    ]  # fmt: skip
    assert stood(capsys, path, "break if mark == 'half way'", "c", "goto end", "rc", "rc") == [
        25, None, 39, 38,
    ]  # fmt: skip
    assert stood(capsys, path, "break hpet", "step 30", "goto 35", "back 30") == [9, 35, 29]


@pytest.mark.parametrize("size", [3, 2048])
def test_what_is_told_by_other_accesses_is_found_in_both_directions(
    capsys: Output, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(tape, "ACCESSES", size)
    path = many(tmp_path / "run.vtrace")
    values: dict[int, int] = {}
    changed = []
    for seq in range(0, 40):
        if seq % 10 != 9 and seq % 3 == 0 and seq % 2 == 0:
            if values.get(0) != seq // 4:
                changed.append(seq)
            values[0] = seq // 4
    watch = "break read nvme+0x14 if changes"
    assert stood(capsys, path, "goto 5", watch, "c", "c", "rc", "rc", "rc") == [
        5, *changed[1:3], *changed[:2][::-1], 0,
    ]  # fmt: skip
    assert stood(capsys, path, "break nvme if count == 12", "c", "goto end", "rc") == [
        12, None, 12,
    ]  # fmt: skip


def test_counts_of_breaks_are_those_of_a_guest(capsys: Output, tmp_path: Path) -> None:
    path = many(tmp_path / "run.vtrace")
    assert stood(capsys, path, "tbreak hpet", "c", "c") == [9, None]
    assert stood(capsys, path, "break hpet after 2", "c", "c", "c") == [29, 39, None]
    found = results(capsys, path, "break hpet", "c", "c", "rc", "info breaks")
    assert [item["hits"] for item in found[-1]] == [3]


def test_a_time_is_gone_to(capsys: Output, tmp_path: Path) -> None:
    path = many(tmp_path / "run.vtrace")
    assert stood(capsys, path, "until 0.21431802", "until +5ns", "until 9s") == [20, 25, None]
    assert refused(capsys, path, "goto 20; until 0.1").startswith("0.1 is past: it is 0.214318")


def test_the_functions_under_way_are_known_where_they_were_recorded(capsys: Output) -> None:
    lines = opened(capsys, GOLDEN, "until nvme_reset_work", "bt")
    assert lines[-2].startswith("#0  nvme_reset_work+0x")
    assert lines[-1].startswith("The rest is not known: no call chain was recorded")


# ---- looking


def test_an_access_is_told_with_what_it_read_and_changed(capsys: Output) -> None:
    lines = opened(capsys, GOLDEN, "break nvme.CSTS if value == 1", "c", "plan", "regs")
    text = "\n".join(lines)
    assert "=> now  R4  nvme+0x1c CSTS  0x00000001" in text
    assert "→ 0x0000000000000001" in text and "TDG.VP.VMCALL" in text
    assert text.count("rflags") == 1 and "cr0" not in text and "cr4" not in text
    found = results(capsys, GOLDEN, "regs", "regs rip rax", "plan")
    assert found[0]["rip"] == found[1]["rip"] and found[0]["after"].keys() >= {"rip", "rax"}
    assert found[2]["accesses"][0]["value"] is not None


def test_the_whole_trace_is_counted_and_told(capsys: Output, sample: Path) -> None:
    found = results(capsys, sample, "info trace", "stats", "info mappings", "info devices")
    trace, counts, mappings, devices = found
    assert (trace["accesses"], trace["whole"], trace["outcome"]) == (5, True, "poweroff")
    assert counts["accesses"] == 5 and len(mappings) == 1
    assert {row["name"]: row["accesses"] for row in devices} == {
        "nvme": 2, "nvme.msix-table": 1, "hpet": 1, "lapic": 1,
    }  # fmt: skip


def test_a_tally_counts_the_whole_trace_wherever_one_stands(capsys: Output, sample: Path) -> None:
    by_region = {"nvme": 2, "nvme.msix-table": 1, "hpet": 1, "lapic": 1}
    lines = ("tally count by region", "step 2", "tally count by width", "goto end", "tally")
    found = results(capsys, sample, *lines, "restart", "tally 1", "tally off", "tally")
    for told, *_ in (found[0], found[4], found[6]):
        assert told["accesses"] == 5
        assert {row["key"]["region"]: row["count"] for row in told["groups"]} == by_region
    assert [each["accesses"] for each in found[2]] == [5] and found[8] == []
    text = opened(capsys, sample, "step 3", "tally hist(value & 0xffff) if direction == read")
    assert text[-1] == "3 accesses; 1 of them without a number: not known, or nothing before them"
    told = refused(capsys, sample, "tally sum(1 // (width - 4))")
    assert "access 0" in told and "division by zero" in told


def test_a_register_is_told_as_it_was_where_one_stands(capsys: Output) -> None:
    found = results(
        capsys, GOLDEN, "info register nvme.CC", "goto 88", "info register nvme.CC", "goto end",
        "info register nvme.CC", "info register nvme.CAP", "info register CMBLOC",
    )  # fmt: skip
    first, _, there, _, last, cap, never = found
    # It was enabled by access 88, which is yet to come there.
    values = [each[0]["value"] for each in (first, there, last)]
    assert values == [None, "0x460060", "0x464061"]
    assert {(each[0]["reads"], each[0]["writes"]) for each in (first, there, last)} == {(1, 4)}
    assert first[0]["last_written"] is None and there[0]["last_written"]["seq"] < 88
    assert last[0]["last_written"]["value"] == "0x464061"
    fields = {each["name"]: each["value"] for each in last[0]["fields"]}
    assert (fields["EN"], fields["SHN"]) == ("0x1", "0x1")
    assert cap[0]["last_read"]["bits"] == "63:32"
    assert (never[0]["reads"], never[0]["last_read"]) == (0, None)
    said = opened(capsys, GOLDEN, "goto 88; info register nvme.CC; info register CMBLOC")
    assert any(line.startswith("written    4 times, last before here 0x") for line in said)
    assert "read       never" in said
    said = opened(capsys, GOLDEN, "goto end; info register nvme.CC")
    assert any(line.startswith("written    4 times, last 0x00464061 at") for line in said)


def test_what_was_waited_for_is_told_with_its_place(capsys: Output, tmp_path: Path) -> None:
    poll = device("nvme", 0x1C, 4, "read", 0)
    reads = [replace(intercept(n, poll), time_ns=n * 1_000_000) for n in range(1, 21)]
    told = WaitRecord(
        time_ns=0, seq=8, vcpu=0, rip=reads[0].rip, region="nvme", offset=0x1C, width=4,
        register="CSTS", loop="nvme_wait_ready+0x7f", awaited=[WayOut(rip=1, mask=1, value=1)],
    )  # fmt: skip
    set_up = intercept(0, device("nvme", 0x14, 4, "write", 1))
    path = write(tmp_path / "waits.vtrace", [region("nvme"), set_up, *reads, told, end(21)])
    first, _, there = results(capsys, path, "info waiting", "goto 5", "info waiting")
    assert [(each[0]["first"], each[0]["goes_on"]) for each in (first, there)] == [
        (1, False), (1, True),
    ]  # fmt: skip
    said = opened(capsys, path, "goto 5; info waiting")
    assert said[-1].startswith("#1  waiting for nvme CSTS until bit 0=1: read 20 times in 0.019000")
    (none,) = results(capsys, GOLDEN, "info waiting")
    assert none == []


def test_who_used_a_register_is_told_once(capsys: Output, tmp_path: Path) -> None:
    frames = [StackFrame(rip=1, symbol="nvme_write+0xb"), StackFrame(rip=2, symbol="nvme_on+0x9")]
    records: list[Record] = [
        region("nvme"),
        StackRecord(time_ns=1, id=0, frames=frames),
        replace(
            intercept(0, device("nvme", 0x14, 4, "write", 1), symbol="nvme_write+0xb"), stack=0
        ),
        intercept(1, device("nvme", 0x14, 4, "read", 1)),
        end(2),
    ]
    path = write(tmp_path / "called.vtrace", records)
    lines = opened(capsys, path, "step", "info reg nvme.CC")
    (line,) = [each for each in lines if each.startswith("written")]
    assert line.endswith("by nvme_write+0xb from nvme_on+0x9 on vcpu0, #0")
    assert results(capsys, path, "step", "info register CC")[1][0]["last_written"]["callers"] == [
        "nvme_on+0x9"
    ]
    assert "rip" in "\n".join(opened(capsys, path, "info reg"))


def test_inputs_have_registers_too(capsys: Output, tmp_path: Path) -> None:
    records: list[Record] = [
        ports("serial"), inputs(0, port(0x3FD, 1, "read", 0x60)),
        inputs(1, msr(0xC0000080, "read", 0xD01)), end(2),
    ]  # fmt: skip
    path = write(tmp_path / "inputs.vtrace", records)
    _, lsr, efer = results(
        capsys, path, "goto end", "info register serial.LSR", "info register msr.EFER"
    )
    assert (lsr[0]["value"], lsr[0]["reads"]) == ("0x60", 1)
    assert (efer[0]["value"], efer[0]["reads"]) == ("0xd01", 1)


def test_what_lies_around_is_shown(capsys: Output, sample: Path) -> None:
    found = results(capsys, sample, "goto 2", "show last", "show next 2", "show next hpet")
    assert [[one["seq"] for one in each] for each in found[1:]] == [[0, 1], [2, 3], [3]]
    assert refused(capsys, sample, "show before").startswith("there is no show before")


def test_accesses_that_go_by_are_shown_where_that_is_wanted(capsys: Output, sample: Path) -> None:
    assert len(opened(capsys, sample, "goto end")) == 1
    lines = opened(capsys, sample, "watch on; hide lapic; continue")
    assert sum("vcpu0" in line for line in lines) == 4


def test_ones_own_commands_filters_and_subscribers_are_there(
    capsys: Output, sample: Path, tmp_path: Path
) -> None:
    own = tmp_path / "own.py"
    own.write_text(
        "from tracer.repl.extension import command, filter, subscriber\n"
        "seen = []\n"
        "@subscriber\n"
        "def note(record): seen.append(record.seq)\n"
        "@filter('odd')\n"
        "def odd(access): return access.seq % 2 == 1\n"
        "@command('here', help='where it is')\n"
        "def here(guest): return [guest.access.direction, guest.state, seen]\n"
    )
    commands = "step 3; here; show last odd; py guest.run('back')['access']['seq']"
    assert main.main(["open", str(sample), "--load", str(own), "--json", "-e", commands]) == 0
    found = [json.loads(line)["result"] for line in capsys.readouterr().out.splitlines()]
    assert found[1] == ["read", "stopped", [0, 1, 2]]
    assert [one["seq"] for one in found[2]] == [1] and found[3]["value"] == 2


def rung(seq: int) -> QueueRecord:
    return QueueRecord(
        time_ns=214_318_000 + seq, seq=seq, vcpu=0, region="nvme", queue="SQ", number=1,
        entries=[QueueEntry(kind="COMMAND", index=seq, physical=0x1000, data=bytes(2))],
    )  # fmt: skip


@pytest.mark.parametrize("name", ["run.vtrace", "run.vtrace.zst"])
@pytest.mark.parametrize("size", [1, 3, 2048])
def test_a_doorbell_is_told_with_what_was_in_its_queue(
    capsys: Output, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, name: str
) -> None:
    monkeypatch.setattr(tape, "ACCESSES", size)
    made: list[Record] = [region("nvme"), region("hpet")]
    # What takes no stop is told later than its access, as often as not behind others.
    told = {0: [0], 1: [1], 9: [3, 2], 19: [19, 5]}
    for seq in range(20):
        made.append(intercept(seq, device("nvme", 0x1008, 4, "write", seq)))
        made += map(rung, told.get(seq, ()))
    path = write(tmp_path / name, [*made, end(20)])
    there = {each for numbers in told.values() for each in numbers}
    for order in (range(20), range(19, -1, -1), [5, 0, 19, 4]):
        words = [word for seq in order for word in (f"goto {seq}", "plan")]
        found = results(capsys, path, *words)[1::2]
        for seq, plan in zip(order, found, strict=True):
            entries = plan.get("queue", {}).get("entries", [])
            assert [entry["index"] for entry in entries] == [seq] * (seq in there)
    assert "SQ[1] COMMAND 19 at 0x1000" in "\n".join(opened(capsys, path, "goto 19; plan"))


# ---- inputs


def test_inputs_are_gone_to_and_told(capsys: Output, tmp_path: Path) -> None:
    path = write(
        tmp_path / "run.vtrace",
        [
            region("nvme"), ports("serial"),
            inputs(0, port(0x3F8, 1, "read", 7)),
            intercept(1, device("nvme", 0x14, 4, "write", 1)),
            inputs(2, msr(0xC0000080, "read", 0xD01), text="rdmsr", symbol="f+0x3"),
            inputs(3, *cpuid(7, 1), text="cpuid", symbol="g+0x3"),
            end(7),
        ],
    )  # fmt: skip
    assert stood(capsys, path, "break msr EFER", "c", "break port 0x3f8", "rc") == [2, 0]
    assert stood(capsys, path, "break cpuid 7.1", "c", "c") == [3, None]
    assert stood(capsys, path, "next msr", "step", "rn serial", "next nvme") == [2, 3, 0, 1]
    found = results(capsys, path, "info inputs")[0]
    assert {each["space"]: each["accesses"] for each in found} == {
        "port": 1, "msr": 1, "cpuid": 4,
    }  # fmt: skip
    assert "msr 0xc0000080" in "\n".join(opened(capsys, path, "goto 2; step; back; plan; regs"))


# ---- what there is not


@pytest.mark.parametrize(
    "command",
    ["x $rsp", "disas", "page", "peek nvme.CC", "poke nvme.CC 1", "set value 1", "skip", "detach",
     "fault gp", "rule on read do give 0", "mark here", "trace off", "rewrite 90", "delay 1ms"],
)  # fmt: skip
def test_a_command_that_needs_a_guest_says_so_in_a_line(
    capsys: Output, sample: Path, command: str
) -> None:
    why = " needs a guest, and this is a recording: `vetrace boot -i` starts one"
    assert refused(capsys, sample, command) == command.split()[0] + why


def test_a_setting_that_is_not_named_is_asked_for(capsys: Output, sample: Path) -> None:
    told = refused(capsys, sample, "set")
    assert told == "set what? set pager on|off  or  set editing-mode emacs|vi"


def test_help_has_what_serves_a_recording(capsys: Output, sample: Path) -> None:
    text = "\n".join(opened(capsys, sample, "help"))
    assert "reverse-continue" in text and "peek" not in text
    assert "set pager" in (settings := "\n".join(opened(capsys, sample, "help set")))
    assert "set value VALUE" not in settings


def test_help_of_a_recording_speaks_of_no_guest(capsys: Output, sample: Path) -> None:
    briefs = results(capsys, sample, "help")[0]
    assert [name for name, brief in briefs.items() if "the guest" in brief] == []


def test_what_the_trace_does_not_have_is_told(capsys: Output, sample: Path) -> None:
    assert "did you mean nvme" in refused(capsys, sample, "next nvm")
    why = refused(capsys, sample, "break symbol nvme_enabl_ctrl")
    assert why == "no function is called nvme_enabl_ctrl; did you mean nvme_enable_ctrl?"
    assert refused(capsys, sample, "break port 0x64").startswith("port is an input, and none are")
    assert refused(capsys, sample, "break tdcall").endswith("`vetrace show` tells calls")
    assert refused(capsys, sample, "goto end; plan").endswith("`back` goes back")
    assert refused(capsys, sample, "goto end; continue").startswith("the end of the trace")
    assert refused(capsys, sample, "goto").startswith("say where to")
    assert refused(capsys, sample, "back 0").startswith("0 accesses cannot be gone back")


def test_an_imported_trace_has_no_registers(capsys: Output, tmp_path: Path) -> None:
    log = Path(__file__).parents[2] / "data" / "mmiotrace" / "damaged.log"
    path = tmp_path / "log.vtrace"
    assert main.main(["import", str(log), "-o", str(path)]) in (0, 1)
    capsys.readouterr()
    assert "no registers were recorded" in refused(capsys, path, "regs")
    lines = opened(capsys, path, "step; plan; bt; info trace; rc")
    assert "note        Of the instruction nothing but its access is known." in lines
    assert "changes     not known" in lines
    # It tells of no machine, whose processors nobody has counted.
    told = [line.split("  ")[0] for line in opened(capsys, path, "info trace")]
    assert "kernel" in told and not {"machine", "command line"} & set(told)


def test_the_machine_of_a_trace_is_told(capsys: Output, sample: Path) -> None:
    (line,) = (each for each in opened(capsys, sample, "info trace") if each.startswith("machine"))
    assert line.split(maxsplit=1)[1] == "1 vCPU, QEMU 7.2.22, icount clock"


# ---- broken, cut, still written, and no file at all


def test_a_cut_trace_opens_and_tells_where_it_ends(capsys: Output, sample: Path) -> None:
    data = sample.read_bytes()
    sample.write_bytes(data[: len(data) * 9 // 10])
    text = "\n".join(opened(capsys, sample, "goto end", "back", "info trace"))
    assert "the end of the trace: " in text and "line" in text


def test_a_broken_line_ends_what_can_be_gone_through(capsys: Output, tmp_path: Path) -> None:
    lines = write(tmp_path / "run.vtrace").read_bytes().splitlines(keepends=True)
    path = tmp_path / "bad.vtrace"
    path.write_bytes(b"".join([*lines[:9], b"no json\n", *lines[9:]]))
    text = "\n".join(opened(capsys, path, "continue", "back", "info trace", "stats"))
    assert "the end of the trace: nothing more can be read" in text
    assert "line 10: not JSON" in text


def test_a_trace_without_accesses_opens(capsys: Output, tmp_path: Path) -> None:
    path = write(tmp_path / "run.vtrace", [region("nvme"), end(0)])
    assert refused(capsys, path, "step") == "the end of the trace (the guest has powered off)"
    assert opened(capsys, path, "info trace")


def test_a_folder_that_cannot_be_written_is_no_matter(capsys: Output, sample: Path) -> None:
    before = sorted(sample.parent.iterdir())
    sample.chmod(0o400)
    sample.parent.chmod(0o500)
    try:
        assert stood(capsys, sample, "goto end", "back") == [None, 4]
    finally:
        sample.parent.chmod(0o700)
    assert sorted(sample.parent.iterdir()) == before


def test_what_is_no_file_is_told(capsys: Output, tmp_path: Path) -> None:
    assert main.main(["open", str(tmp_path / "none"), "-e", "step"]) == 1
    assert "No such file" in capsys.readouterr().err
    assert main.main(["open", str(write(tmp_path / "run.vtrace")), "--load", "none.py"]) == 2
    assert "there is no file none.py" in capsys.readouterr().err


def test_a_pipe_is_refused(sample: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tracer", "open", "-", "-e", "step"],
        stdin=sample.open("rb"), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == (
        "vetrace: standard input is read once, and a prompt goes back: give a file\n"
    )


def test_commands_come_through_standard_input(sample: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tracer", "open", str(sample)],
        input="step\nplan\nback 2\n", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "nvme+0x14" in done.stdout and "the beginning of the trace" in done.stdout
    assert "\x1b" not in done.stdout


def test_no_guest_is_loaded_to_open_a_trace(sample: Path) -> None:
    code = (
        "import sys; from tracer.cli import main;"
        f"main.main(['open', {str(sample)!r}, '-e', 'step; plan; back; stats']);"
        "print([name for name in sys.modules if name.startswith("
        "('tracer.qemu', 'tracer.gdb', 'tracer.linux', 'tracer.session.session', 'pygdbmi'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_opcode_maps_are_read_for_an_instruction_of_theirs() -> None:
    code = (
        "from tracer.cli import main; from tracer.x86.opcode import rows_of_map;"
        f"main.main(['open', {str(GOLDEN)!r}, '-e', 'step; plan']);"
        "print(rows_of_map.cache_info().currsize)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0"  # MOV is in the table of forms


def test_a_record_of_many_accesses_has_them_one_by_one(capsys: Output, tmp_path: Path) -> None:
    path = write(tmp_path / "run.vtrace", [*RECORDS])
    with TraceReader(path) as trace:
        assert sum(1 for _ in trace) == len(RECORDS)
    found = results(capsys, path, "goto 2", "plan")[1]
    assert [each["moment"] for each in found["accesses"]] == ["done", "pending"]


# ---- what a person keeps


def test_breaks_are_saved_and_read_again(
    capsys: Output, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = many(tmp_path / "run.vtrace")
    made = [
        "break hpet after 1", "tbreak write nvme+0x18 if value > 5", "break if seq == 3",
        "disable 3", "save breaks kept",
    ]  # fmt: skip
    assert results(capsys, path, *made)[-1]["breaks"] == 3
    assert (tmp_path / "kept").read_text().splitlines() == [
        "break hpet after 1", "break write nvme+0x18 if value > 5 times 1",
        "# disabled: break if seq == 3",
    ]  # fmt: skip
    assert stood(capsys, path, *made[:-1], "c", "c", "c") == stood(
        capsys, path, "source kept", "c", "c", "c"
    )
    assert "File exists" in refused(capsys, path, "save breaks kept")
    assert "\n" not in refused(capsys, path, "save breaks no\nfolder/kept")
    assert "usage: save breaks FILE" in refused(capsys, path, "save all")


def test_an_alias_stands_for_commands(capsys: Output, sample: Path, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("alias on step; step\nalias at goto\non 2\nat 1\nunalias at\nalias\n")
    assert main.main(["open", str(sample), "--json", "-x", str(script)]) == 0
    found = [json.loads(line)["result"] for line in capsys.readouterr().out.splitlines()]
    assert numbers(found) == [1, 3, 1] and found[-1] == {"on": "step; step"}
    assert refused(capsys, sample, "alias step back") == "there is a command step already"
    assert "there is no alias x" in refused(capsys, sample, "unalias x")


# ---- what a break orders


def test_a_break_orders_what_is_done_where_it_stops(capsys: Output, tmp_path: Path) -> None:
    path = many(tmp_path / "run.vtrace", 2000)
    rows = results(capsys, path, "break hpet; commands; info trace; end; info breaks; c")
    assert rows[2][0]["commands"] == ["info trace"]
    assert rows[3]["access"]["seq"] == 9 and rows[4]["accesses"] == 2000
    # The first that lets it go on is the last: what comes next is of the next stop.
    silent = opened(capsys, path, "break hpet; commands; silent; info display; c; stats; end; c")
    assert silent[2:] == [*["nothing is displayed at stops; `display plan` would be"] * 200, END]
    told = opened(capsys, path, "break hpet; commands 1; c; end; c")
    assert told.count("break 1: hpet") == 1 + 200 and told[-1] == END
    assert numbers(results(capsys, path, "break hpet; commands; c; end; commands 1; end; c")) == [9]


def test_orders_come_from_scripts_and_are_saved(
    capsys: Output, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = many(tmp_path / "run.vtrace")
    script = tmp_path / "script"
    script.write_text(
        "break hpet\ncommands\n\n  silent\n  # what it read\nc\nend\nsave breaks kept\n"
    )
    assert main.main(["open", str(path), "-x", str(script)]) == 0
    saved = ["break hpet", "commands", "silent", "c", "end"]
    assert (tmp_path / "kept").read_text().splitlines() == saved
    capsys.readouterr()
    assert opened(capsys, path, "source kept", "c")[2:] == [END]
    script.write_text("break hpet\ncommands\nc\n")
    assert main.main(["open", str(path), "-x", str(script)]) == 2
    assert f"{script}:3: the commands of break 1 have no `end`" in capsys.readouterr().err
    assert "have no `end`" in refused(capsys, path, "break hpet; commands; c")
    assert "there are no breaks" in refused(capsys, path, "commands")
    assert "there is no break 7" in refused(capsys, path, "break hpet; commands 7")
    # One that fails ends the line.
    assert "commands: there is no command nonsense" in refused(
        capsys, path, "break hpet; commands; nonsense; end; c; stats"
    )


def test_a_function_is_named_where_it_begins(capsys: Output) -> None:
    assert opened(capsys, GOLDEN, "sym nvme_reset_work") == [
        "0xffffffff8173f060  nvme_reset_work+0x0"
    ]
