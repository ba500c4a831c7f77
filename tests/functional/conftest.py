"""The boots of the default guest that many tests look at."""

from __future__ import annotations

import pytest
from vetrace_run import Run, boot


def _boot(folder_of: pytest.TempPathFactory, *words: str) -> Run:
    folder = folder_of.mktemp("traced")
    return boot(folder, *words, "--json", "--check", "--qemu-log", folder / "qemu.log")


@pytest.fixture(scope="session")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return _boot(tmp_path_factory)


@pytest.fixture(scope="session")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return the boot with a stop at each access."""
    return _boot(tmp_path_factory, "--every-stop")


@pytest.fixture(scope="session", params=["traced", "stopped"])
def either(request: pytest.FixtureRequest) -> Run:
    """Return one boot, then the other."""
    run = request.getfixturevalue(request.param)
    assert isinstance(run, Run)
    return run
