"""A TDX guest whose host is hostile: what Debian's own kernel makes of it."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from confidential_kernel import kernel_for
from vetrace_run import Run, boot, read_trace, run

from tracer.confidential.kind import Kind

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
