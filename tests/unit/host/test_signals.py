"""The program at a signal, whatever it does then, and with streams that cannot be used."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import replay_sample
import trace_sample as sample

from tracer.host.streams import warn

ROOT = Path(__file__).parents[3]
ENDING = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]

# A signal arrives while a module is loaded, and at each call of a command.
MOMENTS = {
    "imports": "import tracer.host.signals as s; import os, builtins; real = builtins.__import__\n"
    "def load(name, *rest):\n"
    "    if name == 'tracer.cli.main': os.kill(os.getpid(), {number})\n"
    "    return real(name, *rest)\n"
    "builtins.__import__ = load\n",
    "run": "import os, tracer.cli.show as show\n"
    "show.run = lambda args: os.kill(os.getpid(), {number}) or 0\n",
    "end": "import os, tracer.cli.main as cli; real = cli.main\n"
    "def main(): status = real(); import tracer.host.signals as s; s.leave_at_once(); "
    "os.kill(os.getpid(), {number}); return status\n"
    "cli.main = main\n",
}


def program(
    arguments: list[str],
    before: str = "",
    prepare: Callable[[], None] | None = None,
    **streams: object,
) -> subprocess.CompletedProcess[str]:
    """Run the program, with Python code before it; both its streams are caught."""

    def begin() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whatever started the tests
        if prepare is not None:
            prepare()

    code = f"{before}import sys, tracer.__main__ as m; sys.exit(m.main())"
    caught = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    return subprocess.run(  # type: ignore[call-overload,no-any-return]
        [sys.executable, "-c", code, *arguments], text=True, cwd=ROOT, preexec_fn=begin, **caught
    )


@pytest.fixture
def trace(tmp_path: Path) -> str:
    return str(sample.write(tmp_path / "run.jsonl"))


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("number", ENDING)
def test_each_signal_has_one_status(number: signal.Signals, moment: str, trace: str) -> None:
    done = program(["show", trace], MOMENTS[moment].format(number=int(number)))
    assert done.returncode == 128 + number
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == (0 if moment == "end" else 1)


# Interrupts every process of the command, as a terminal does, while the others wait for work.
TO_ALL = (
    "import os, signal, tracer.cli.replay as replay; real = replay._in_parallel\n"
    "def parts(*words):\n"
    "    for part in real(*words): os.killpg(0, signal.SIGINT); yield part\n"
    "replay._in_parallel = parts\n"
)


def test_several_processes_end_without_a_word_each(tmp_path: Path) -> None:
    path = sample.write(tmp_path / "run.vtrace", replay_sample.trace())
    done = program(["replay", str(path), "--jobs", "2"], TO_ALL, prepare=os.setpgrp)
    assert (done.returncode, done.stderr) == (130, "vetrace: interrupted\n")


def test_a_hangup_that_was_ignored_is_ignored(trace: str) -> None:
    def ignore() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    done = program(["show", trace], MOMENTS["run"].format(number=1), prepare=ignore)
    assert (done.returncode, done.stderr) == (0, "")


def closing(*numbers: int) -> Callable[[], None]:
    def close() -> None:
        for number in numbers:
            os.close(number)

    return close


def test_standard_output_that_is_closed(trace: str) -> None:
    for arguments in (["show", trace], ["--help"], ["stats", trace]):
        done = program(arguments, prepare=closing(1), stdout=None)
        assert done.returncode == 1
        assert done.stderr == (
            "vetrace: cannot write the output: Bad file descriptor; open it for writing\n"
        )


def test_standard_error_that_is_closed_is_in_no_file(tmp_path: Path, trace: str) -> None:
    out = tmp_path / "out.log"
    # The file would be descriptor 2, and the error line would go into it.
    arguments = ["export", trace, "--format", "mmiotrace", "-o", str(out)]
    done = program(arguments, prepare=closing(2), stderr=None)
    assert done.returncode == 0
    assert out.read_text().startswith("VERSION")
    done = program(["show", "/no/such/trace"], prepare=closing(0, 1, 2), stdout=None, stderr=None)
    assert done.returncode == 1


@pytest.mark.parametrize("number", [errno.EDQUOT, errno.EIO, errno.EFBIG, errno.ENOSPC])
def test_output_that_cannot_be_written(number: int, trace: str) -> None:
    before = (
        "import io, os, sys\n"
        "class Broken(io.RawIOBase):\n"
        "    def writable(self): return True\n"
        "    def write(self, data):\n"
        "        if os.path.samefile('/proc/self/fd/1', os.devnull): return len(data)\n"
        f"        raise OSError({number}, os.strerror({number}))\n"
        "sys.stdout = io.TextIOWrapper(io.BufferedWriter(Broken()))\n"
    )
    done = program(["show", trace], before)
    assert done.returncode == 1
    assert done.stderr.startswith(f"vetrace: cannot write the output: {os.strerror(number)}; ")
    assert done.stderr.count("\n") == 1


def test_an_output_file_that_grows_too_large(tmp_path: Path) -> None:
    path = sample.write(tmp_path / "long.jsonl", [sample.RECORDS[6]] * 2000)
    with (tmp_path / "out").open("w") as out:
        done = program(
            ["show", "--unfold", str(path)],
            prepare=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
            stdout=out,
        )
    assert done.returncode == 1
    assert done.stderr == (
        "vetrace: cannot write the output: File too large; raise `ulimit -f`, or ask for less\n"
    )


def test_a_message_is_not_buried_under_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    warn(f"there is no {'x' * 300_000}; say help")
    told = capsys.readouterr().err
    assert told.startswith("vetrace: there is no xx") and told.endswith("xx; say help\n")
    assert len(told) < 2100 and "x…x" in told


def test_what_a_file_says_does_not_reach_the_terminal(tmp_path: Path) -> None:
    done = program(["show", str(tmp_path / "\x1b]0;title\x07\u202etxt")])
    assert done.returncode == 1
    assert done.stderr.strip("\n").isprintable()
    assert "\\x1b]0;title" in done.stderr and "\\u202e" in done.stderr


@pytest.mark.parametrize(
    "command", [["show"], ["stats"], ["diff", "{0}"], ["audit"], ["replay"], ["show", "--json"]]
)
def test_nobody_reads_the_output_any_more(trace: str, command: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    words = [word.format(trace) for word in command]
    with os.fdopen(write, "w") as output:
        done = program([*words, trace], stdout=output)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("command", ["show", "stats", "audit", "replay", "recover"])
def test_a_trace_on_a_disk_that_fails_is_no_output_that_does(command: str) -> None:
    unreadable = "/proc/self/mem"  # nothing is at its beginning: EIO, as of a bad disk
    done = program([command, unreadable])
    assert done.returncode == 1
    assert done.stderr == f"vetrace: {unreadable}: cannot be read: Input/output error\n"
