"""Kernels of Debian's, which tests download the first time that they want one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tracer.host.backports import suite_archive
from tracer.host.package import PackageError, fetch_kernel, newest_kernel


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


def kernel_of(suite: str | None, metapackage: str) -> Path:
    """Return the kernel of a suite and flavour, downloaded the first time that a test wants it.

    Without a suite it is the machine's own release.
    """

    def fetch() -> Path:
        archives = [] if suite is None else [suite_archive(suite)]
        return fetch_kernel(newest_kernel(metapackage, archives=archives), archives=archives)

    return downloaded(f"of {suite or 'Debian'}", fetch)
