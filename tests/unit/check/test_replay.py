"""Carrying recorded instructions out again: what agrees, and what tampering does."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import replay_sample
import trace_sample as sample

from tracer.check.divergence import Divergence
from tracer.check.replay import Replay, compiled_again
from tracer.cli import main
from tracer.trace import codec
from tracer.trace.record import End, Intercept, UserRecord
from tracer.x86.decode import decode
from tracer.x86.state import Mode

RECORDS = replay_sample.records()
NAMES = [record.text for record in RECORDS]
Output = pytest.CaptureFixture[str]


def diverges(record: Intercept) -> dict[str, tuple[str | None, str | None]]:
    """Replay one record in its region; return what differs by name."""
    found = Replay([sample.region("nvme")]).add(record)
    assert found is None or isinstance(found, Divergence)
    return {c.name: (c.expected, c.actual) for c in found.contrasts} if found else {}


def changed(record: Intercept, **members: object) -> Intercept:
    return msgspec.structs.replace(record, **members)


def tampered(record: Intercept, number: int = 0, **members: object) -> Intercept:
    """Return the record with members of one access changed."""
    accesses = list(record.accesses)
    accesses[number] = msgspec.structs.replace(accesses[number], **members)
    return changed(record, accesses=accesses)


@pytest.mark.parametrize("record", RECORDS, ids=NAMES)
def test_what_was_carried_out_is_carried_out_again(record: Intercept) -> None:
    assert diverges(record) == {}


@pytest.mark.parametrize("record", RECORDS, ids=NAMES)
@pytest.mark.parametrize("name", ["rip", "rflags", "rdx", "r15"])
def test_any_register_that_is_told_otherwise_is_seen(record: Intercept, name: str) -> None:
    right = record.after.get(name, record.before.get(name))
    assert diverges(changed(record, after=record.after | {name: 0xBAD})) == {
        name: ("0xbad", None if right is None else hex(right))
    }


@pytest.mark.parametrize("record", RECORDS, ids=NAMES)
def test_any_register_that_is_left_out_is_seen(record: Intercept) -> None:
    for name in record.after:
        after = {other: value for other, value in record.after.items() if other != name}
        assert set(diverges(changed(record, after=after))) == {name}


@pytest.mark.parametrize("record", RECORDS, ids=NAMES)
def test_any_access_that_is_told_otherwise_is_seen(record: Intercept) -> None:
    for number, access in enumerate(record.accesses):
        other = "write" if access.direction == "read" else "read"
        assert f"access {number}" in diverges(tampered(record, number, direction=other))
        assert f"access {number}" in diverges(tampered(record, number, width=access.width ^ 3))
        shifted = access.linear + 0x1000
        assert f"access {number}" in diverges(tampered(record, number, linear=shifted))
        assert access.value is not None
        # The value that goes between a device and a port is told by no register.
        told = access.value ^ 2
        ported = record.text.startswith(("rep ins", "outs"))
        assert bool(diverges(tampered(record, number, value=told))) != ported
        assert diverges(tampered(record, number, value=0x1FFFFFFFF))
        assert ported or diverges(tampered(record, number, value=None))


def test_an_access_too_many_and_one_too_few_are_seen() -> None:
    record = next(r for r in RECORDS if len(r.accesses) == 2)
    first, second = record.accesses
    assert diverges(changed(record, accesses=[first, second, second])) == {
        "access 2": (f"write {second.width} at {second.linear:#x} = {second.value:#x}", None)
    }
    expected, actual = diverges(changed(record, accesses=[first]))["access 1"]
    assert expected is None and actual is not None and hex(second.linear) in actual


def test_a_value_wider_than_its_access_is_seen() -> None:
    assert "access 0" in diverges(tampered(RECORDS[0], value=0x1FFFFFFFF))


def test_code_that_is_told_otherwise_is_seen() -> None:
    record = RECORDS[0]
    assert "length" in diverges(changed(record, code=record.code + b"\x90"))
    assert diverges(changed(record, code=bytes.fromhex("8b4020")))  # another displacement
    assert "outcome" in diverges(changed(record, code=b"\x06"))  # no instruction in 64-bit mode
    assert "outcome" in diverges(changed(record, code=b"\x8b"))  # cut
    assert "text" in diverges(changed(record, text="mov eax, ebx"))


def test_a_place_that_the_page_or_the_region_does_not_have_is_seen() -> None:
    record = RECORDS[0]
    assert "physical" in diverges(tampered(record, physical=0xFEBF0018))
    assert "physical in nvme" in diverges(tampered(record, physical=0xFEC0001C))
    assert diverges(tampered(record, offset=0x11C)) == {"offset in nvme": ("0x11c", "0x1c")}
    assert diverges(tampered(record, offset=None)) == {"offset in nvme": (None, "0x1c")}


def test_a_region_that_moved_has_an_offset_in_each_of_its_places() -> None:
    record = RECORDS[0]
    known = sample.region("nvme")
    moved = msgspec.structs.replace(known.region, start=0xFEBF0010)
    replay = Replay([known, msgspec.structs.replace(known, region=moved)])
    for seq, offset in enumerate((0x1C, 0xC)):
        again = msgspec.structs.replace(tampered(record, offset=offset), seq=seq)
        assert replay.add(again) is None
    assert replay.add(msgspec.structs.replace(tampered(record, offset=0x0), seq=2)) is not None


def test_a_region_that_another_one_covers_in_part_has_one_beginning() -> None:
    record = RECORDS[0]
    known = sample.region("nvme")
    pieces = [
        msgspec.structs.replace(known.region, end=0xFEBF000F),
        msgspec.structs.replace(known.region, start=0xFEBF0018, base=0xFEBF0000),
    ]
    announced = [msgspec.structs.replace(known, region=piece) for piece in pieces]
    assert Replay(announced).add(record) is None
    apart = Replay(announced).add(tampered(record, offset=0x4))
    assert apart is not None and apart.contrasts[0].name == "offset in nvme"


def test_a_fault_that_the_accesses_do_not_explain_is_seen() -> None:
    for record in RECORDS:
        end = record.accesses[-1]
        beyond = end.linear + end.width
        repeats = record.text.startswith("rep ")  # its later iterations keep the first one's fault
        found = diverges(changed(record, cr2=beyond))
        assert found == ({} if repeats else {"cr2": ("within an access", hex(beyond))})
        other = record.error_code ^ 2
        if {access.direction for access in record.accesses} == {"read", "write"} or repeats:
            assert diverges(changed(record, error_code=other)) == {}
        else:
            assert set(diverges(changed(record, error_code=other))) == {"direction by error_code"}


@pytest.mark.parametrize("error_code", [0x0, 0x1, 0x1B, 0x29, 0x8009])
def test_an_error_code_that_poison_does_not_have_is_seen(error_code: str) -> None:
    assert "error_code" in diverges(changed(RECORDS[0], error_code=error_code))


def test_an_instruction_beside_a_device_is_what_the_fault_is_about() -> None:
    fetched = changed(RECORDS[0], error_code=0x18, cr2=RECORDS[0].rip)
    assert diverges(fetched) == {}
    beyond = fetched.rip + len(fetched.code)
    assert diverges(changed(fetched, cr2=beyond)) == {
        "cr2": ("within the instruction", hex(beyond))
    }


def test_an_access_over_two_regions_is_carried_out_again() -> None:
    linear = replay_sample.NVME + 0x1FFC
    cpu = replay_sample.cpu(rax=linear, rcx=0x1122334455667788)
    whole = replay_sample.record(0, "488908", cpu)  # mov [rax], rcx
    low = sample.device("nvme", 0x1FFC, 4, "write", 0x55667788)
    high = msgspec.structs.replace(
        sample.device("hpet", 0, 4, "write", 0x11223344), linear=linear + 4
    )
    assert diverges(changed(whole, accesses=[low, high])) == {}
    # Within one region it would have gone whole.
    low = sample.device("nvme", 0x1FF8, 4, "write", 0x55667788)
    high = sample.device("nvme", 0x1FFC, 4, "write", 0x11223344)
    cpu = replay_sample.cpu(rax=linear - 4, rcx=0x1122334455667788)
    whole = replay_sample.record(0, "488908", cpu)
    assert "access 0" in diverges(changed(whole, accesses=[low, high]))


def test_a_privilege_level_that_the_error_code_does_not_have_is_seen() -> None:
    assert diverges(changed(RECORDS[0], cpl=3)) == {"cpl by error_code": ("0 to 2", "3")}
    assert diverges(changed(RECORDS[0], error_code=0xD)) == {"cpl by error_code": ("3", "0")}


def test_the_fault_of_a_native_step_is_held_to_its_access() -> None:
    step = sample.intercept(0, sample.device("lapic", 0x20, 4, "read", None), via="stepped")
    assert Replay().add(step) is None
    assert Replay().add(changed(step, cr2=0x0)) is not None
    assert Replay().add(changed(step, error_code=0xB)) is not None


def test_what_a_person_set_may_lead_elsewhere_than_the_fault() -> None:
    record = changed(RECORDS[0], cr2=0xFFFFC90000000000)
    assert Replay().add(record) is not None
    by_hand = UserRecord(time_ns=0, text="set rax 0x0", registers={"rax": 0})
    assert Replay([by_hand]).add(record) is None
    looked = UserRecord(time_ns=0, text="poke nvme+0x14 0x0")
    assert Replay([looked]).add(record) is not None


def test_a_vcpu_that_the_guest_does_not_have_is_seen() -> None:
    assert Replay(vcpus=2).add(changed(RECORDS[0], vcpu=1)) is None
    found = Replay(vcpus=2).add(changed(RECORDS[0], vcpu=2))
    assert found is not None and [c.name for c in found.contrasts] == ["vcpu"]


def test_the_example_of_the_contract_is_replayed() -> None:
    page = (Path(__file__).parents[3] / "docs" / "trace-format.md").read_text()
    lines = page.partition("```jsonl\n")[2].partition("```")[0].encode().splitlines()[1:]
    replay = Replay()
    for number, line in enumerate(lines, 2):
        record = codec.decode(line, number)
        assert not isinstance(record, codec.Unknown) and replay.add(record) is None
    assert replay.counts.replayed == 1


def test_a_record_that_is_missing_is_seen() -> None:
    replay = Replay()
    assert replay.add(RECORDS[0]) is None
    found = replay.add(RECORDS[2])
    assert found is not None
    assert [(c.name, c.expected, c.actual) for c in found.contrasts] == [("seq", "1", "2")]


def test_native_steps_are_counted_and_not_held_to_anything() -> None:
    replay = Replay()
    access = sample.device("lapic", 0x20, 4, "read", None)
    assert replay.add(sample.intercept(0, access, via="stepped")) is None
    assert (replay.counts.replayed, replay.counts.stepped) == (0, 1)


def test_an_access_that_the_end_cut_is_counted_and_not_held_to_anything() -> None:
    access = sample.device("lapic", 0x20, 0, "read", None)
    record = changed(RECORDS[0], accesses=[msgspec.structs.replace(access, extent=4)])
    replay = Replay()
    assert replay.add(record) is None
    assert (replay.counts.replayed, replay.counts.incomplete) == (0, 1)


def test_a_record_without_a_register_that_its_instruction_sees_is_counted() -> None:
    record = next(r for r in RECORDS if "fs_base" in r.before)
    before = {name: value for name, value in record.before.items() if name != "fs_base"}
    replay = Replay()
    assert replay.add(changed(record, before=before)) is None
    assert (replay.counts.replayed, replay.counts.incomplete) == (0, 1)


def test_a_record_without_general_purpose_registers_or_mode_diverges() -> None:
    before = {name: value for name, value in RECORDS[0].before.items() if name not in ("rax", "r9")}
    assert diverges(changed(RECORDS[0], before=before)) == {
        "before": ("rflags and 16 registers", "no r9, rax")
    }
    assert "before" in diverges(changed(RECORDS[0], mode=8))


# --- the command -----------------------------------------------------------------------------


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_the_command_replays_a_trace(tmp_path: Path, capsys: Output, jobs: str) -> None:
    path = sample.write(tmp_path / "run.vtrace.zst", replay_sample.trace())
    assert main.main(["replay", str(path), "--jobs", jobs]) == 0
    out, err = capsys.readouterr()
    assert (out, err) == (f"{len(RECORDS)} records replayed; no divergence\n", "")


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_the_first_divergence_is_shown(tmp_path: Path, capsys: Output, jobs: str) -> None:
    records = replay_sample.trace()
    records[1] = changed(RECORDS[0], after=RECORDS[0].after | {"rbx": 0xBAD})
    records[3] = changed(RECORDS[2], after={})
    path = sample.write(tmp_path / "run.vtrace", records)
    assert main.main(["replay", str(path), "--jobs", jobs]) == 3
    out, _ = capsys.readouterr()
    assert out.splitlines()[:3] == [
        "access #0 at nvme_pci_enable+0x5e diverges: mov eax, dword ptr [rax + 0x1c] (8b 40 1c)",
        "     expected  actual",
        "rbx  0xbad     0x303030303030303",
    ]
    assert main.main(["replay", str(path), "--jobs", jobs, "--json"]) == 3
    told = json.loads(capsys.readouterr().out)
    assert not told["agrees"] and told["divergence"]["contrasts"] == [
        {"name": "rbx", "expected": "0xbad", "actual": "0x303030303030303"}
    ]


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_gap_between_what_two_processes_replay_is_seen(
    tmp_path: Path, capsys: Output, jobs: str
) -> None:
    records = [changed(RECORDS[0], seq=seq) for seq in range(5000)]
    # 2000 lines go to a process: the region and 1999 records.
    del records[1999]
    path = sample.write(tmp_path / "run.vtrace", [sample.region("nvme"), *records])
    assert main.main(["replay", str(path), "--jobs", jobs]) == 3
    assert "access #2000 " in capsys.readouterr().out


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_records_that_are_missing_at_either_end_are_seen(
    tmp_path: Path, capsys: Output, jobs: str
) -> None:
    region, first, *others, last, end = replay_sample.trace()
    path = sample.write(tmp_path / "run.vtrace", [region, *others, last, end])
    assert main.main(["replay", str(path), "--jobs", jobs]) == 3
    assert "seq  0         1" in capsys.readouterr().out
    path = sample.write(tmp_path / "run.vtrace", [region, first, *others, end])
    assert main.main(["replay", str(path), "--jobs", jobs, "--json"]) == 3
    out, err = capsys.readouterr()
    have = sum(len(r.device_accesses()) for r in (first, *others) if isinstance(r, Intercept))
    assert isinstance(last, Intercept)
    told = f"its end record counts accesses {have + len(last.accesses)}, but it has {have}"
    assert not json.loads(out)["agrees"] and json.loads(out)["miscounted"] == told
    assert err == f"vetrace: {path}: {told}\n"


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_record_that_is_called_stepped_is_missed(
    tmp_path: Path, capsys: Output, jobs: str
) -> None:
    region, first, *others, end = replay_sample.trace()
    assert isinstance(first, Intercept) and isinstance(end, End)
    made = sum(len(r.device_accesses()) for r in (first, *others) if isinstance(r, Intercept))
    counts = {"accesses": made, "emulated": made, "stepped": 0}
    path = tmp_path / "run.vtrace"
    changed_end = msgspec.structs.replace(end, counts=counts)
    sample.write(path, [region, first, *others, changed_end])
    assert main.main(["replay", str(path), "--jobs", jobs]) == 0
    sample.write(path, [region, changed(first, via="stepped"), *others, changed_end])
    assert main.main(["replay", str(path), "--jobs", jobs]) == 3
    told = f"counts emulated {made}, but it has {made - len(first.accesses)}"
    assert told in capsys.readouterr().err


def test_a_record_of_a_compiled_site_is_carried_out_again_and_counted(
    tmp_path: Path, capsys: Output
) -> None:
    region, first, *others, end = replay_sample.trace()
    assert isinstance(first, Intercept) and isinstance(end, End)
    path, made = tmp_path / "run.vtrace", len(first.device_accesses())
    compiled = changed(first, via="compiled")
    counts = {"compiled": made}
    sample.write(path, [region, compiled, *others, msgspec.structs.replace(end, counts=counts)])
    assert main.main(["replay", str(path)]) == 0
    counts = {"compiled": made + 1}
    sample.write(path, [region, compiled, *others, msgspec.structs.replace(end, counts=counts)])
    assert main.main(["replay", str(path)]) == 3
    assert f"counts compiled {made + 1}, but it has {made}" in capsys.readouterr().err
    wrong = changed(first, via="compiled", after={**first.after, "rbx": 1})
    sample.write(path, [region, wrong, *others, end])
    assert main.main(["replay", str(path)]) == 3


@pytest.mark.parametrize("code", ["0f6f0f", "d907", "c5fe6f0f"], ids=["mmx", "x87", "ymm"])
def test_a_compiled_site_on_registers_that_no_record_has_is_counted_as_such(
    tmp_path: Path, capsys: Output, code: str
) -> None:
    region, first, *others, end = replay_sample.trace()
    assert isinstance(first, Intercept)
    insn = decode(bytes.fromhex(code), first.rip, Mode.LONG)
    hidden = changed(first, via="compiled", code=insn.code, text=insn.text)
    path = sample.write(tmp_path / "run.vtrace", [region, hidden, *others, end])
    main.main(["replay", str(path)])
    assert "1 without the registers they need, not replayable" in capsys.readouterr().out
    sample.write(path, [region, first, *others, end])
    main.main(["replay", str(path)])
    assert "without the registers" not in capsys.readouterr().out


def test_a_trace_without_an_emulated_access_does_not_agree(tmp_path: Path, capsys: Output) -> None:
    path = sample.write(tmp_path / "run.vtrace", [sample.region("nvme"), sample.end(0)])
    assert main.main(["replay", str(path)]) == 3
    assert "nothing was replayed" in capsys.readouterr().err


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_bad_line_is_named(tmp_path: Path, capsys: Output, jobs: str) -> None:
    path = sample.write(tmp_path / "run.vtrace", replay_sample.trace())
    path.write_bytes(path.read_bytes().replace(b'"seq":1,', b'"seq":"1",'))
    assert main.main(["replay", str(path), "--jobs", jobs]) == 1
    assert f"vetrace: {path}: line 4: bad record" in capsys.readouterr().err


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_what_is_cut_or_unknown_is_told(tmp_path: Path, capsys: Output, jobs: str) -> None:
    path = sample.write(tmp_path / "run.vtrace", replay_sample.trace()[:-1])
    path.write_bytes(path.read_bytes() + b'{"type":"irq"}\n{"type":"mm')
    assert main.main(["replay", str(path), "--jobs", jobs]) == 0
    out, err = capsys.readouterr()
    assert out == f"{len(RECORDS)} records replayed; no divergence\n"
    assert "11 bytes of an unfinished record are left out" in err
    assert "skipped 1 record of unknown type 'irq'" in err


def test_a_terminal_sees_the_progress(tmp_path: Path) -> None:
    path = sample.write(tmp_path / "run.vtrace", replay_sample.trace())
    screen, terminal = pty.openpty()
    # As if it were a long trace.
    code = "import sys, tracer.cli.terminal as t; t._PATIENCE = 0\n"
    code += "from tracer.__main__ import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, "replay", str(path)],
        cwd=Path(__file__).parents[3], stdout=subprocess.PIPE, stderr=terminal, text=True,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "80"},
    )  # fmt: skip
    os.close(terminal)
    shown = os.read(screen, 1 << 16).decode()
    os.close(screen)
    assert (done.returncode, done.stdout) == (
        0,
        f"{len(RECORDS)} records replayed; no divergence\n",
    )
    assert "replaying" in shown and "100%" in shown


def test_jobs_are_at_least_one(tmp_path: Path, capsys: Output) -> None:
    assert main.main(["replay", "x", "--jobs", "0"]) == 2
    assert "--jobs 0" in capsys.readouterr().err


def test_what_compiled_sites_made_is_held_to_the_emulator_and_the_rest_is_left_out() -> None:
    one, other = RECORDS[0], RECORDS[2]
    compiled = msgspec.structs.replace(other, via="compiled")
    counts, divergence = compiled_again([one, compiled])
    assert (counts.replayed, divergence) == (1, None)
    wrong = tampered(compiled, value=0x1234)
    counts, divergence = compiled_again([one, compiled, wrong, compiled])
    assert divergence is not None and divergence.seq == compiled.seq
    assert compiled_again([tampered(one, value=0x1234)])[1] is None
