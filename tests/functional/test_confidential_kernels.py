"""Debian's other kernels as confidential guests: the newest that it has built, other flavours."""

from __future__ import annotations

from pathlib import Path

import pytest
from confidential_kernel import powered_off
from debian_kernel import kernel_of
from vetrace_run import boot, read_trace

from tracer.confidential.kind import Kind
from tracer.host.package import METAPACKAGE

pytestmark = pytest.mark.qemu


@pytest.mark.parametrize(
    ("kind", "suite", "metapackage", "words"),
    [
        # It ticks a thousand times a second, and its APIC's page is private: compiled sites.
        (Kind.TDX, "trixie-backports", METAPACKAGE, ["--kaslr"]),
        pytest.param(
            Kind.TDX,
            "trixie",
            "linux-image-amd64",
            ["--module", "nvme-core"],
            marks=pytest.mark.long,
        ),
        # The same ticks would be stops here.
        (Kind.SEV_ES, "trixie-backports", METAPACKAGE, ["--kaslr", "--bypass", "lapic"]),
        pytest.param(
            Kind.SEV_ES,
            None,
            "linux-image-amd64",
            ["--module", "nvme-core"],
            marks=pytest.mark.long,
        ),
        pytest.param(
            Kind.SEV_ES,
            None,
            "linux-image-rt-amd64",
            ["--module", "nvme-core"],
            marks=pytest.mark.long,
        ),
    ],
)
def test_a_kernel_boots_as_a_confidential_guest_to_its_power_off(
    kind: Kind, suite: str | None, metapackage: str, words: list[str], tmp_path: Path
) -> None:
    kernel = kernel_of(suite, metapackage)
    done = boot(tmp_path, "--guest", kind, "--kernel", kernel, "--quiet", "--check", *words)
    counts = powered_off(done, kind)
    trace = read_trace(done.trace)
    accesses = [access for record in trace.intercepts for access in record.device_accesses()]
    # The run itself compares the first of each site, reading compares all.
    agrees = [record.agrees for record in trace.intercepts if record.via == "guest"]
    told = ["ve", "ve_info"] if kind is Kind.TDX else ["vc"]
    assert all(counts[name] == counts["mmio_calls"] for name in told)
    assert len(agrees) == counts["mmio_calls"] == agrees.count(True) > 0
    traced = any(access.region == "lapic" for _, access in accesses)
    assert traced is ("--bypass" not in words)
    assert kind is Kind.SEV_ES or counts["stops"] < len(accesses) / 10
