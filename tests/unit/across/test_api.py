"""vetrace from Python: traces as flat values and tables, and a guest beside the event loop."""

from __future__ import annotations

import asyncio
import io
import json
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import trace_sample as sample
from guest_sample import CRASH, Talk

import tracer.golden
import tracer.repl.extension
import tracer.trace
from tracer import api
from tracer.api import Access, Guest, boot, open_trace, to_dataframe
from tracer.cli import main
from tracer.errors import GuestCrashed, TraceError, UsageError
from tracer.export import dataframe
from tracer.trace.record import LostRecord, Mark, StackFrame, StackRecord

Output = pytest.CaptureFixture[str]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return sample.write(tmp_path / "run.vtrace.zst")


def numbers(accesses: object) -> list[int]:
    return [access.seq for access in accesses]  # type: ignore[attr-defined]


# ---- traces


def test_an_access_is_what_show_tells_with_numbers_as_numbers(path: Path, capsys: Output) -> None:
    assert main.main(["show", str(path), "--json"]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(told) == 5
    for access, shown in zip(open_trace(path), told, strict=True):
        assert (access.seq, access.time_ns, access.vcpu) == (
            shown["seq"], shown["time_ns"], shown["vcpu"],
        )  # fmt: skip
        assert (hex(access.rip), access.code.hex()) == (shown["rip"], shown["bytes"])
        assert hex(access.physical) == shown["address"]
        assert (hex(access.offset or 0), access.width) == (shown["offset"], shown["width"])
        assert (None if access.value is None else hex(access.value)) == shown["value"]
        for name in ("symbol", "text", "region", "register", "extent", "direction", "via"):
            assert getattr(access, name) == shown[name], name
        assert (access.device_value, access.skipped) == (shown["device"], shown["skipped"])


WORDS: list[tuple[dict[str, Any], list[str]]] = [
    ({"region": "nvme"}, ["--region", "nvme"]),
    ({"region": "nvme", "write": True}, ["--region", "nvme", "--write"]),
    ({"read": True}, ["--read"]),
    ({"register": "CC"}, ["--register", "CC"]),
    ({"offset": 0x14}, ["--offset", "0x14"]),
    ({"offset": "0x14-0x1f"}, ["--offset", "0x14-0x1f"]),
    ({"value": 7}, ["--value", "7"]),
    ({"value": "1/0xf"}, ["--value", "1/0xf"]),
    ({"changes": True}, ["--changes"]),
    ({"symbol": "nvme_*"}, ["--symbol", "nvme_*"]),
    ({"vcpu": 0}, ["--vcpu", "0"]),
    ({"time": "0.214318002-"}, ["--time", "0.214318002-"]),
    ({"phase": "kernel"}, ["--phase", "kernel"]),
    ({"from_mark": "one"}, ["--from-mark", "one"]),
    ({"to_mark": "two"}, ["--to-mark", "two"]),
]


@pytest.mark.parametrize(("words", "options"), WORDS)
def test_words_choose_what_the_options_of_show_do(
    tmp_path: Path, capsys: Output, words: Any, options: list[str]
) -> None:
    again = sample.device("nvme", 0x1C, 4, "read", 1)
    records = [
        *sample.RECORDS[:-1],
        Mark(time_ns=3, text="one"),
        sample.intercept(5, again),
        Mark(time_ns=4, text="two"),
        sample.intercept(6, again),
        sample.end(7),
    ]
    path = sample.write(tmp_path / "run.vtrace", records)
    assert main.main(["show", str(path), "--json", *options]) == 0
    shown = [json.loads(line)["seq"] for line in capsys.readouterr().out.splitlines()]
    found = numbers(open_trace(path).where(**words))
    assert found == shown != []
    # Each filter but these leaves something out.
    assert len(found) < 7 or words.keys() & {"vcpu", "phase"}


def test_every_filter_of_show_is_a_word() -> None:
    tried = {name for words, _ in WORDS for name in words}
    _, commands = main.whole_parsers("0")
    (filters,) = [group for group in commands["show"]._action_groups if group.title == "filters"]
    options = {option for action in filters._group_actions for option in action.option_strings}
    known = {option.removeprefix("--").replace("-", "_") for option in options} - {
        "registers",
        "if",
    }
    assert api.Words.__annotations__.keys() == known
    assert tried == known


def test_a_trace_is_chosen_from_and_iterated_over_again_and_again(path: Path) -> None:
    trace = open_trace(path)
    narrow = trace.where(region="nvme").where(write=True)
    for _ in range(2):
        assert (numbers(trace), numbers(narrow)) == ([0, 1, 2, 3, 4], [1, 2])
    assert trace.header == sample.HEADER == narrow.header
    assert list(trace.records()) == sample.RECORDS
    assert repr(narrow) == f"<trace {str(path)!r}, region='nvme', write=True>"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({"regoin": "nvme"}, "there is no filter regoin; did you mean region?"),
        ({"read": True, "write": True}, "no access is a read and a write"),
        ({"offset": "x"}, "x is no offset"),
        ({"offset": -1}, "-1 is no offset: it is below 0"),
        ({"value": "2/1"}, "2/1 has bits outside its mask"),
        ({"time": "2"}, "2 is no span"),
        ({"vcpu": -1}, "-1 is no vCPU: it is below 0"),
        ({"region": []}, "a filter that chooses from nothing fits nothing"),
    ],
)
def test_a_word_that_says_nothing_is_refused_at_once(path: Path, words: Any, told: str) -> None:
    with pytest.raises(UsageError) as error:
        open_trace(path).where(**words)
    assert str(error.value).startswith(told)


def test_a_name_that_the_trace_has_not_is_told_at_its_end(path: Path) -> None:
    with pytest.raises(UsageError, match=r"no region of .* is called nvem; did you mean nvme"):
        list(open_trace(path).where(region="nvem"))


def test_a_trace_that_is_none_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="No such file"):
        open_trace(tmp_path / "none")


def test_what_is_missing_from_a_trace_is_warned_of(tmp_path: Path) -> None:
    path = sample.write(tmp_path / "cut.vtrace", sample.RECORDS[:-1])
    with pytest.warns(UserWarning, match="there is no end record"):
        assert numbers(open_trace(path)) == [0, 1, 2, 3, 4]


def test_standard_input_is_read_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Standard:
        buffer = io.BufferedReader(io.BytesIO(path.read_bytes()))  # type: ignore[arg-type]

    monkeypatch.setattr(sys, "stdin", Standard)
    trace = open_trace("-")
    narrow = trace.where(region="hpet")
    assert trace.header == sample.HEADER and numbers(narrow) == [3]
    for again in (trace, narrow):
        with pytest.raises(UsageError, match="read once only"):
            list(again)


def test_an_access_has_its_stack_and_what_was_lost_before_it(tmp_path: Path) -> None:
    from msgspec.structs import replace

    frames = [StackFrame(rip=0x10, symbol="inner+0x1"), StackFrame(rip=0x20)]
    bare = sample.intercept(0, sample.device("nvme", 0x1C, 4, "read", 1))
    records = [
        sample.region("nvme"),
        StackRecord(time_ns=1, id=7, frames=frames),
        LostRecord(time_ns=2, vcpu=0, count=3),
        replace(bare, stack=7),
        replace(bare, seq=1),
        sample.end(2),
    ]
    first, second = open_trace(sample.write(tmp_path / "run.vtrace", records))
    assert (first.stack, first.lost) == (("inner+0x1", "0x20"), 3)
    assert (second.stack, second.lost) == (None, 0)
    assert (first.function, first.device) == ("nvme_pci_enable", "nvme")


def test_registers_of_a_file_have_names(tmp_path: Path, path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text('applies = [{ region = "nvme" }]\n[register.MINE]\noffset = 0x1c\nwidth = 4\n')
    trace = open_trace(path, registers=[file])
    assert [access.register for access in trace.where(offset=0x1C, region="nvme")] == ["MINE"]


# ---- tables


def columns(frame: Any) -> dict[str, list[Any]]:
    """Return a frame of either library in the same form, with None for what is not known."""
    import pandas

    return {
        name: [None if value is pandas.NA else value for value in frame[name].tolist()]
        if isinstance(frame, pandas.DataFrame)
        else frame[name].to_list()
        for name in frame.columns
    }


@pytest.mark.parametrize("library", ["polars", "pandas"])
def test_a_table_has_each_member_as_it_is(path: Path, library: Any) -> None:
    pytest.importorskip("pandas")
    pytest.importorskip(library)
    accesses = [*open_trace(path)]
    frame = to_dataframe(accesses, library)
    assert type(frame).__module__.partition(".")[0] == library
    names = [field.name for field in fields(Access)]
    assert columns(frame) == {name: [getattr(a, name) for a in accesses] for name in names}
    assert columns(open_trace(path).to_dataframe(library)) == columns(frame)
    # What nothing is in has its columns all the same.
    assert list(to_dataframe([], library).columns) == names


@pytest.mark.parametrize("library", ["polars", "pandas"])
def test_a_table_keeps_all_64_bits_beside_what_is_not_known(tmp_path: Path, library: Any) -> None:
    pytest.importorskip("pandas")
    pytest.importorskip(library)
    values = [(1 << 64) - 1, None, (1 << 53) + 1]
    made = [
        sample.intercept(seq, sample.device("nvme", 0x28, 8, "read", value))
        for seq, value in enumerate(values)
    ]
    path = sample.write(tmp_path / "run.vtrace", [sample.region("nvme"), *made, sample.end(3)])
    assert columns(open_trace(path).to_dataframe(library))["value"] == values


def test_a_number_that_no_column_holds_is_told(tmp_path: Path) -> None:
    pytest.importorskip("polars")
    wide = sample.intercept(0, sample.device("nvme", 0x14, 4, "write", 1 << 64))
    path = sample.write(tmp_path / "run.vtrace", [sample.region("nvme"), wide, sample.end(1)])
    assert next(iter(open_trace(path))).value == 1 << 64
    with pytest.raises(ValueError, match="access 0: a number of more than 64 bits"):
        open_trace(path).to_dataframe()


def test_the_library_that_is_installed_is_taken(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pandas")
    trace = open_trace(path)
    monkeypatch.setitem(sys.modules, "polars", None)
    assert type(trace.to_dataframe()).__module__.partition(".")[0] == "pandas"
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UsageError, match=r"polars or pandas.*pip install 'vetrace\[dataframe\]'"):
        trace.to_dataframe()
    with pytest.raises(UsageError, match="needs pandas, which is not installed"):
        trace.to_dataframe("pandas")


def test_what_is_of_another_kind_is_told_at_once(path: Path) -> None:
    trace: Any = open_trace(path)
    anything: Any = 5
    with pytest.raises(UsageError, match=r"5 is no condition: a text such as"):
        trace.where(anything)
    with pytest.raises(UsageError, match=r"^'numpy' has no data frames: polars and pandas have$"):
        trace.to_dataframe("numpy")
    with pytest.raises(UsageError, match=r"^5 is no access"):
        to_dataframe([anything])
    with pytest.raises(UsageError, match=r"^path is 5, and takes"):
        open_trace(anything)
    with pytest.raises(UsageError, match=r"^registers is 'x.toml', and takes Sequence"):
        open_trace(path, registers="x.toml")
    with pytest.raises(UsageError, match=r"^memory is 5, and takes"):
        boot(memory=anything)
    for name in ("output", "qemu_log"):
        wrong: Any = {name: "nof/"}
        with pytest.raises(UsageError, match=r"cannot write nof/: Is a dir"), boot(**wrong):
            pass


def test_a_table_has_a_column_for_each_member() -> None:
    assert list(dataframe._COLUMNS) == [field.name for field in fields(Access)]


# ---- a guest


def driven(work: Callable[[Guest, Talk], None], **options: Any) -> Talk:
    """Do some work on a guest that stands at its kernel's entry, in a thread beside its loop."""
    talk = Talk(**options)

    async def body() -> None:
        await talk.start()
        guest = Guest(talk.context, asyncio.get_running_loop())
        try:
            await asyncio.to_thread(work, guest, talk)
        finally:
            await talk.control.close()

    asyncio.run(body())
    return talk


def test_accesses_that_wait_are_iterated_over_given_and_skipped() -> None:
    waited: list[Access] = []

    def work(guest: Guest, talk: Talk) -> None:
        for access in guest.at("write nvme.CC"):
            assert guest.waiting == access
            waited.append(access)
            if len(waited) == 1:
                guest.give(5)
            else:
                guest.skip()
        assert (guest.state, guest.outcome, guest.waiting) == ("ended", "poweroff", None)
        assert list(guest.breaks) == []

    talk = driven(work)
    assert [access.seq for access in waited] == [1, 3, 5]
    assert {(access.register, access.direction) for access in waited} == {("CC", "write")}
    texts = [getattr(record, "text", "") for record in talk.records]
    assert [text for text in texts if text.startswith(("set", "skip"))] == [
        "set value 0x5", "skip", "skip",
    ]  # fmt: skip


def test_a_loop_that_is_left_leaves_no_break() -> None:
    def work(guest: Guest, talk: Talk) -> None:
        guest.breaks.add("write nvme+0x1000")
        for _ in guest.at("nvme.CC"):
            break
        assert [item["text"] for item in guest.breaks] == ["write nvme+0x1000"]
        assert guest.state == "stopped"

    driven(work)


def test_finish_goes_past_all_breaks_and_what_was_made_is_counted() -> None:
    seen: list[Access] = []
    chosen: list[Access] = []

    def work(guest: Guest, talk: Talk) -> None:
        guest.subscribe(seen.append)
        guest.subscribe(chosen.append, "write nvme.CC")
        guest.breaks.add("nvme.CSTS")
        guest.finish()
        assert guest.outcome == "poweroff"
        assert guest.summary["accesses"] == len(seen) > len(chosen) > 0

    talk = driven(work)
    assert numbers(seen) == [seen.seq for seen in talk.context.recent]
    assert {access.direction for access in chosen} == {"write"}


def test_what_a_guest_ended_with_is_raised() -> None:
    def work(guest: Guest, talk: Talk) -> None:
        with pytest.raises(GuestCrashed, match="no init"):
            guest.finish()

    driven(work, error=CRASH)


def test_the_error_of_who_is_told_is_raised_by_who_waits() -> None:
    calls: list[Access] = []

    def fails(access: Access) -> None:
        calls.append(access)
        raise KeyError("mine")

    def work(guest: Guest, talk: Talk) -> None:
        guest.subscribe(fails)
        with pytest.raises(KeyError, match="mine"):
            guest.finish()
        assert (guest.state, len(calls)) == ("ended", 1)

    driven(work)


def test_who_subscribes_to_nothing_that_there_is_is_told() -> None:
    def work(guest: Guest, talk: Talk) -> None:
        with pytest.raises(UsageError, match="CCC"):
            guest.subscribe(lambda access: None, "nvme.CCC")
        assert talk.context.listeners == []

    driven(work)


def test_a_guest_whose_loop_is_gone_says_so() -> None:
    kept: list[Guest] = []
    driven(lambda guest, talk: kept.append(guest))
    with pytest.raises(UsageError, match="nothing of it can be reached any more"):
        kept[0].step()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({"kernel": __file__}, "not an x86 Linux kernel"),
        ({"region": "0x500-0x400"}, "ends before it begins"),
        ({"bypass": ["0x500-0x400"]}, "ends before it begins"),
        ({"memory": "much"}, "no memory size"),
        ({"guest": "tdy"}, "no guest 'tdy'; did you mean tdx?"),
        ({"guest": "sev-es", "memory": "3G"}, "2815M at most"),
        ({"qemu_args": ["-smp", "2"]}, "need --realtime"),
        ({"modules": ["e1000e"], "initrd": __file__}, "drop --initrd"),
        ({"registers": ["none.toml"]}, "cannot read none.toml"),
        ({"output": "none/run.vtrace"}, "cannot write trace none/run.vtrace: No such file"),
        ({"qemu_log": "none/qemu.log"}, "cannot write .*none/qemu.log: No such file"),
        ({"ring": 3}, "a ring of 3 records: powers of two"),
    ],
)
def test_a_guest_that_cannot_be_booted_says_why(words: Any, told: str) -> None:
    with pytest.raises(api.TracerError, match=told), boot(**words):
        raise AssertionError("it was booted")


def test_documented_names_are_where_they_were() -> None:
    assert api.Guest is tracer.repl.extension.Guest
    assert api.Intercept is tracer.trace.Intercept
    assert callable(tracer.golden.assert_matches_trace)
    assert all(hasattr(api, name) for name in api.__all__)
