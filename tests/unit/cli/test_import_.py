"""`vetrace import`: logs as kernels and people leave them, and what is said of them."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import trace_sample as sample
import zstandard

from tracer.cli import main
from tracer.errors import TraceError
from tracer.trace.reader import TraceReader
from tracer.trace.record import Intercept, Mark

LOGS = Path(__file__).parents[2] / "data" / "mmiotrace"
CHECKOUT = Path(__file__).parents[3]
Output = pytest.CaptureFixture[str]

SMALL = b"VERSION 20070824\nR 4 1.000000 1 0xfebf001c 0x1 0x0 0\n"


@pytest.mark.parametrize(
    ("name", "accesses", "remarks"),
    [
        ("linux-6.1.log", 556, "1 line was not understood (first: line 581)"),
        ("linux-6.1-lost.log", 110, "1 line was not understood (first: line 122), 461 events lost"),
        ("linux-2.6.27.log", 13, "12 events lost"),
        ("trace-cmd-3.1.6.log", 36, None),
        ("damaged.log", 5, "5 lines were not understood (first: line 8), 1,205 events lost and an"
         " unknown number more"),
    ],
)  # fmt: skip
def test_what_of_a_log_is_in_the_trace_and_what_not(
    tmp_path: Path, capsys: Output, name: str, accesses: int, remarks: str | None
) -> None:
    trace = tmp_path / "t.vtrace"
    assert main.main(["import", str(LOGS / name), "-o", str(trace)]) == 0
    out, err = capsys.readouterr()
    first, *rest = err.splitlines()
    assert out == "" and first.startswith(f"vetrace: {accesses} accesses written to {trace}")
    assert rest == ([] if remarks is None else [f"vetrace: {remarks}"])
    with TraceReader(trace) as reader:
        records = list(reader)
    assert reader.damage is None and reader.end is not None
    assert reader.end.counts["accesses"] == accesses
    assert sum(isinstance(r, Intercept) for r in records) == accesses


@pytest.mark.parametrize("log", sorted(LOGS.iterdir()), ids=lambda path: path.name)
def test_every_command_takes_an_imported_trace(tmp_path: Path, capsys: Output, log: Path) -> None:
    trace, again = str(tmp_path / "t.vtrace"), str(tmp_path / "again.vtrace")
    text, text_again = tmp_path / "a.log", tmp_path / "b.log"
    assert main.main(["import", str(log), "-o", trace]) == 0
    assert main.main(["export", trace, "--format", "mmiotrace", "-o", str(text)]) == 0
    assert main.main(["import", str(text), "-o", again]) == 0
    assert main.main(["export", again, "--format", "mmiotrace", "-o", str(text_again)]) == 0
    assert text.read_bytes() == text_again.read_bytes()
    capsys.readouterr()
    for command in (["show"], ["show", "--json"], ["stats"], ["stats", "--json"]):
        assert main.main([*command, trace]) == 0
    assert main.main(["diff", "--exact", trace, again]) == 0
    assert main.main(["replay", trace]) == 3
    capsys.readouterr()
    assert main.main(["audit", trace]) == 1
    err = capsys.readouterr().err
    assert "nothing can be said" in err and "oops" not in err


def test_a_trace_comes_back_from_a_log_with_all_its_accesses(
    tmp_path: Path, capsys: Output
) -> None:
    trace = sample.write(tmp_path / "run.vtrace")
    log, back = tmp_path / "log", tmp_path / "back.vtrace"
    assert main.main(["export", str(trace), "--format", "mmiotrace", "-o", str(log)]) == 0
    assert main.main(["import", str(log), "-o", str(back)]) == 0
    assert main.main(["diff", str(trace), str(back), "--exact"]) == 0
    capsys.readouterr()
    counts = []
    for path in (trace, back):
        assert main.main(["stats", str(path), "--json"]) == 0
        counts.append(json.loads(capsys.readouterr().out)["accesses"])
    assert counts == [5, 5]


def test_traces_of_two_devices_of_one_driver_differ_where_they_do(
    tmp_path: Path, capsys: Output
) -> None:
    head = "".join(
        f"PCIDEV 00{slot} 1b360010 b {base}0004 0 0 0 0 0 0 4000 0 0 0 0 0 0 nvme\n"
        for slot, base in (("18", "febf"), ("20", "febe"))
    )
    one = "W 4 1.0 0 0xfebf0014 0x460001 0x0 0\n"
    other = "W 4 1.0 0 0xfebe0014 0x460001 0x0 0\n"
    paths = []
    for name, body in (("a", one + one), ("b", one + other)):
        (tmp_path / name).write_text(head + body)
        paths.append(str(tmp_path / f"{name}.vtrace"))
        assert main.main(["import", str(tmp_path / name), "-o", paths[-1]]) == 0
    assert main.main(["diff", *paths]) == 3
    assert main.main(["diff", paths[1], paths[1]]) == 0
    for name, count in (("nvme", 1), ("nvme#2", 1), ("00:04.0", 1), ("nvme*", 2)):
        capsys.readouterr()
        assert main.main(["stats", "--json", "--region", name, paths[1]]) == 0
        assert json.loads(capsys.readouterr().out)["accesses"] == count


def test_registers_of_a_driver_that_everyone_has_are_named(tmp_path: Path, capsys: Output) -> None:
    trace = str(tmp_path / "t.vtrace")
    assert main.main(["import", str(LOGS / "linux-6.1-lost.log"), "-o", trace]) == 0
    capsys.readouterr()
    assert main.main(["show", "--json", "--register", "SQ1TDBL", trace]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert found and {item["region"] for item in found} == {"nvme.bar0"}


# --- where it is read from and written to ----------------------------------------------------


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, zstandard.compress])
def test_a_log_may_be_compressed_whatever_its_name(
    tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    log, trace, plain = tmp_path / "log.txt", tmp_path / "a.vtrace", tmp_path / "b.vtrace"
    log.write_bytes(pack((LOGS / "linux-6.1.log").read_bytes()))
    assert main.main(["import", str(log), "-o", str(trace)]) == 0
    assert main.main(["import", str(LOGS / "linux-6.1.log"), "-o", str(plain)]) == 0
    assert trace.read_bytes().splitlines()[1:] == plain.read_bytes().splitlines()[1:]


def test_a_compressed_log_that_is_cut_or_damaged_is_told(tmp_path: Path, capsys: Output) -> None:
    log, trace = tmp_path / "log.gz", tmp_path / "t.vtrace"
    packed = bytearray(gzip.compress((LOGS / "linux-6.1.log").read_bytes()))
    log.write_bytes(packed[: len(packed) // 2])
    assert main.main(["import", str(log), "-o", str(trace)]) == 0
    assert f"{log}: the compressed data is cut; what came before" in capsys.readouterr().err
    with TraceReader(trace) as reader:
        assert sum(isinstance(r, Intercept) for r in reader) > 50
    assert reader.end is not None and "in part" in reader.end.outcome
    packed[-6] ^= 0xFF  # of the checksum
    log.write_bytes(packed)
    assert main.main(["import", str(log), "-o", str(trace)]) == 1
    assert f"{log}: the compressed data is damaged" in capsys.readouterr().err


def test_standard_input_and_output(tmp_path: Path) -> None:
    def run(*arguments: str, data: bytes) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, "-m", "tracer", *arguments], cwd=CHECKOUT, input=data,
            capture_output=True,
        )  # fmt: skip

    made = run("import", "-", "-o", "-", data=gzip.compress(SMALL))
    assert made.returncode == 0
    assert made.stderr == b"vetrace: 1 access written to standard output\n"
    assert made.stdout.startswith(b'{"type":"header"') and b'"type":"end"' in made.stdout
    shown = run("show", "-", "--json", data=made.stdout)
    assert shown.returncode == 0 and json.loads(shown.stdout)["region"] == "page-0xfebf0000"
    bad = run("import", "-", "-o", "-", data=b"GIF89a")
    assert (bad.returncode, bad.stdout) == (1, b"")
    assert bad.stderr.startswith(b"vetrace: standard input: line 1: not a line of")
    assert not (CHECKOUT / "-").exists()


def test_an_export_goes_to_standard_output(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    trace, log = sample.write(tmp_path / "run.vtrace"), tmp_path / "log"
    assert main.main(["export", str(trace), "--format", "mmiotrace", "-o", str(log)]) == 0
    capfdbinary.readouterr()
    assert main.main(["export", str(trace), "--format", "mmiotrace", "-o", "-"]) == 0
    out, err = capfdbinary.readouterr()
    assert out == log.read_bytes()
    assert err == b"vetrace: 5 accesses written to standard output\n"


def test_a_pipe_is_followed(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "tracer", "import", "-", "-o", "-"], cwd=CHECKOUT,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as child:  # fmt: skip
        assert child.stdin is not None and child.stdout is not None
        child.stdin.write(SMALL)
        child.stdin.flush()
        lines = [child.stdout.readline() for _ in range(3)]  # while the log goes on
        child.stdin.close()
        rest = child.stdout.read()
    assert [json.loads(line)["type"] for line in lines] == ["header", "region", "mmio"]
    assert json.loads(rest)["type"] == "end"


@pytest.mark.parametrize("name", ["t.vtrace", "t.vtrace.zst"])
def test_a_log_that_is_broken_off_has_its_end(tmp_path: Path, name: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "tracer", "import", "-", "-o", str(tmp_path / name)],
        cwd=CHECKOUT, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as child:  # fmt: skip
        assert child.stdin is not None and child.stderr is not None
        child.stdin.buffer.write(SMALL)
        child.stdin.buffer.flush()
        while not has_access(tmp_path / name):
            time.sleep(0.01)
        child.send_signal(signal.SIGINT)
        said = child.stderr.read()
    assert said == f"vetrace: interrupted; 1 access written to {tmp_path / name}\n"
    assert child.returncode == 130
    with TraceReader(tmp_path / name) as trace:
        assert list(trace) and trace.damage is None and trace.end is not None
        assert trace.end.outcome == "imported in part: interrupted"


def has_access(path: Path) -> bool:
    """Return whether a trace has an access so far."""
    try:
        with TraceReader(path) as trace:
            return any(isinstance(record, Intercept) for record in trace)
    except TraceError:
        return False


# --- what goes wrong, and whose fault it is --------------------------------------------------


def test_a_log_that_is_not_there_is_named(tmp_path: Path, capsys: Output) -> None:
    (tmp_path / "t").write_bytes(b"old")
    assert main.main(["import", str(tmp_path / "no"), "-o", str(tmp_path / "t")]) == 1
    assert (
        capsys.readouterr().err
        == f"vetrace: cannot read {tmp_path / 'no'}: No such file or directory; look at its name\n"
    )
    assert (tmp_path / "t").read_bytes() == b"old"


@pytest.mark.parametrize("output", ["no/such/t", "", "/dev/full"])
def test_a_trace_that_cannot_be_written_is_named(
    tmp_path: Path, capsys: Output, output: str
) -> None:
    path = tmp_path / output
    assert main.main(["import", str(LOGS / "damaged.log"), "-o", str(path)]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"vetrace: cannot write trace {path}: ") and err.count("\n") == 1


def test_a_trace_is_no_folder_that_is_not_there(
    tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main.main(["import", str(LOGS / "linux-6.1.log"), "-o", "nof/"]) == 2
    err = capsys.readouterr().err
    assert err == "vetrace: cannot write nof/: Is a directory; name a file in it\n"
    assert list(tmp_path.iterdir()) == []


def test_a_log_is_never_overwritten_by_its_trace(tmp_path: Path, capsys: Output) -> None:
    log = tmp_path / "log"
    log.write_bytes(SMALL)
    (tmp_path / "link").symlink_to(log)
    for name in ("log", "link"):
        assert main.main(["import", str(log), "-o", str(tmp_path / name)]) == 2
    assert log.read_bytes() == SMALL


@pytest.mark.parametrize(
    "content",
    [
        b"", b"VERSION 20070824\nnonsense\n", b"x" * 70_000, b"\0" * 5000, b"# a script\nexit\n",
        b"MARK 1.0 " + b"x" * 200_000, b"\x7fELF\x02\x01\x01", b"#\n",
        gzip.compress(b"GIF89a", mtime=0),
    ],
)  # fmt: skip
def test_a_log_that_is_none_leaves_the_old_trace(
    tmp_path: Path, capsys: Output, content: bytes
) -> None:
    log, old = tmp_path / "log", tmp_path / "old.vtrace"
    log.write_bytes(content)
    old.write_bytes(b"old")
    assert main.main(["import", str(log), "-o", str(old)]) == 1
    assert old.read_bytes() == b"old"
    assert sorted(tmp_path.iterdir()) == [log, old]
    said = capsys.readouterr().err
    assert said.startswith(f"vetrace: {log}: line ") and said.count("\n") == 1


@pytest.mark.parametrize("content", [b"# tracer: mmiotrace\n#\n", b"VERSION 20070824\r\n"])
def test_a_log_of_nothing_is_an_empty_trace(tmp_path: Path, capsys: Output, content: bytes) -> None:
    log, trace = tmp_path / "log", tmp_path / "t.vtrace"
    log.write_bytes(content)
    assert main.main(["import", str(log), "-o", str(trace)]) == 0
    assert capsys.readouterr().err == f"vetrace: 0 accesses written to {trace}\n"


def test_what_comes_before_the_first_line_of_the_log_is_kept(tmp_path: Path) -> None:
    log, trace = tmp_path / "console", tmp_path / "t.vtrace"
    log.write_bytes(b"".join(b"boot message %d\n" % n for n in range(12_000)) + SMALL)
    assert main.main(["import", str(log), "-o", str(trace)]) == 0
    with TraceReader(trace) as reader:
        texts = [r.text for r in reader if isinstance(r, Mark)]
    assert texts[-1] == "not understood: boot message 11999" and len(texts) > 9000
    assert reader.end is not None and reader.end.counts["not_understood"] == 12_000


def test_what_is_read_from_standard_input_is_not_its_own_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(SMALL))))
    assert main.main(["import", "-", "-o", "t.vtrace"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["t.vtrace"]
