"""The commands of the how-to, run as they stand, in order."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.DOTALL | re.MULTILINE)


@pytest.mark.qemu
def test_the_commands_of_the_regression_test_page_work(tmp_path: Path) -> None:
    page = (CHECKOUT / "docs" / "howto" / "regression-test.md").read_text()
    commands = "".join(BLOCK.findall(page))
    assert commands.count("vetrace boot") == 2 and commands.count("vetrace diff") == 4
    program = tmp_path / "bin" / "vetrace"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m tracer "$@"\n')
    program.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(CHECKOUT),
    }
    done = subprocess.run(
        ["bash", "-euxc", commands], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no divergence" in done.stdout
    alike = re.findall(r"^nvme: (\d+) alike$", done.stdout, re.MULTILINE)
    assert len(alike) == 3 and int(alike[0]) > 100
    assert (tmp_path / "golden" / "nvme.vtrace.zst").exists()
