"""What tests that start a guest need: there, or the test is skipped; in CI it fails."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes is the machine's affair.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")

pytest_plugins = ["pytester", "tracer.pytest_plugin"]


def pytest_runtest_setup(item: pytest.Item) -> None:
    if "qemu" in item.keywords:
        # Imported by now: pytest wants to be the first who imports a plugin.
        from tracer.pytest_plugin import need_guest

        need_guest()
