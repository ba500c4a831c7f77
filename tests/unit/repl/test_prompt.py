"""The prompt: lines, words, completion, what is shown of a feed, keys and history."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trace_sample as sample
from guest_sample import MAPS, Talk
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from scripts.patience import patience
from tracer.devices.directory import look_up
from tracer.errors import UsageError
from tracer.repl.commands import command_table
from tracer.repl.completion import Candidates
from tracer.repl.feed import (
    Feed,
    Item,
    Meter,
    Rule,
    Seen,
    Skipped,
    Ticking,
    Waited,
    skipped_line,
)
from tracer.repl.feed_lines import item_lines
from tracer.repl.history import history_file
from tracer.repl.interpreter import INTERRUPTED
from tracer.repl.parser import Statement, statements, words
from tracer.repl.prompt import Prompt
from tracer.repl.result import Screen
from tracer.repl.script import file_lines, stream_lines, text_lines
from tracer.repl.toolbar import toolbar_cells, toolbar_text
from tracer.trace.fold import Fold
from tracer.trace.poll import Poll

# ---- lines and words


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("", []),
        ("# all of it", []),
        ("step", [("step", "")]),
        ("  step  3 ; continue;; ", [("step", "3"), ("continue", "")]),
        ("x/8xw $rsp", [("x", "/8xw $rsp")]),
        ("next nvme#2 # the second", [("next", "nvme#2")]),
        ("mark don't stop; step", [("mark", "don't stop"), ("step", "")]),
        ('break nvme if symbol ~ "a;b#c" # x', [("break", 'nvme if symbol ~ "a;b#c"')]),
        ("py x = 1; print('#', x) # y", [("py", "x = 1; print('#', x) # y")]),
        ("step; py a; b", [("step", ""), ("py", "a; b")]),
        ("? step", [("?", "step")]),
    ],
)
def test_statements(line: str, found: list[tuple[str, str]]) -> None:
    made = list(statements(line, lambda name: name == "py"))
    assert made == [Statement(name, rest) for name, rest in found]


@pytest.mark.parametrize(
    ("text", "found"),
    [("a  b", ["a", "b"]), ("'a b' \"c'd\"", ["a b", "c'd"]), ("x='a b'", ["x=a b"]), ("''", [""])],
)
def test_words(text: str, found: list[str]) -> None:
    assert words(text) == found


def test_an_open_quote_is_told() -> None:
    with pytest.raises(UsageError, match='the quote " at column 6 is not closed'):
        list(statements('mark "abc; step'))


# ---- what is shown


def seen(seq: int, name: str = "nvme", value: int = 1) -> Seen:
    access = sample.device(name, 4 * seq, 4, "write", value)
    return Seen(seq, sample.intercept(seq, access), access)


def test_what_is_too_much_is_counted_and_the_last_before_a_stop_are_shown() -> None:
    feed = Feed(limit=3)
    shown = [item for seq in range(20) for item in feed.add(seen(seq), 0.01 * seq)]
    assert [item.seq for item in shown if isinstance(item, Seen)] == [0, 1, 2]
    assert feed.tick(0.5) == []
    assert feed.tick(1.0) == [Skipped(17, 20.0)]
    shown = [item for seq in range(10) for item in feed.add(seen(seq), 2.0)]
    rest = feed.flush(2.0)
    assert rest[0] == Skipped(4, 10.0)
    assert [item.seq for item in rest[1:] if isinstance(item, Seen)] == [7, 8, 9]
    assert feed.flush(2.0) == []


def test_nothing_is_lost_between_shown_and_counted() -> None:
    feed = Feed(limit=5)
    items: list[Item] = []
    for seq in range(1000):
        items += feed.add(seen(seq), seq / 100)
    items += feed.flush(10.0)
    counted = sum(item.count if isinstance(item, Skipped) else 1 for item in items)
    assert counted == 1000


def test_without_a_limit_all_is_shown_and_switched_off_nothing() -> None:
    feed = Feed(limit=None)
    assert all(feed.add(seen(seq), 0.0) for seq in range(100))
    feed.on = False
    assert feed.add(seen(1), 0.0) == [] and feed.flush(0.0) == []


def test_a_pause_tells_afterwards_what_came() -> None:
    feed = Feed(limit=None)
    feed.paused = True
    assert [item for seq in range(9) for item in feed.add(seen(seq), float(seq))] == []
    assert feed.tick(100.0) == []
    assert feed.resume(9.0)[0] == Skipped(6, 1.0)


def test_filters_let_through_what_any_fits_and_nothing_that_is_hidden() -> None:
    feed = Feed(limit=None)
    feed.filters = [Rule("even", lambda e: e.seq % 2 == 0), Rule("3", lambda e: e.seq == 3)]
    feed.hidden = [Rule("4", lambda e: e.seq == 4)]
    found = [item for seq in range(7) for item in feed.add(seen(seq), 0.0)]
    assert [item.seq for item in found if isinstance(item, Seen)] == [0, 2, 3, 6]


def test_a_loop_is_told_once() -> None:
    feed = Feed(limit=None, folds=True)
    items = [item for _ in range(50) for item in feed.add(seen(1), 0.0)]
    items += feed.flush(0.0)
    lines = [line for item in items for line in item_lines(item, Screen(100), "")]
    assert len(lines) < 8 and "more times" in lines[-1]


def test_a_loop_without_an_end_is_told_of_every_few_seconds() -> None:
    feed = Feed(limit=None, folds=True)
    items = [item for tenth in range(300) for item in feed.add(seen(1), tenth / 10)]
    folds = [item for item in items if isinstance(item, Fold)]
    assert len(folds) == 5
    items += feed.flush(30.0)
    turns = sum(item.turns if isinstance(item, Fold) else 1 for item in items)
    assert turns == 300 and len(items) < 40


def named(seq: int, region: str, offset: int) -> Seen:
    found = MAPS.of_region(region)
    assert found is not None
    access = sample.device(region, offset, 4, "read", 1)
    record = sample.intercept(seq, access)
    return Seen(seq, record, access, named=found.lookup(offset, 4))


def test_a_loop_goes_on_whatever_other_devices_do_meanwhile() -> None:
    feed = Feed(limit=None, folds=True)
    items: list[Item] = []
    for seq in range(100):
        items += feed.add(named(0, "nvme", 0x1C), 0.0)
        items += feed.add(seen(seq, "lapic", seq), 0.0)
    items += feed.flush(0.0)
    told = [item for item in items if isinstance(item, Seen) and item.access.region == "nvme"]
    assert len(told) < 5
    (fold,) = [item for item in items if isinstance(item, Fold)]
    assert fold.turns == 100 - len(told) and fold.apart
    (line,) = item_lines(fold, Screen(100), "")
    assert "↑ nvme CSTS at nvme_pci_enable+0x5e: " in line


def test_clocks_are_not_shown_unless_a_filter_wants_them() -> None:
    feed = Feed(limit=None)
    feed.clocks = False
    items = [item for _ in range(50) for item in feed.add(named(0, "hpet", 0xF0), 0.0)]
    items += feed.add(named(1, "nvme", 0x1C), 0.0)
    ticking, access = items
    assert isinstance(ticking, Ticking) and isinstance(access, Seen) and feed.ticks == 50
    (line,) = item_lines(ticking, Screen(100), "")
    assert line.strip() == (
        "… accesses to clocks such as hpet MAIN_CNT are not shown: `watch clocks` shows them"
    )
    feed.filters = [Rule("hpet", lambda e: e.access.region == "hpet")]
    assert len(feed.add(named(0, "hpet", 0xF0), 0.0)) == 1


def test_a_wait_that_is_over_is_told_where_its_loop_ends() -> None:
    poll = Poll(
        region="nvme", offset=0x1C, width=4, rip=1, site="nvme_wait_ready+0x7f", vcpu=0,
        physical=0, turns=50, since_ns=0, until_ns=10_000_000,
    )  # fmt: skip
    waited = Waited(poll, named(0, "nvme", 0x1C).named)
    feed = Feed(limit=None, folds=True)
    for _ in range(50):
        feed.add(named(0, "nvme", 0x1C), 0.0)
    feed.wait(waited)
    fold, told, access = feed.add(seen(7), 0.0)
    assert isinstance(fold, Fold) and told is waited and isinstance(access, Seen)
    (line,) = item_lines(waited, Screen(100), "")
    assert line == (
        "── waited for nvme CSTS: read 50 times in 0.010000 s at nvme_wait_ready+0x7f ──"
    )
    feed.filters = [Rule("hpet", lambda e: e.access.region == "hpet")]
    feed.wait(waited)
    assert feed.add(seen(8, "hpet"), 0.0) != [] and feed.add(seen(9), 0.0) == []


def test_the_line_for_what_is_left_out() -> None:
    line = skipped_line(Skipped(1234, 5200.4), "all in the trace")
    assert line.strip() == "… 1,234 more accesses (5,200/s), all in the trace"


def test_the_rate_is_of_the_last_seconds() -> None:
    meter = Meter(3.0)
    assert meter.rate(0, 0.0) == 0
    assert meter.rate(100, 1.0) == 100
    assert meter.rate(100, 100.0) < 2


@pytest.mark.parametrize("columns", [20, 40, 60, 80, 140])
def test_the_toolbar_is_cut_from_the_right(columns: int) -> None:
    cells = toolbar_cells("running", 1.136093, 3914, 512.3, "a/long/name.vtrace.zst", paused=False)
    text = toolbar_text(cells, columns)
    assert len(text) <= columns and text.startswith(" running")
    whole = " running  1.136093 s  3,914 accesses  512/s  a/long/name.vtrace.zst"
    assert columns < 80 or text == whole


# ---- completion


@pytest.mark.parametrize(
    ("line", "some"),
    [
        ("st", {"step", "stats"}),
        ("step; cont", {"continue"}),
        ("next nv", {"nvme"}),
        ("break wr", {"write"}),
        ("break write nvme.CS", {"nvme.CSTS"}),
        ("peek nvme.C", {"nvme.CAP", "nvme.CC", "nvme.CSTS"}),
        ("until nvme_r", {"nvme_reset_work"}),
        ("break symbol nvme_r", {"nvme_reset_work"}),
        ("break verdict linux-t", {"linux-tdx"}),
        ("info br", {"breaks"}),
        ("delete ", {"1"}),
        ("set $r", {"$rax", "$rip"}),
        ("help und", {"undisplay"}),
        ("display x", set()),
        ("nonsense x", set()),
        ("break nvme if val", {"value"}),
        ("break nvme if value == 3 and reg", {"register", "region"}),
        ("hide if dir", {"direction"}),
        ("condition 1 val", {"value"}),
        ("break nvme if $r", {"$rax", "$rip"}),
        ("mark if val", set()),
    ],
)
def test_completion(line: str, some: set[str]) -> None:
    async def body() -> None:
        talk = await Talk().start()
        await talk.type("break nvme.CC")
        found = Candidates(talk.context).of(line)
        names = {option.text for option in found.options}
        assert some <= names and (some or not names or line.startswith("display"))
        await talk.control.close()

    asyncio.run(body())


def test_what_is_completed_can_be_typed() -> None:
    # A function's registers have a blank in their names, for which a point may stand.
    ecam = SimpleNamespace(name="ecam", start=0xB0000000, end=0xBFFFFFFF)
    maps: Any = {"ecam": MAPS.of_region("ecam")}
    context: Any = SimpleNamespace(
        commands=command_table(), aliases={}, recording=None,
        names=SimpleNamespace(map_of=maps.get), known=SimpleNamespace(regions=("ecam",)),
        regions=SimpleNamespace(regions=[ecam]),
    )  # fmt: skip
    found = Candidates(context).of("info register ecam.00:00.0.ST")
    assert [option.text for option in found.options] == ["ecam.00:00.0.STATUS"]
    (listed,) = look_up("ecam.00:00.0.STATUS", maps)
    assert listed.entry.name == "00:00.0 STATUS"


# ---- scripts


def script(talk: Talk, lines: AsyncIterator[str], name: str = "boot.txt") -> int:
    async def body() -> int:
        await talk.start()
        try:
            return await talk.interpreter.script(lines, name)
        finally:
            await talk.control.close()

    return asyncio.run(body())


def test_a_script_ends_at_the_first_failure_with_its_status() -> None:
    talk = Talk()
    assert script(talk, text_lines(["# a", "", "step", "nonsense", "step"])) == 2
    assert talk.complaints == ["boot.txt:4: there is no command nonsense; `help` lists all"]
    assert talk.made == []


def test_a_script_within_a_script(tmp_path: Path) -> None:
    inner = tmp_path / "inner.txt"
    inner.write_text("step\nstep 0\n")
    talk = Talk()
    assert script(talk, text_lines([f"source {inner}", "step"])) == 2
    assert talk.complaints == [f"{inner}:2: 0 accesses cannot be stepped over; usage: step [N]"]
    inner.write_text(f"source {inner}\n")
    talk = Talk()
    assert script(talk, text_lines([f"source {inner}"])) == 2
    assert "does it name itself?" in talk.complaints[0]


def test_quit_ends_a_script_without_asking() -> None:
    talk = Talk()
    assert script(talk, text_lines(["step", "quit", "nonsense"])) == 0


def test_ctrl_c_ends_a_script() -> None:
    talk = Talk()

    async def lines() -> AsyncIterator[str]:
        yield "step"
        talk.context.interrupts += 1
        yield "mark behind Ctrl-C"
        raise AssertionError("the script went on")

    assert script(talk, lines()) == INTERRUPTED
    assert talk.complaints == ["boot.txt interrupted"]


def test_a_script_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"step\n\xff\n")
    with pytest.raises(UsageError, match="is no UTF-8 text: byte 5 is 0xff"):
        file_lines(path)


@pytest.mark.parametrize(
    ("data", "lines", "why"),
    [
        (b"\xef\xbb\xbfstep\nback\n", ["step\n", "back\n"], None),
        (b"\xff\n", [], "standard input is no text: 0xff is not utf-8"),
        (b"\n" * 20_000 + b"\xe4\n", None, "standard input is no text: 0xe4 is not utf-8"),
    ],
    ids=["of another system", "no text", "no text at the end"],
)
def test_lines_of_a_pipe_are_text(data: bytes, lines: list[str] | None, why: str | None) -> None:
    read: list[str] = []

    async def taken() -> None:
        async for line in stream_lines(io.TextIOWrapper(io.BytesIO(data), "utf-8")):
            read.append(line)

    if why is None:
        asyncio.run(taken())
    else:
        with pytest.raises(UsageError, match=why):
            asyncio.run(taken())
    assert read == lines if lines is not None else read


def test_a_script_of_another_system(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"\xef\xbb\xbfstep\r\nback\r\n")
    assert file_lines(path) == ["step", "back"]


# ---- keys


def typed(
    keys: str,
    on_interrupt: Callable[[], bool] = lambda: False,
    history: Path | None = None,
    symbols: int = 0,
) -> list[str]:
    """Type at a prompt; return the lines that come out, up to Ctrl-D."""
    lines: list[str] = []

    async def body() -> None:
        talk = await Talk().start()
        kernel = talk.session.names.symbols.by_name
        kernel.update({f"many_{number}": kernel["_text"] for number in range(symbols)})
        with create_pipe_input() as pipe:
            prompt = Prompt(
                Candidates(talk.context), lambda columns: "", on_interrupt, history=history,
                input=pipe, output=DummyOutput(),
            )  # fmt: skip
            pipe.send_text(keys)
            try:
                while True:
                    lines.append(await prompt.ask())
            except EOFError:
                pass
        await talk.control.close()

    asyncio.run(asyncio.wait_for(body(), patience(20)))
    return lines


def test_ctrl_c_clears_the_line_when_nothing_runs() -> None:
    assert typed("ste\x03step\r\x04") == ["step"]


def test_ctrl_c_stops_what_runs_and_leaves_the_line() -> None:
    assert typed("ste\x03p\r\x04", lambda: True) == ["step"]


def test_tab_completes() -> None:
    assert typed("cont\t\r\x04") == ["continue"]


def test_pasted_lines_are_typed_lines() -> None:
    assert typed("a\x1b[200~b\rc\nd\x1b[201~e\r\x04") == ["ab", "c", "de"]
    assert typed("\x1b[200~one\r\n\x1b[201~\x04") == ["one"]
    assert typed("\x1b[200~one\x1b[201~ two\r\x04") == ["one two"]


def test_a_list_leaves_the_line_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    assert typed("break nvme.C\tSTS\r\x04") == ["break nvme.CSTS"]


@pytest.mark.parametrize("keys", ["\tn", "\t\x03", "\t\x04", "\tyq", "\ty\x03", "\ty\x04"])
def test_a_question_about_a_list_leaves_the_line_as_well(keys: str) -> None:
    assert typed(f"sym {keys}x\r\x04", symbols=9000) == ["sym x"]


@pytest.mark.parametrize(
    ("keys", "sure"),
    [
        ("y\r", True),
        ("Yes\r", True),
        ("\r", False),
        ("n\r", False),
        ("\x03", False),
        ("\x04", False),
    ],
)
def test_what_is_a_yes(keys: str, sure: bool) -> None:
    async def body() -> None:
        talk = await Talk().start()
        with create_pipe_input() as pipe:
            prompt = Prompt(
                Candidates(talk.context), lambda columns: "", lambda: False,
                input=pipe, output=DummyOutput(),
            )  # fmt: skip
            pipe.send_text(keys)
            assert await prompt.confirm("Sure? ") is sure
        await talk.control.close()

    asyncio.run(asyncio.wait_for(body(), patience(20)))


def test_the_history_lasts_from_one_run_to_the_next(tmp_path: Path) -> None:
    path = tmp_path / "state" / "history"
    assert typed("step 7\r\x04", history=path) == ["step 7"]
    assert typed("\x1b[A\r\x04", history=path) == ["step 7"]


def test_a_history_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert typed("step\r\x04", history=tmp_path / "file" / "history") == ["step"]
    (tmp_path / "folder").mkdir()
    assert typed("step\r\x04", history=tmp_path / "folder") == ["step"]


def test_where_the_history_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert history_file() == tmp_path / "vetrace" / "history"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert history_file() == tmp_path / ".local" / "state" / "vetrace" / "history"
