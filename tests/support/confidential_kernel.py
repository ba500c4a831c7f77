"""Stock kernels as confidential guests: fetched when a test wants one, and how their boots end."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

from debian_kernel import downloaded
from vetrace_run import Run, agreed, drove_its_devices, read_trace

from tracer.confidential.kind import Kind
from tracer.host.backports import backports
from tracer.host.package import fetch_kernel, newest_kernel
from tracer.linux.kernel import default_kernel, open_kernel

_ACTIVE = {Kind.TDX: "Intel TDX", Kind.SEV_ES: "AMD SEV SEV-ES"}


@functools.cache
def kernel_for(kind: Kind) -> Path:
    """Return Debian's kernel for a kind of guest, as ``vetrace setup`` fetches it."""
    image = default_kernel(kind)
    if image is not None and kind in open_kernel(image).kinds:
        return image

    def fetch() -> Path:
        archives = [backports()]
        return fetch_kernel(newest_kernel(archives=archives), archives=archives)

    return downloaded(f"for {kind}", fetch)


def powered_off(done: Run, kind: Kind) -> Mapping[str, int]:
    """Check that a kernel took itself for a guest of a kind, and that all agreed to its power-off.

    Return what was counted.
    """
    assert agreed(done) > 0  # QEMU saw the same accesses, region by region
    active = f"Memory Encryption Features active: {_ACTIVE[kind]}"
    assert any(active in line for line in done.serial)
    drove_its_devices(done)
    end = read_trace(done.trace).end
    assert end.outcome == "poweroff"
    assert not end.counts.get("disagreed")
    return end.counts
