"""A stock kernel that can be a confidential guest, fetched the first time that a test wants it."""

from __future__ import annotations

import functools
from pathlib import Path

from debian_kernel import downloaded

from tracer.confidential.kind import Kind
from tracer.host.backports import backports
from tracer.host.package import fetch_kernel, newest_kernel
from tracer.linux.kernel import default_kernel, open_kernel


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
