"""The one boot of the default guest that many tests look at."""

from __future__ import annotations

import pytest
from vetrace_run import Run, boot


@pytest.fixture(scope="session")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("traced")
    return boot(folder, "--json", "--check", "--qemu-log", folder / "qemu.log")
