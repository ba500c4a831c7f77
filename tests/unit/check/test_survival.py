"""A test asks whether a trace's accesses would survive in a confidential guest."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import trace_sample as sample

from tracer.check.golden import Recording
from tracer.check.survival import Fatal
from tracer.errors import TraceError, UsageError
from tracer.trace.call import VmgexitRecord
from tracer.trace.record import Intercept, Record


def made(folder: Path, *records: Record) -> Path:
    regions = [sample.region(name) for name in sample.START]
    return sample.write(folder / "run.vtrace", [*regions, *records, sample.end(len(records))])


def adding(seq: int, region: str, symbol: str | None = "nvme_probe+0x5 [nvme]") -> Intercept:
    """An instruction that reads a device and that no handler knows."""
    record = sample.intercept(
        seq, sample.device(region, 0x1C, 4, "read", 1),
        text="add eax, dword ptr [rax + 0x1c]", symbol=symbol,
    )  # fmt: skip
    return msgspec.structs.replace(record, code=bytes.fromhex("03401c"))


def moving(seq: int, region: str = "nvme") -> Intercept:
    return sample.intercept(seq, sample.device(region, 0x1C, 4, "read", 1))


def test_what_every_handler_knows(tmp_path: Path) -> None:
    trace = made(tmp_path, moving(0), moving(1))
    for profile in ("linux-tdx", "linux-tdx-5.19", "linux-sev"):
        Recording(trace).assert_survives(profile)
    Recording(trace).assert_survives("linux-tdx", region="nvme")


def test_each_fatal_call_site_is_named_with_its_reason(tmp_path: Path) -> None:
    trace = made(tmp_path, moving(0), adding(1, "nvme"), adding(2, "nvme"))
    with pytest.raises(Fatal) as caught:
        Recording(trace).assert_survives("linux-tdx")
    title, line = str(caught.value).splitlines()
    assert title == f"{trace}: 1 of 2 call sites would be fatal (linux-tdx)"
    assert "nvme_probe+0x5 [nvme]  add eax, dword ptr [rax + 0x1c]  nvme, 2 times: " in line


def test_other_regions_do_not_count(tmp_path: Path) -> None:
    trace = made(tmp_path, moving(0), adding(1, "hpet", None))
    Recording(trace).assert_survives(region="nvme")
    with pytest.raises(Fatal, match=r"1 of 1 call site .*\n  0xffffffff81234567  add"):
        Recording(trace).assert_survives(region="hpet")


def test_not_all_of_many_are_shown(tmp_path: Path) -> None:
    many = [
        msgspec.structs.replace(adding(number, "nvme"), rip=0xFFFFFFFF81000000 + 16 * number)
        for number in range(12)
    ]
    with pytest.raises(Fatal) as caught:
        Recording(made(tmp_path, *many)).assert_survives()
    lines = str(caught.value).splitlines()
    assert len(lines) == 12
    assert lines[-1] == "  and 2 more: vetrace audit --profile linux-tdx"


def test_what_cannot_be_judged_does_not_survive_unseen(tmp_path: Path) -> None:
    unknown = msgspec.structs.replace(moving(1), code=b"")
    with pytest.raises(TraceError, match="1 access cannot be judged"):
        Recording(made(tmp_path, moving(0), unknown)).assert_survives()
    with pytest.raises(TraceError, match="has not an access to lapic"):
        Recording(made(tmp_path, moving(0))).assert_survives(region="lapic")
    with pytest.raises(TraceError, match="has not an access that"):
        Recording(made(tmp_path)).assert_survives()


def test_a_trace_that_was_cut_does_not_survive(tmp_path: Path) -> None:
    trace = made(tmp_path, moving(0))
    trace.write_bytes(trace.read_bytes()[:-20])
    with pytest.raises(TraceError, match="record it again"):
        Recording(trace).assert_survives()


def test_a_profile_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no profile linux-tdy; did you mean linux-tdx"):
        Recording(made(tmp_path, moving(0))).assert_survives("linux-tdy")


def test_a_confidential_guest_is_held_to_its_own_handler(tmp_path: Path) -> None:
    call = VmgexitRecord(
        time_ns=0, vcpu=0, rip=0xFFFFFFFF81000000, code=0x72, name="CPUID", given={}, returned={}
    )
    with pytest.raises(Fatal, match=r"would be fatal \(linux-sev\)"):
        Recording(made(tmp_path, call, adding(0, "nvme"))).assert_survives()
