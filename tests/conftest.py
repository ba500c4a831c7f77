"""What tests that start a guest need: there, or the test is skipped; in CI it fails."""

from __future__ import annotations

import os
import shutil

import pytest

from tracer.guest.kernel import default_kernel

_PROGRAMS = ("qemu-system-x86_64", "gdb")


def _missing() -> list[str]:
    missing = [program for program in _PROGRAMS if shutil.which(program) is None]
    return missing + (["a guest kernel"] if default_kernel() is None else [])


def pytest_runtest_setup(item: pytest.Item) -> None:
    if "qemu" not in item.keywords:
        return
    missing = _missing()
    if not missing:
        return
    reason = f"missing: {', '.join(missing)}; run scripts/setup"
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
