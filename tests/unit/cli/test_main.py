"""The command line: what it prints where, and how it ends."""

from __future__ import annotations

import ast
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import trace_sample as sample

from tracer.cli import main, show
from tracer.errors import TraceError
from tracer.trace.record import Intercept, Mark, MemoryAccess, Record

ROOT = Path(__file__).parents[3]
COMMAND = [sys.executable, "-m", "tracer"]
# Without what a developer may have set: an unbuffered Python has nothing left to flush at its end.
ENVIRONMENT = {
    name: value
    for name, value in os.environ.items()
    if name not in ("PYTHONUNBUFFERED", "NO_COLOR", "FORCE_COLOR", "COLUMNS")
}


@pytest.fixture
def trace(tmp_path: Path) -> str:
    """Write the sample trace."""
    return str(sample.write(tmp_path / "run.jsonl.zst"))


@pytest.fixture
def qemu_log(tmp_path: Path) -> Path:
    """Write what QEMU would have logged of the sample trace."""
    path = tmp_path / "qemu.log"
    with path.open("w") as log:
        for record in sample.RECORDS:
            if isinstance(record, Intercept):
                for _, access in record.device_accesses():
                    log.write(logged(access))
    return path


def logged(access: MemoryAccess) -> str:
    """Write one line of QEMU's log."""
    assert access.region is not None
    return (
        f"memory_region_ops_{access.direction} cpu 0 mr 0x55d0 addr {access.physical:#x}"
        f" value {access.value or 0:#x} size {access.width}"
        f" name '{sample.QEMU_NAME[access.region]}'\n"
    )


Output = pytest.CaptureFixture[str]
SVD = Path(__file__).parents[2] / "data" / "svdsuite" / "cluster_override.svd"


def objects(text: str) -> list[dict[str, Any]]:
    """Parse one JSON object per line."""
    return [json.loads(line) for line in text.splitlines()]


# --- boot: what cannot be -----------------------------------------------------------------------


def test_modules_go_into_the_built_initramfs_alone(tmp_path: Path, capsys: Output) -> None:
    words = ["boot", "--module", "e1000e", "--initrd", str(tmp_path / "initrd")]
    assert main.main(words) == 2
    out, err = capsys.readouterr()
    assert (out, err) == (
        "",
        "vetrace: --module is for the initramfs that vetrace builds: drop --initrd\n",
    )


# --- show ------------------------------------------------------------------------------------


def test_show_prints_a_line_per_device_access(trace: str, capsys: Output) -> None:
    assert main.main(["show", trace]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 5
    assert "nvme_pci_enable+0x5e" in out and "\x1b" not in out
    assert err == ""


@pytest.mark.parametrize(
    ("arguments", "numbers"),
    [
        ([], [0, 1, 2, 3, 4]),
        (["--region", "nvme"], [0, 1, 2]),
        (["--region", "nvme.msix-table"], [2]),
        (["--region", "*p*", "--read"], [3, 4]),
        (["--write"], [1, 2]),
        (["--symbol", "read_hpet"], [3]),
        (["--limit", "2"], [0, 1]),
        (["--write", "--limit", "1"], [1]),
    ],
)
def test_show_selects(trace: str, capsys: Output, arguments: list[str], numbers: list[int]) -> None:
    assert main.main(["show", trace, "--json", *arguments]) == 0
    assert [found["seq"] for found in objects(capsys.readouterr().out)] == numbers


def test_show_names_the_regions_when_none_matches(trace: str, capsys: Output) -> None:
    assert main.main(["show", trace, "--region", "nvm"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (f"vetrace: no region of {trace} is called nvm; did you mean nvme?\n")


def test_show_says_when_nothing_is_left(trace: str, capsys: Output) -> None:
    assert main.main(["show", trace, "--value", "0x7654321"]) == 0
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"vetrace: {trace} has no such access\n")


def test_show_warns_of_a_cut_trace(tmp_path: Path, capsys: Output) -> None:
    path = sample.write(tmp_path / "run.jsonl", sample.RECORDS[:8])
    assert main.main(["show", str(path)]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 2
    assert err.startswith(f"vetrace: {path}: there is no end record")


# --- stats -----------------------------------------------------------------------------------


def test_stats_counts_regions_sites_and_forms(trace: str, capsys: Output) -> None:
    assert main.main(["stats", trace]) == 0
    out, err = capsys.readouterr()
    rows = [line.split() for line in out.splitlines()]
    assert ["nvme", "1", "1", "2", "0", "2"] in rows
    assert ["nvme_pci_enable+0x5e", "nvme", "1"] in rows
    assert ["mov", "r64,", "m64", "emulated", "1"] in rows
    assert out.endswith("5 accesses by 5 intercepts: 4 emulated, 1 stepped\n")
    assert err == ""


def test_stats_as_json(trace: str, capsys: Output) -> None:
    assert main.main(["stats", trace, "--json"]) == 0
    (found,) = objects(capsys.readouterr().out)
    assert (found["accesses"], found["emulated"], found["stepped"]) == (5, 4, 1)
    assert {"form": "mov r32, m32", "via": "stepped", "intercepts": 1} in found["forms"]
    assert found["outcome"] == "poweroff" and found["damage"] is None


# --- verify ----------------------------------------------------------------------------------


def test_verify_agrees(trace: str, qemu_log: Path, capsys: Output) -> None:
    assert main.main(["verify", trace, "--qemu-log", str(qemu_log)]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == ("0 missing, 0 extra, 0 different over 5 accesses in 4 regions")
    assert ["nvme", "2", "2", "0", "0", "0"] in [line.split() for line in out.splitlines()]
    assert err == ""


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        (lambda lines: lines[1:], "0 missing, 1 extra, 0 different"),
        (lambda lines: [lines[0], *lines], "1 missing, 0 extra, 0 different"),
        (
            lambda lines: [lines[0].replace("value 0x1 ", "value 0x2 "), *lines[1:]],
            "0 missing, 0 extra, 1 different",
        ),
    ],
    ids=["dropped", "added", "changed"],
)
def test_verify_finds_a_difference(
    trace: str,
    qemu_log: Path,
    capsys: Output,
    change: Callable[[list[str]], list[str]],
    verdict: str,
) -> None:
    qemu_log.write_text("".join(change(qemu_log.read_text().splitlines(keepends=True))))
    assert main.main(["verify", trace, "--qemu-log", str(qemu_log)]) == 3
    *_, difference, last = capsys.readouterr().out.splitlines()
    assert last.startswith(verdict)
    assert "nvme" in difference and "0xfebf001c" in difference
    assert main.main(["verify", trace, "--qemu-log", str(qemu_log), "--json"]) == 3
    (found,) = objects(capsys.readouterr().out)
    assert found["agrees"] is False
    assert found["differences"] == [difference]


def long_trace(tmp_path: Path, accesses: int = 40) -> tuple[Path, list[str]]:
    """Write a trace of one register, and return the lines that QEMU would have logged."""
    made = [sample.device("nvme", 0x1C, 4, "read", n) for n in range(accesses)]
    records: list[Record] = [sample.region("nvme")]
    records += [sample.intercept(seq, access) for seq, access in enumerate(made)]
    records.insert(1, Mark(time_ns=0, text="kernel entry", qemu_log_offset=0))
    return sample.write(tmp_path / "long.vtrace", records), [logged(access) for access in made]


@pytest.mark.parametrize("end", ["", "memory_region_ops_re"])
@pytest.mark.parametrize("kept", [0, 20, 32])
def test_verify_says_that_the_log_is_cut(
    tmp_path: Path, capsys: Output, kept: int, end: str
) -> None:
    trace, lines = long_trace(tmp_path)
    log = tmp_path / "cut.log"
    log.write_text("".join(lines[:kept]) + end)
    assert main.main(["verify", str(trace), "--qemu-log", str(log)]) == 1
    out, err = capsys.readouterr()
    assert f"0 missing, {40 - kept} extra, 0 different over 40 accesses" in out
    # What is behind the end of the log is not held against the trace one by one.
    assert "nvme_pci_enable" not in out
    complaint = err.splitlines()[-1]
    assert complaint.startswith(f"vetrace: {log}: the log is cut")
    assert main.main(["verify", str(trace), "--qemu-log", str(log), "--json"]) == 1
    (found,) = objects(capsys.readouterr().out)
    line = kept + bool(end)
    assert found["cut"] == {"line": line, "accesses": 40 - kept, "seq": kept}
    assert found["agrees"] is False and found["differences"] == []


def test_verify_shows_what_was_wrong_before_the_log_was_cut(tmp_path: Path, capsys: Output) -> None:
    trace, lines = long_trace(tmp_path)
    log = tmp_path / "cut.log"
    log.write_text("".join([*lines[:5], lines[5].replace("0x5 ", "0x50 "), *lines[6:30]]))
    assert main.main(["verify", str(trace), "--qemu-log", str(log)]) == 1
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines() if "nvme_pci_enable" in line] == [
        "different"
    ]


def test_verify_tells_what_was_not_looked_at(trace: str, qemu_log: Path, capsys: Output) -> None:
    with qemu_log.open("a") as log:
        for name, count in (("system.flash1", 1500), ("ev\x1bil", 2)):
            for _ in range(count):
                log.write(
                    f"memory_region_ops_write cpu 0 mr 0x1 addr 0xffe00000 value 0x1 size 4"
                    f" name '{name}'\n"
                )
        log.write("memory_region_ops_read cpu 0 mr 0x1 addr 0x60 value 0x1 size 1 name 'i8042'\n")
    assert main.main(["verify", trace, "--qemu-log", str(qemu_log)]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[-2] == (
        "accessed by vCPUs and not looked at: system.flash1 1,500, ev\\x1bil 2"
    )
    assert main.main(["verify", trace, "--qemu-log", str(qemu_log), "--json"]) == 0
    (found,) = objects(capsys.readouterr().out)
    assert found["overlooked"][0] == {"region": "system.flash1", "accesses": 1500}
    assert found["cut"] is None and err == ""


def test_verify_reads_no_device(trace: str, capsys: Output) -> None:
    assert main.main(["verify", trace, "--qemu-log", "/dev/full"]) == 1
    assert capsys.readouterr().err.startswith("vetrace: cannot read QEMU's log /dev/full: ")


def test_verify_fails_when_there_is_nothing_to_compare(
    tmp_path: Path, qemu_log: Path, capsys: Output
) -> None:
    path = sample.write(tmp_path / "none.jsonl", [sample.end(0)])
    assert main.main(["verify", str(path), "--qemu-log", str(qemu_log)]) == 3
    out, err = capsys.readouterr()
    assert out.splitlines()[-1].endswith("over 0 accesses in 0 regions")
    assert err == f"vetrace: nothing was compared: {path} has no device access\n"


def test_verify_says_when_the_log_is_none(trace: str, tmp_path: Path, capsys: Output) -> None:
    empty = tmp_path / "empty.log"
    empty.write_text("qemu: nothing of interest\n")
    assert main.main(["verify", trace, "--qemu-log", str(empty)]) == 3
    assert "QEMU must run with -trace 'memory_region_ops_*'" in capsys.readouterr().err
    assert main.main(["verify", trace, "--qemu-log", str(tmp_path / "gone")]) == 1
    assert "gone: No such file" in capsys.readouterr().err


# --- how it ends -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["--nonsense"],
        ["show"],
        ["show", "x", "--read", "--write"],
        ["show", "x", "--limit", "many"],
        ["show", "x", "--limit", "0"],
        ["show", "x", "--reg", "y"],
        ["stats", "x", "--limit", "-1"],
        ["verify", "x"],
        ["boot", "--timeout", "0"],
        ["boot", "--timeout", "soon"],
        ["boot", "--timeout", "inf"],
        ["boot", "--guest-timeout", "-1"],
        ["boot", "--guest-timeout", "nan"],
    ],
)
def test_wrong_usage_is_status_2(arguments: list[str], capsys: Output) -> None:
    assert main.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err != ""


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["show", "x", "--limit", "-1"], "argument --limit: -1 is no count"),
        (["show", "x", "--time", "5-1"], "argument --time: 5-1 ends before it begins"),
        (["show", "x", "--format", "html"], "argument --format: invalid choice"),
        (["show", "x", "--read", "--write"], "not allowed with argument --read"),
        (["boot", "-o"], "argument -o/--output: expected one argument"),
        (["boot", "-o", "nof/"], "argument -o/--output: cannot write nof/: Is a directory"),
        (["boot", "--serial", "nof/"], "argument --serial: cannot write nof/: Is a directory"),
        (["attach", "--pid", "1", "--qemu-log", ""], "argument --qemu-log: name the file"),
        (["recover", "x", "-o", "nof/"], "cannot write nof/: Is a directory"),
        (["campaign", "--mutate", "read", "--seeds", "1", "-o", "nof/"], "cannot write nof/: "),
    ],
)
def test_a_value_that_is_wrong_is_told_in_a_line(
    arguments: list[str], says: str, capsys: Output
) -> None:
    assert main.main(arguments) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and says in said


@pytest.mark.parametrize("arguments", [["--help"], ["show", "--help"], ["--version"]])
def test_help_is_data(arguments: list[str], capsys: Output) -> None:
    assert main.main(arguments) == 0
    out, err = capsys.readouterr()
    assert "vetrace" in out and err == ""


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["sho", "x"], "there is no command sho; did you mean show?"),
        (["--color", "never", "difff", "x"], "there is no command difff; did you mean diff?"),
        (["show", "x", "--regoin", "nvme"], "unrecognized arguments: --regoin nvme; did you mean"),
        (["show", "x", "--regoin=nvme"], "did you mean --region?"),
        (["boot", "--chekc"], "did you mean --check?"),
        (["show", "x", "--zzzzz"], "unrecognized arguments: --zzzzz\n"),
    ],
)
def test_what_was_meant_is_suggested(arguments: list[str], meant: str, capsys: Output) -> None:
    assert main.main(arguments) == 2
    assert meant in capsys.readouterr().err


def test_words_before_the_dashes_are_not_for_qemu(capsys: Output) -> None:
    assert main.main(["boot", "nvme", "--", "-smp", "2"]) == 2
    assert "unrecognized arguments: nvme; QEMU ARGS go behind --\n" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["-v", "show"], ["show", "-v"]])
def test_verbose_before_or_after_the_commands_name(
    arguments: list[str], trace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    monkeypatch.setattr(show, "run", lambda args: seen.append(args.verbose) or 0)
    assert main.main([*arguments, trace]) == 0
    assert main.main(["show", trace]) == 0
    assert seen == [True, False]


def test_an_error_is_one_line_and_status_1(capsys: Output) -> None:
    assert main.main(["show", "/no/such/trace"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    why = "No such file or directory; look at its name"
    assert err == f"vetrace: cannot read trace /no/such/trace: {why}\n"


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [(KeyboardInterrupt(), 130, "vetrace: interrupted\n"), (TraceError("x"), 1, "vetrace: x\n")],
)
def test_errors_have_a_status(
    trace: str,
    capsys: Output,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    status: int,
    message: str,
) -> None:
    def fail(_: object) -> int:
        raise error

    monkeypatch.setattr(show, "run", fail)
    assert main.main(["show", trace]) == status
    assert capsys.readouterr().err == message


def test_a_bug_keeps_its_traceback(trace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(show, "run", lambda _: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        main.main(["show", trace])


def test_a_closed_pipe_is_quiet(tmp_path: Path) -> None:
    long = [sample.RECORDS[6]] * 5000
    path = sample.write(tmp_path / "run.jsonl", long)
    with subprocess.Popen(
        [*COMMAND, "show", "--unfold", str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env=ENVIRONMENT,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 141


def test_a_pipe_that_is_closed_from_the_start_is_quiet(trace: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*COMMAND, "show", trace], stdout=writer, stderr=subprocess.PIPE, cwd=ROOT, env=ENVIRONMENT
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_full_disk_is_one_line(trace: str) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*COMMAND, "show", trace],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=ENVIRONMENT,
        )
    assert done.returncode == 1
    assert done.stderr == (
        "vetrace: cannot write the output: No space left on device;"
        " make room there, or name another place\n"
    )


def test_any_locale_can_be_printed_to(trace: str) -> None:
    done = subprocess.run(
        [*COMMAND, "stats", trace, "--limit", "1"],
        capture_output=True,
        cwd=ROOT,
        env=ENVIRONMENT | {"PYTHONIOENCODING": "ascii"},
    )
    assert done.returncode == 0
    assert b"more" in done.stdout and done.stderr == b""


def on_terminal(arguments: list[str], **variables: str) -> str:
    """Run a command on a terminal of its own, 80 columns wide, and return what it printed."""
    master, slave = pty.openpty()
    environment = ENVIRONMENT | {"TERM": "xterm", "COLUMNS": "80"} | variables
    with subprocess.Popen(
        [*COMMAND, *arguments], stdin=slave, stdout=slave, cwd=ROOT, env=environment
    ) as process:
        os.close(slave)
        output = b""
        try:
            while data := os.read(master, 4096):
                output += data
        except OSError:  # what Linux answers when the other side is closed
            pass
        assert process.wait() == 0
    os.close(master)
    return output.decode()


@pytest.mark.parametrize("command", ["show", "stats"])
def test_colours_are_for_terminals_that_want_them(trace: str, command: str) -> None:
    style = "\x1b["
    assert style in on_terminal([command, trace])
    assert style not in on_terminal([command, trace], TERM="dumb")
    colour = "\x1b[3"  # NO_COLOR leaves bold alone
    assert colour not in on_terminal([command, trace], NO_COLOR="1")


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("command", ["show", "stats"])
def test_colour_by_option(trace: str, command: str, before: bool) -> None:
    def with_colour(when: str) -> list[str]:
        return ["--color", when, command, trace] if before else [command, f"--color={when}", trace]

    assert "\x1b[" not in on_terminal(with_colour("never"))
    plain, coloured = (
        subprocess.run(
            [*COMMAND, *with_colour(when)],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=ENVIRONMENT,
        ).stdout
        for when in ("auto", "always")
    )
    assert "\x1b[" not in plain
    assert "\x1b[" in coloured


def test_a_line_fits_the_terminal(trace: str) -> None:
    plain = on_terminal(["show", trace, "--region", "nvme"], NO_COLOR="1")
    assert max(len(line) for line in plain.splitlines()) == 80


def loaded(modules: Sequence[str], *arguments: str) -> list[str]:
    """Run a command in a Python of its own; return which of these modules it loaded."""
    program = (
        "import sys; from tracer.cli.main import main; main(sys.argv[2:]);"
        "print([m for m in sys.argv[1].split() if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, " ".join(modules), *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    return list(ast.literal_eval(done.stdout.splitlines()[-1]))


def test_only_the_command_asked_for_is_loaded(trace: str) -> None:
    modules = ("rich", "rapidfuzz", "capstone", "pygdbmi", "qemu", "tracer.cli.stats")
    assert loaded(modules, "show", trace, "--json") == []
    assert loaded(("tracer.cli.stats", "rapidfuzz"), "stats", trace) == ["tracer.cli.stats"]


@pytest.mark.parametrize("command", main.COMMANDS)
def test_no_command_loads_what_it_may_not_need(command: str) -> None:
    assert loaded(("rich", "rapidfuzz", "prompt_toolkit"), command, "--help") == []


ANOTHERS = (
    "importlib.metadata", "prompt_toolkit", "rapidfuzz", "rich", "tracer.access.want",
    "tracer.bare", "tracer.export.perfetto", "tracer.gdb", "tracer.guest", "tracer.launch",
    "tracer.linux", "tracer.qemu",
)  # fmt: skip
"""Modules of other commands, and of a person at a terminal: each takes its time to load."""

READERS = (
    "asyncio", "capstone", "ssl", "tracer.access", "tracer.look", "tracer.repl", "tracer.session",
    "tracer.x86.decode", "tracer.x86.opcode",
)  # fmt: skip
"""Modules that a trace is read without, where nobody asks for an instruction."""


@pytest.mark.parametrize(
    ("words", "others"),
    [
        (["open", "-e", "quit"], ()),
        (["show"], READERS),
        (["show", "--json"], READERS),
        (["stats", "--json"], READERS),
    ],
    ids=" ".join,
)
def test_what_looks_at_a_trace_loads_nothing_of_others(
    trace: str, words: list[str], others: tuple[str, ...]
) -> None:
    command, *rest = words
    assert loaded((*ANOTHERS, *others), command, trace, *rest) == []


def test_traces_that_agree_need_no_tables(trace: str) -> None:
    assert loaded(("rich",), "diff", trace, trace) == []


@pytest.mark.parametrize(
    "words",
    [
        ["registers", "import", str(SVD), "-o", "x" * 300],
        ["boot", "--disk", "x" * 300, "--quiet"],
        ["boot", "--host", "x" * 300, "--kernel", "/no/such"],
    ],
)
def test_a_name_that_is_too_long_is_told_wherever_it_is_asked_about(
    words: list[str], capsys: Output
) -> None:
    assert main.main(words) in (1, 2)
    told = capsys.readouterr()
    assert told.err.count("\n") == 1 and "File name too long; " in told.err and not told.out
