"""Debian's other kernels as TDX guests: the newest that it has built, and the full flavour."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from debian_kernel import downloaded
from vetrace_run import agreed, boot, read_trace

from tracer.guest.disk import DISKS, checksum
from tracer.host.backports import suite_archive
from tracer.host.package import METAPACKAGE, fetch_kernel, newest_kernel

pytestmark = pytest.mark.qemu


def kernel_of(suite: str, metapackage: str) -> Path:
    """Return the kernel of a suite and flavour, downloaded the first time that a test wants it."""

    def fetch() -> Path:
        archives = [suite_archive(suite)]
        return fetch_kernel(newest_kernel(metapackage, archives=archives), archives=archives)

    return downloaded(f"of {suite}", fetch)


@pytest.mark.parametrize(
    ("suite", "metapackage", "words"),
    [
        # It ticks a thousand times a second, and its APIC's page is private: compiled sites.
        ("trixie-backports", METAPACKAGE, ["--kaslr"]),
        ("trixie", "linux-image-amd64", ["--module", "nvme-core"]),
    ],
)
def test_a_kernel_boots_as_a_tdx_guest_to_its_power_off(
    suite: str, metapackage: str, words: list[str], tmp_path: Path
) -> None:
    kernel = kernel_of(suite, metapackage)
    done = boot(tmp_path, "--guest", "tdx", "--kernel", kernel, "--quiet", "--check", *words)
    assert agreed(done) > 0
    assert any("Memory Encryption Features active: Intel TDX" in line for line in done.serial)
    said = [line for line in done.serial if "vetrace-guest" in line]
    for name in DISKS:
        assert any(f"disk {name} {checksum(name)}" in line for line in said)
    assert any(re.search(r"network eth0 \S+ reachable$", line) for line in said)
    assert said[-1].endswith("done")
    trace = read_trace(done.trace)
    counts = trace.end.counts
    accesses = [access for record in trace.intercepts for access in record.device_accesses()]
    # The run itself compares the first of each site, reading compares all.
    agrees = [record.agrees for record in trace.intercepts if record.via == "guest"]
    assert counts["ve"] == counts["ve_info"] == counts["mmio_calls"] == agrees.count(True) > 0
    assert len(agrees) == counts["mmio_calls"]
    assert not counts.get("disagreed")
    assert any(access.region == "lapic" for _, access in accesses)
    assert counts["stops"] < len(accesses) / 10
