"""A stock kernel that can be a confidential guest, fetched the first time that a test wants it."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import pytest

from tracer.confidential.kind import Kind
from tracer.host.backports import backports
from tracer.host.package import PackageError, fetch_kernel, newest_kernel
from tracer.linux.kernel import default_kernel, open_kernel


@functools.cache
def kernel_for(kind: Kind) -> Path:
    """Return Debian's kernel for a kind of guest, as ``vetrace setup`` fetches it."""
    image = default_kernel(kind)
    if image is not None and kind in open_kernel(image).kinds:
        return image
    try:
        archives = [backports()]
        return fetch_kernel(newest_kernel(archives=archives), archives=archives)
    except PackageError as error:
        if os.environ.get("CI", "").lower() in ("1", "true"):
            pytest.fail(f"no kernel for {kind}: {error}", pytrace=False)
        pytest.skip(f"no kernel for {kind}: {error}")
