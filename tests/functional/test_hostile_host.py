"""A TDX guest whose host is hostile: what Debian's own kernel makes of it."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from confidential_kernel import kernel_for
from vetrace_run import Run, boot, read_trace, run

from tracer.confidential.handler import own_profile
from tracer.confidential.kind import Kind
from tracer.linux.kernel import open_kernel
from tracer.trace.record import TdcallRecord, UserRecord

pytestmark = pytest.mark.qemu

REFUSED = "on read nvme+0-0x1fff after 3 once do refuse"


def hostile(folder: Path, *words: str | Path) -> Run:
    """Boot a TDX guest that gives up at its first oops."""
    kernel = kernel_for(Kind.TDX)
    ends = ("--append", "oops=panic loglevel=7", "--quiet", "--region", "nvme")
    return boot(folder, "--guest", "tdx", "--kernel", kernel, *ends, *words)


@pytest.mark.parametrize("verb", ["refuse", "retry"])
def test_a_refused_hypercall_is_an_oops_at_the_access(verb: str, tmp_path: Path) -> None:
    done = hostile(tmp_path, "--rule", REFUSED.replace("refuse", verb))
    assert done.status == 1 and "applied once" in done.err
    refused = [r for r in read_trace(tmp_path / "trace.vtrace").intercepts
               if (r.note or "").startswith("by rule 1")]  # fmt: skip
    (record,) = refused
    assert record.via == "guest" and record.agrees and record.asked is not None
    assert record.asked.returned["r10"] != 0 and record.accesses[0].value is None
    oops = next(n for n, line in enumerate(done.serial) if "VE fault" in line)
    site = next(line for line in done.serial[oops:] if "RIP: " in line)
    assert f"RIP: 0010:{record.symbol}/" in site
    assert run(tmp_path, "replay", tmp_path / "trace.vtrace").status == 0


def test_a_campaign_tells_the_ends_of_refusals(tmp_path: Path) -> None:
    words = ("--guest", "tdx", "--seed", "3", "--mutate", "write nvme+0x1ff0")
    options = ("--", "--kernel", kernel_for(Kind.TDX), "--append", "oops=panic", "--region", "nvme")
    done = run(tmp_path, "campaign", *words, "-o", tmp_path / "results.parquet", *options,
               "--rule", REFUSED)  # fmt: skip
    assert done.status == 0, done.err
    (row,) = pq.read_table(tmp_path / "results.parquet").to_pylist()
    assert (row["end"], row["mutated"], row["guest"]) == ("oops", 0, "tdx")
    assert row["site"].startswith("nvme_") and "VE fault" in row["line"]


@pytest.mark.long
def test_a_campaign_tells_refusals_from_values_and_a_seed_ends_alike(tmp_path: Path) -> None:
    options = ("--", "--kernel", kernel_for(Kind.TDX), "--append", "oops=panic", "--region", "nvme")

    def campaign(table: str, *which: str) -> tuple[Run, list[dict[str, object]]]:
        words = ("--guest", "tdx", *which, "--mutate", "read nvme", "-o", tmp_path / table)
        done = run(tmp_path, "campaign", *words, *options)
        assert done.status == 0, done.err
        return done, pq.read_table(tmp_path / table).to_pylist()

    done, rows = campaign("eight.parquet", "--seeds", "8", "--jobs", "2")
    assert [row["seed"] for row in rows] == [*range(8)]
    assert not [row for row in rows if row["end"] in ("failed", "hang")]
    refused = [row for row in rows if row["refused"]]
    # A seed's refusal is drawn: among these eight there is one.
    assert refused and all(row["end"] == "oops" and row["site"] for row in refused)
    for row in rows:
        by = "an access was refused" if row["refused"] else "by values alone"
        told = row["end"] == "clean" or not row["mutated"] or f", {by}" in done.out
        assert told, (row, done.out)
    (first, *_) = refused
    _, (again,) = campaign("again.parquet", "--seed", str(first["seed"]))
    assert again == first


def test_python_answers_the_calls_of_a_guest(tmp_path: Path) -> None:
    # The first of them comes when guest code would answer it without a stop.
    (tmp_path / "host.py").write_text(
        "from tracer.confidential.request import MapGpa\n"
        "def hypercall(call):\n"
        "    if isinstance(call, MapGpa):\n"
        "        raise SystemExit(f'{call.size:#x} bytes')\n"
    )
    done = hostile(tmp_path, "--host", tmp_path / "host.py")
    assert done.status == 1 and re.search(r"host\.py:4: SystemExit: 0x\w+000 bytes$", done.err)


CALLS = """\
break tdcall VM.RD once; continue; set $rax 99
break hypercall MapGPA if $r13 > 0x1000; continue; plan
retry; continue; plan; condition 2
py guest.run("retry " + hex((registers.r12 & ~(1 << 47)) + 0x1000))
continue; plan
delete; break hypercall MMIO; continue; plan
delete; break verdict; info breaks; delete; continue
"""


def test_a_guests_calls_are_stopped_at_answered_and_told_from_both_sides(tmp_path: Path) -> None:
    (tmp_path / "calls.txt").write_text(CALLS)
    kernel = kernel_for(Kind.TDX)
    done = boot(
        tmp_path, "--guest", "tdx", "--kernel", kernel, "--json", "--check",
        "-x", tmp_path / "calls.txt",
    )  # fmt: skip
    assert done.status == 0, done.err
    told = [(item["command"], item["result"]) for item in done.objects if item["type"] == "command"]
    assert all(item.get("ok", True) for item in done.objects)
    first = next(result for name, result in told if name == "continue")
    assert first["call"]["name"] == "TDG.VM.RD" and first["call"]["usual"]["rax"] == "0x0"
    asked, again, further, access = (result for name, result in told if name == "plan")
    assert asked["hypercall"] == 0x10001 and asked["asked"].startswith("MapGPA 0x")
    assert again["in"] == asked["in"]
    start, size = (int(asked["in"][name], 0) for name in ("r12", "r13"))
    assert further["in"]["r12"] == hex(start + 0x1000)
    assert further["in"]["r13"] == hex(size - 0x1000)
    assert access["agrees"] is True and access["decoded"] == access["asked"]
    (row,) = next(result for name, result in told if name == "info")
    assert row["text"] == f"verdict {own_profile(open_kernel(kernel).release)}"
    trace = read_trace(done.trace)
    # A number that no leaf has: the module's own error, whose low bits are the operand's.
    (unknown,) = [r for r in trace.records if isinstance(r, TdcallRecord) and r.leaf == 99]
    assert unknown.returned["rax"] == 0xC000_0100_0000_0000 and unknown.symbol
    assert any(isinstance(r, UserRecord) and r.text == "retry" for r in trace.records)
    assert not trace.end.counts.get("disagreed")
