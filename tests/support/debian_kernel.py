"""Kernels of Debian's, which tests download the first time that they want one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tracer.host.package import PackageError


def downloaded(whose: str, fetch: Callable[[], Path]) -> Path:
    """Return the kernel that is fetched. Where there is none to be had the test fails in CI.

    It is skipped elsewhere.
    """
    try:
        return fetch()
    except PackageError as error:
        if os.environ.get("CI", "").lower() in ("1", "true"):
            pytest.fail(f"no kernel {whose}: {error}", pytrace=False)
        pytest.skip(f"no kernel {whose}: {error}")
