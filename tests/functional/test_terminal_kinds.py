"""Whatever can be asked of a recorded run, at each kind of terminal: is it there, and whole?

One prompt a kind walks through all of :data:`THINGS`. What only a running guest has is elsewhere:
:data:`ELSEWHERE` says where.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from msgspec.structs import replace
from prompt_terminal import PROMPT, environment
from trace_sample import device, intercept
from vetrace_run import CHECKOUT, read_trace

from scripts.patience import patience
from scripts.terminal import Terminal
from tracer.trace.record import End, Intercept, StackFrame, StackRecord
from tracer.trace.waiting import WaitRecord, WayOut
from tracer.trace.writer import TraceWriter

RECORDED = CHECKOUT / "tests" / "golden" / "6.1.0-56-cloud-amd64" / "nvme.vtrace.zst"
TRACE = "nvme.vtrace"
VETRACE = (sys.executable, "-m", "tracer")

ESCAPES = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07]*\x07|[()][A-Z0-9]|[=>78])|\r")
# Select graphic rendition (ECMA-48, 8.3.117), with a colour among what is selected.
COLOURS = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])(?:;\d+)*m")
UP, DOWN, RIGHT = "\x1b[A", "\x1b[B", "\x1b[C"


pytestmark = pytest.mark.long  # test_open_terminal has a short walk


@dataclass(frozen=True, slots=True)
class Kind:
    """Hold what a person sits at.

    ``draws`` tells whether a line can be drawn anew, ``folds`` whether lines end at the screen's
    edge: in a pipe, and for a screen reader, they end where they end.
    """

    columns: int = 80
    rows: int = 24
    variables: dict[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    draws: bool = True
    folds: bool = True
    has_colours: bool = True
    has_keys: bool = True


KINDS = {
    "120x40": Kind(120, 40),
    "80x24": Kind(80, 24),
    "60x20": Kind(60, 20),
    "no-color": Kind(variables={"NO_COLOR": "1"}, has_colours=False),
    "dumb": Kind(variables={"TERM": "dumb"}, draws=False, has_colours=False),
    "plain": Kind(arguments=("--plain",), draws=False, folds=False, has_colours=False),
    "pipe": Kind(draws=False, folds=False, has_colours=False, has_keys=False),
}


@dataclass(frozen=True, slots=True)
class Thing:
    """Hold what is typed, lines or keys, and what is then on the screen.

    It is ``drawn`` where that is only on one that draws, and ``coloured`` where that takes colours;
    ``written`` is what comes on one that does not draw. ``prompted`` needs a prompt.
    """

    what: str
    typed: str
    shown: str
    drawn: bool = False
    written: str | None = None
    prompted: bool = False
    coloured: bool = False

    def is_for(self, kind: Kind) -> bool:
        """Tell whether a terminal can have it."""
        if (self.coloured and not kind.has_colours) or (self.prompted and not kind.has_keys):
            return False
        return not self.drawn or kind.draws or (kind.has_keys and self.written is not None)


def said(what: str, typed: str, shown: str) -> Thing:
    """Type lines, and be answered."""
    return Thing(what, "".join(f"{line}\n" for line in typed.split("\n")), shown)


def keys(what: str, typed: str, shown: str, written: str | None = None) -> Thing:
    """Type keys, and see what becomes of the line; it is left with Ctrl-C."""
    return Thing(what, typed, shown, drawn=True, written=written)


WAITS = (
    r"waited for nvme CSTS until RDY=1: read 12 times in 0\.022000 s"
    r".*gives up at nvme_wait_ready\+0x40 \(jiffies\)"
)

THINGS = (
    # A recorded run, forwards and back.
    Thing("own script", "onward\n", r"step .*ENTRY\[0\]\.CON", prompted=True),
    said("--load", "greet", r"hello from a file of one's own"),
    said("restart", "restart", r"access 0 1\.123207 .*CSTS"),
    said("step", "step", r"1\.123282 .*ENTRY\[0\]\.CON"),
    said("step N", "step 3", r"1\.123360 .*ENTRY\[0\]\.DATA"),
    said("back", "back", r"back 1\.123340 .*ENTRY\[0\]\.UPPER"),
    said("rs", "rs 2", r"back 1\.123282"),
    said("next", "next nvme", r"next nvme 1\.123337 .*ENTRY"),
    said("reverse-next", "rn nvme", r"reverse-next nvme 1\.123282 .*ENTRY"),
    said("break if", "break write nvme.CC if value & 1", r"break 1: write nvme\.CC if value & 1"),
    said("continue", "c", r"break 1: write nvme\.CC if value & 1 1\.125140 .*CC +W4 +0x00460061"),
    said("until a time", "until 2s", r"until 2s 3\.337417"),
    said("rc", "rc", r"break 1: .* 1\.125140 .*CC"),
    said("reverse-continue", "reverse-continue", r"the beginning of the trace 1\.123207"),
    said("until a function", "until __pci_write_msi_msg", r"until __pci_\w+ 1\.123\d+ .*ENTRY"),
    said("goto", "goto 88", r"access 88 1\.125140"),
    said("plan", "plan", r"#88 .*=> now +W4 +nvme\+0x14 CC +0x00460061 .*rdx +0x0000000000460061"),
    said("regs", "regs", r"rdx +0x0{10}460061.*rip +0xf{8}8173be8b +nvme_pci_reg_write32\+0xb"),
    said("bt without chains", "bt", r"#0 +nvme_pci_reg_write32\+0xb +0xf{8}8173be8b .*--stacks"),
    said("bt", "goto 344\nbt", r"#0 +nvme_wait_ready\+0x20 +0xffffffff81234567"),
    said("sym", "sym nvme_reset_work", r"0xffffffff8173f060 +nvme_reset_work\+0x0"),
    said("stats", "stats 3", r"nvme +27 +110 .*SQ1TDBL +33 .*nvme_queue_rq"),
    said("info trace", "info trace", r"accesses +345 .*the guest has powered off"),
    said("info regions", "info regions", r"nvme\.msix-table +0xfebf2000-0xfebf240f +196 "),
    said("show last", "goto 88\nshow last 3", r"CC +R4 +0x00460060 ↳ CSS=all IOSQES=6 IOCQES=4"),
    said("show next", "show next 2", r"CC +W4 +0x00460061 ↳ EN CSS=all IOSQES=6 IOCQES=4"),
    said("a command that is none", "pipe info breaks | grep -c nvme.CC", r"\b1 "),
    # The driver waits for this.
    said("info waiting", "info waiting", WAITS),
    # Tallies count, breaks and aliases are kept.
    said("tally count by", "tally count by register, function if region == nvme",
         r"CC +nvme_pci_reg_write32 +4 .*137 accesses in 23 groups"),
    said("tally hist", "tally hist(value & 0xffff)", r"\[0x1\] +146 +\|@+\| .*345 accesses"),
    said("tally delta", "tally delta(time) by function",
         r"nvme_poll_cq .*49 .*60us .*2\.198s .*345 accesses"),
    said("commands", "commands 1\nsilent\nregs rip\nend", r""),
    said("info breaks", "info breaks", r"1 +\d hits? +write nvme\.CC if value & 1 silent regs rip"),
    said("commands are obeyed", "goto start\nc", r"rip +0xffffffff8173be8b"),
    said("save breaks", "save breaks kept", r"1 break in kept"),
    said("source", "delete\nsource kept\ninfo breaks",
         r"\d +0 hits +write nvme\.CC if value & 1 silent"),
    said("alias", "alias shown info breaks\nshown", r"\d +0 hits +write nvme\.CC"),
    said("unalias", "unalias shown", r"shown stood for info breaks"),
    # A register is looked at whole.
    said("info register", "goto 120\ninfo register nvme.CC",
         r"nvme\+0x14, 4 bytes .*Controller Configuration .*read and written .*3\.1\.5"
         r" .*0x00460061 EN CSS=all .*4 times, .* at 1\.125140 s by nvme_pci_reg_write32\+0xb .*#88"
         r" .*19:16 +IOSQES +6 .*15:14 +SHN +0 none .*0 none, 1 normal, 2 abrupt .*0 +EN +1"),
    said("info register of a region", "info register nvme", r"nvme\+0x14 +4 +rw +1 +4 +CC\b"),
    said("help", "help", r"reverse-continue, rc +go back to the last break before"),
    said("help of a command", "help reverse-continue", r"Go back to the last break before"),
    # Keys change the line. A terminal that is only written to lists what Tab finds.
    keys("menu with hints", "rev", r"\n +reverse-continue +go back to the last break"),
    keys("fuzzy menu", "tbreak CSTS", r"\n +nvme\.CSTS +\+0x1c +Con"),
    keys("Tab", "reverse-c\t", r"\(vetrace\) reverse-continue", r"reverse-continue"),
    keys("Tab lists", "tbreak nvme.C\t", r"\bnvme\.CSTS +\+0x1c +Con", r"nvme\.CAP +\+0x0 +Con"),
    keys("Backspace", "brek\x7fak", r"\(vetrace\) break", r"brek\x08 \x08ak"),
    keys("Up", UP, r"\(vetrace\) help reverse-continue", r"help reverse-continue"),
    Thing("suggestion", "help rev", r"\(vetrace\) help reverse-c", drawn=True, coloured=True),
    said("vi", "set editing-mode vi", r"editing-mode is vi"),
    said("emacs", "set editing-mode emacs", r"editing-mode is emacs"),
    # It fails, so it ends what a pipe has.
    said("what needs a guest", "peek nvme.CC", r"peek needs a guest, and this is a recording"),
)  # fmt: skip

ELSEWHERE = {
    "polls are folded while the guest runs": "test_waiting::test_at_the_prompt_it_is_one_line",
    "timer noise is hidden, and a line says so": "test_waiting::test_at_the_prompt_it_is_one_line",
    "a time-out tells first what was waited for": "test_waiting::test_it_is_told_first",
    "Ctrl-C tells it first": "test_waiting::test_at_the_prompt_it_is_one_line",
    "restart of a guest": "test_prompt::test_the_driver_prints_what_it_was_made",
    "a search is interrupted": "test_open_terminal::test_ctrl_c_ends_a_search",
    "the editor, and vi's keys": "test_open_terminal::test_the_keys_are_those_of_vi",
    "the pager": "test_open_terminal::test_a_long_answer_has_a_pager",
}
"""Parts of the features that are not walked through here, and the tests that have them."""


def extended(path: Path) -> Path:
    """Write the recorded run with a wait at its end, for what never comes, and a call chain."""
    trace = read_trace(RECORDED)
    *records, end = trace.records
    assert isinstance(end, End)
    polls: list[Intercept] = []
    for turn in range(12):
        for seq, access, symbol in (
            (321 + 2 * turn, device("nvme", 0x1C, 4, "read", 0), "nvme_wait_ready+0x20"),
            (322 + 2 * turn, device("hpet", 0xF0, 4, "read", 100 * turn), "read_hpet+0x8"),
        ):
            made = intercept(seq, access, symbol=symbol)
            polls.append(replace(made, time_ns=4_700_000_000 + 1_000_000 * seq))
    first = polls[0]
    wait = WaitRecord(
        time_ns=5_100_000_000, seq=343, vcpu=0, rip=first.rip, symbol="nvme_wait_ready+0x20",
        region="nvme", offset=0x1C, width=4, register="CSTS", loop="nvme_wait_ready+0x10",
        awaited=[WayOut(rip=0x10, mask=1, value=1, said="RDY=1")],
        gives_up=[WayOut(rip=0x20, symbol="nvme_wait_ready+0x40", said="jiffies")],
    )  # fmt: skip
    frames = [StackFrame(rip=first.rip, symbol="nvme_wait_ready+0x20")]
    polls[-1:] = [StackRecord(time_ns=5_000_000_000, id=0, frames=frames),
                  replace(polls[-1], stack=0)]  # fmt: skip
    with TraceWriter(path, trace.header) as written:
        for record in (*records, *polls, wait, replace(end, time_ns=5_200_000_000)):
            written.append(record)
    return path


@dataclass(slots=True)
class Walk:
    """Hold what one prompt has answered: by thing, and all that it has written."""

    answers: dict[str, str] = field(default_factory=dict)
    opening: str = ""
    raw: str = ""
    status: int | None = None


def prepared(folder: Path) -> None:
    """Fill a folder with what the walk needs."""
    extended(folder / TRACE)
    (folder / "own.py").write_text(
        "from tracer.repl.extension import command\n\n"
        '@command("greet", help="greet")\n'
        "def greet(guest: object) -> str:\n"
        '    return "hello from a file of one\'s own"\n'
    )
    (folder / "first").write_text("goto start; show next 1\n")
    own = folder / "config" / "vetrace"
    own.mkdir(parents=True)
    (own / "rc").write_text("alias onward step\n")


def words(kind: Kind) -> list[str]:
    return [
        *VETRACE, "open", TRACE, *kind.arguments, "--load", "own.py", "-x", "first",
        "-e", "stats 1", "-i",
    ]  # fmt: skip


def variables(folder: Path, kind: Kind) -> dict[str, str]:
    return environment(folder) | {"XDG_CONFIG_HOME": str(folder / "config")} | kind.variables


@pytest.fixture(scope="module", params=KINDS)
def walk(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Walk]:
    name: str = request.param
    folder = tmp_path_factory.mktemp(name)
    prepared(folder)
    kind = KINDS[name]
    yield piped(folder, kind) if name == "pipe" else walked(folder, kind)


def walked(folder: Path, kind: Kind) -> Walk:
    """Walk through all things at a terminal."""
    found = Walk()
    with Terminal(
        words(kind), columns=kind.columns, rows=kind.rows, folder=str(folder),
        environment=variables(folder, kind),
    ) as terminal:  # fmt: skip
        terminal.wait_for(PROMPT)
        found.opening = written(terminal, 0)
        for thing in THINGS:
            if not thing.is_for(kind):
                continue
            if thing.drawn:
                found.answers[thing.what] = seen(terminal, thing, draws=kind.draws)
            else:
                found.answers[thing.what] = answered(terminal, thing)
        terminal.line("quit")
        found.status = terminal.wait()
        found.raw = terminal.raw.decode()
    return found


def written(terminal: Terminal, mark: int) -> str:
    return ESCAPES.sub("", terminal.raw[mark:].decode())


def answered(terminal: Terminal, thing: Thing) -> str:
    """Type lines; return what is written of the last up to the next prompt."""
    *lines, last = thing.typed.splitlines()
    for line in lines:
        mark = terminal.mark
        terminal.line(line)
        terminal.wait_for(rf"\n(?:{PROMPT}|>)", after=mark)
    mark = terminal.mark
    terminal.line(last)
    deadline = time.monotonic() + patience(20)
    while True:
        _ = terminal.mark  # takes what has come
        told = written(terminal, mark)
        answer, prompt, _ = told.rpartition("\n(vetrace)")
        there = prompt and re.search(thing.shown, flat(answer))
        if there or time.monotonic() > deadline:
            return told
        time.sleep(0.02)


def flat(text: str) -> str:
    """Return a text on one line: where its lines end is the terminal's affair."""
    return " ".join(text.split()) + " "


def seen(terminal: Terminal, thing: Thing, *, draws: bool) -> str:
    """Type keys, and wait for what they lead to; return the screen, or what was written of it.

    Keys find no history before that is read: whoever types them presses them again then.
    """
    pattern = thing.shown if draws else thing.written or ""
    for _ in range(5):
        mark = terminal.mark
        terminal.type(thing.typed)
        deadline = time.monotonic() + patience(10)
        found = None
        while found is None and time.monotonic() < deadline:
            screen = terminal.text  # takes what has come
            told = screen if draws else written(terminal, mark)
            found = re.search(pattern, told)
            time.sleep(0.02)
        mark = terminal.mark
        terminal.control("c")
        if not draws:
            terminal.wait_for(rf"\^C\n{PROMPT}", after=mark)
        deadline = time.monotonic() + patience(60)
        while draws and not re.search(rf"^{PROMPT}$", terminal.text, re.MULTILINE):
            assert time.monotonic() < deadline, terminal.text
            time.sleep(0.02)
        if found:
            break
    return told


def piped(folder: Path, kind: Kind) -> Walk:
    """Walk through all things in a pipe: an address parts the answers."""
    things = [thing for thing in THINGS if thing.is_for(kind)]
    lines = [f"sym {number:#x}\n{thing.typed}" for number, thing in enumerate(things)]
    done = subprocess.run(
        words(kind), input="".join(lines), capture_output=True, text=True, check=False, cwd=folder,
        env=variables(folder, kind) | {"PATH": "/usr/bin:/bin"}, timeout=patience(120),
    )  # fmt: skip
    opening, *answers = re.split(r"0x[0-9a-f]{16}  no symbol there\n", done.stdout)
    assert len(answers) == len(things), done.stdout + done.stderr
    answers[-1] += done.stderr
    told = dict(zip((thing.what for thing in things), answers, strict=True))
    return Walk(told, opening, done.stdout + done.stderr, done.returncode)


def kind_of(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.node.callspec.params["walk"]]


@pytest.mark.parametrize("thing", THINGS, ids=lambda thing: thing.what)
def test_it_is_there(walk: Walk, thing: Thing, request: pytest.FixtureRequest) -> None:
    kind = kind_of(request)
    if thing.what not in walk.answers:
        assert not thing.is_for(kind)
        return
    answer = walk.answers[thing.what]
    if thing.drawn:
        assert re.search((thing.shown if kind.draws else thing.written) or "", answer), answer
        return
    assert re.search(thing.shown, flat(answer)), answer
    lines = [line.rstrip() for line in answer.splitlines()]
    if kind.folds and thing.shown:
        own = [line for line in lines if not re.search(r"\(vetrace\)|^ *>", line)]
        assert all(len(line) <= kind.columns for line in own), answer
    assert "Traceback" not in answer


def test_the_command_line_is_carried_out_first(walk: Walk) -> None:
    told = r"access 0 .*CSTS +R4 +0x00000001 .*nvme\.msix-table"
    assert re.search(told, flat(walk.opening)), walk.opening


def test_nothing_steers_what_is_only_written_to(walk: Walk, request: pytest.FixtureRequest) -> None:
    kind = kind_of(request)
    if not kind.draws:
        assert "\x1b" not in walk.raw
    assert bool(COLOURS.search(walk.raw)) == kind.has_colours
    assert walk.status == (2 if request.node.callspec.params["walk"] == "pipe" else 0)


def test_what_is_not_here_is_elsewhere() -> None:
    for place in ELSEWHERE.values():
        file, _, test = place.partition("::")
        text = (Path(__file__).parent / f"{file}.py").read_text()
        assert f"def {test}" in text, place


# ---- the commands beside the prompt


# A command beside the prompt has no --plain.
OUTSIDE = [name for name in KINDS if name != "plain"]


def told_by(folder: Path, name: str, *arguments: str) -> list[str]:
    """Return the lines that a command tells at a kind of terminal, or in a pipe."""
    kind = KINDS[name]
    command = [*VETRACE, *arguments]
    if name == "pipe":
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=folder,
            env=variables(folder, kind) | {"PATH": "/usr/bin:/bin"}, timeout=patience(60),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        raw = done.stdout
    else:
        with Terminal(
            command, columns=kind.columns, rows=kind.rows, folder=str(folder),
            environment=variables(folder, kind),
        ) as terminal:  # fmt: skip
            assert terminal.wait() == 0, terminal.text
            raw = terminal.raw.decode()
    assert kind.has_colours or not COLOURS.search(raw)
    return [line.rstrip() for line in ESCAPES.sub("", raw).splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("commands")
    prepared(place)
    return place


@pytest.mark.parametrize("name", OUTSIDE)
def test_tally_is_a_command(folder: Path, name: str) -> None:
    lines = told_by(folder, name, "tally", TRACE, "count by register, function if region == nvme")
    assert re.search(r"CC +nvme_pci_reg_write32 +4 ", flat(" ".join(lines)))
    assert not KINDS[name].folds or all(len(line) <= KINDS[name].columns for line in lines)


@pytest.mark.parametrize("name", OUTSIDE)
def test_polls_are_folded_by_device_and_place(folder: Path, name: str) -> None:
    lines = told_by(folder, name, "show", TRACE, "--time", "5-")
    assert name == "pipe" or re.search(r"nvme CSTS until RDY=1", flat(" ".join(lines))), lines
    assert not KINDS[name].folds or all(len(line) <= KINDS[name].columns for line in lines), lines


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_trace_that_is_cut_opens_for_programs(folder: Path, name: str) -> None:
    cut = folder / f"cut-{name}.vtrace"
    whole = (folder / TRACE).read_bytes()
    cut.write_bytes(whole[: whole.rindex(b"\n", 0, len(whole) // 2) + 1])
    lines = told_by(folder, name, "open", cut.name, "--json", "-e", "step; goto end")
    found = [json.loads(line) for line in lines if line.startswith("{")]
    assert [each["command"] for each in found] == ["step", "goto"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_trace_is_followed_while_it_is_written(tmp_path: Path, name: str) -> None:
    prepared(tmp_path)
    kind = KINDS[name]
    whole = (tmp_path / TRACE).read_bytes().splitlines(keepends=True)
    growing = tmp_path / "growing.vtrace"
    growing.write_bytes(b"".join(whole[:-30]))
    command = [*VETRACE, "show", "--follow", growing.name]
    if name == "pipe":
        run = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, cwd=tmp_path,
            env=variables(tmp_path, kind) | {"PATH": "/usr/bin:/bin"},
        )  # fmt: skip
        assert run.stdout is not None
        assert "CSTS" in run.stdout.readline()
        with growing.open("ab") as file:
            file.write(b"".join(whole[-30:]))
        rest = run.communicate(timeout=patience(60))[0]
        assert run.returncode == 0 and "nvme_wait_ready" in rest and "\x1b" not in rest
        return
    with Terminal(
        command, columns=kind.columns, rows=kind.rows, folder=str(tmp_path),
        environment=variables(tmp_path, kind),
    ) as terminal:  # fmt: skip
        mark = terminal.wait_for(r"SQ1TDBL")
        with growing.open("ab") as file:
            file.write(b"".join(whole[-30:]))
        terminal.wait_for(r"5\.0\d+ .*CSTS", after=mark)
        assert terminal.wait() == 0
        lines = [line.rstrip() for line in written(terminal, 0).splitlines()]
        assert all(len(line) <= kind.columns for line in lines)
