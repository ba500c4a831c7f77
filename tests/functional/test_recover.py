"""A vetrace, and a QEMU, that are killed in the middle of a boot with compiled sites."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
from vetrace_run import DEADLINE, agreed, at_odds, read_trace, run, vetrace

from tracer.trace.writer import earlier_of, ring_of

pytestmark = pytest.mark.qemu

LARGE = 100_000
"""Bytes of a compressed trace that is in the middle of its boot."""

KEPT = 3000
"""Accesses that are kept of a boot that makes more: among them some from before user space."""


def boot(folder: Path, *options: str) -> tuple[str, ...]:
    files = "-o", str(folder / "trace.vtrace.zst"), "--qemu-log", str(folder / "qemu.log")
    return ("boot", "--quiet", *options, *files)


def is_large(trace: Path, size: int = LARGE) -> bool:
    return trace.is_file() and trace.stat().st_size > size


def has_grown(trace: Path) -> bool:
    """Tell whether there is much of a trace of all accesses, or a second file of the last ones."""
    return is_large(trace, LARGE // 2) or (earlier_of(trace).is_file() and trace.is_file())


def verified(folder: Path, trace: Path) -> str:
    """The verdict of the comparison with QEMU's log, of which the last line may be cut."""
    log = folder / "qemu.log"
    log.write_bytes(log.read_bytes().rpartition(b"\n")[0] + b"\n")
    return run(folder / "beside", "verify", str(trace), "--qemu-log", str(log)).out.splitlines()[-1]


def gone(pid: int) -> None:
    subprocess.run(["tail", f"--pid={pid}", "-f", "/dev/null"], timeout=DEADLINE, check=True)


@pytest.mark.parametrize("options", [(), ("--stacks", "--ring", "64"), ("--last", "1500")])
def test_what_vetrace_had_not_taken_when_it_was_killed_is_recovered(
    options: tuple[str, ...], tmp_path: Path
) -> None:
    trace = tmp_path / "trace.vtrace.zst"
    with vetrace(tmp_path, *boot(tmp_path, *options), may_leave=True) as running:
        running.until(lambda: has_grown(trace), "the trace has grown")
        others = list(running.children().values())
        running.process.kill()
        running.process.communicate()
        for pid in others:
            gone(pid)
        assert running.children() == {}
    assert ring_of(trace).is_file() and read_trace(trace).damage is not None
    done = run(tmp_path / "beside", "recover", str(trace))
    assert done.status == 0 and re.match(r"[\d,]+ access(es)? recovered: ", done.out)
    assert not ring_of(trace).exists()
    found = read_trace(trace)
    assert found.damage is None and found.end.outcome.startswith("killed")
    # QEMU may have ended in the middle of an access: before the write that a record tells, or
    # between the two halves of one of 8 bytes.
    assert at_odds(verified(tmp_path, trace)) <= 2
    assert run(tmp_path / "beside", "replay", str(trace)).status == 0
    assert "nothing to recover" in run(tmp_path / "beside", "recover", str(trace)).out


def test_qemu_killed_in_the_middle_leaves_a_trace_of_all_it_did(tmp_path: Path) -> None:
    trace = tmp_path / "trace.vtrace.zst"
    with vetrace(tmp_path, *boot(tmp_path)) as running:
        running.until(lambda: is_large(trace), "the trace has grown")
        os.kill(running.pid_of("qemu"), signal.SIGKILL)
        done = running.finish()
    assert done.status == 1 and "killed" in done.err
    found = read_trace(trace)
    assert found.damage is None and "killed" in found.end.outcome
    assert found.end.counts["compiled"] > found.end.counts["emulated"]
    assert at_odds(verified(tmp_path, trace)) <= 2
    assert not ring_of(trace).exists()


@pytest.mark.parametrize("mode", [(), ("--every-stop",)], ids=["compiled", "every stop"])
def test_the_last_accesses_of_a_boot_are_kept(tmp_path: Path, mode: tuple[str, ...]) -> None:
    trace, log = tmp_path / "trace.vtrace.zst", tmp_path / "beside" / "qemu.log"
    log.parent.mkdir()
    words = ("--quiet", "--last", str(KEPT), "--qemu-log", str(log), "-o", str(trace))
    done = run(tmp_path, "boot", *mode, *words)
    assert done.status == 0, done.err
    assert [each.name for each in tmp_path.iterdir() if each.is_file()] == [trace.name]
    found = read_trace(trace)
    assert found.end.counts["accesses"] == KEPT and found.end.counts["left_out"] > 300
    first = found.intercepts[0]
    assert first.seq == found.end.counts["left_out"]
    again = run(tmp_path, "replay", str(trace))
    assert again.status == 0 and "left out" in again.err
    shown = run(tmp_path, "show", "--phases", str(trace))
    assert "left out" in shown.out.splitlines()[0]
    assert "── user space ──" in shown.out and "unknown phase" not in shown.out
    counted = run(tmp_path, "stats", "--json", str(trace))
    assert json.loads(counted.out)["accesses"] == KEPT
    same = run(tmp_path, "diff", str(trace), str(trace))
    assert same.status == 0 and "left out" in same.err
    verified = run(tmp_path, "verify", str(trace), "--qemu-log", str(log))
    assert agreed(verified) == KEPT


def test_nothing_is_left_of_a_run_that_ends(tmp_path: Path) -> None:
    trace = tmp_path / "trace.vtrace.zst"
    with vetrace(tmp_path, *boot(tmp_path)) as running:
        running.until(lambda: is_large(trace), "the trace has grown")
        assert len(running.children()) == 3
        running.process.send_signal(signal.SIGINT)
        done = running.finish()
    assert done.status == 128 + signal.SIGINT
    assert {each.name for each in tmp_path.iterdir()} >= {trace.name}
    assert not ring_of(trace).exists() and read_trace(trace).end.outcome == "interrupted"
