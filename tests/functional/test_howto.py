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


def shell(folder: Path, commands: str) -> subprocess.CompletedProcess[str]:
    """Run commands in a folder until one fails, with ``vetrace`` on the path."""
    program = folder / "bin" / "vetrace"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m tracer "$@"\n')
    program.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(CHECKOUT),
    }
    return subprocess.run(
        ["bash", "-euxc", commands], cwd=folder, env=environment, capture_output=True, text=True
    )


@pytest.mark.qemu
def test_another_driver_parameter_shows_as_the_page_says(tmp_path: Path) -> None:
    boot = "vetrace boot --region nvme --quiet -o"
    commands = f"""
        {boot} a.vtrace
        {boot} b.vtrace --append nvme.io_queue_depth=16
        vetrace diff a.vtrace b.vtrace
        """
    done = shell(tmp_path, commands)
    assert done.returncode == 3, done.stderr
    # The doorbell of the first queue, at its seventeenth command.
    wrapped = r"^  ~ W4  \+0x1008  0x00000010 → 0x00000000  nvme_queue_rq"
    assert re.search(wrapped, done.stdout, re.MULTILINE), done.stdout


@pytest.mark.qemu
def test_the_commands_of_the_regression_test_page_work(tmp_path: Path) -> None:
    page = (CHECKOUT / "docs" / "howto" / "regression-test.md").read_text()
    commands = "".join(BLOCK.findall(page))
    assert commands.count("vetrace boot") == 2 and commands.count("vetrace diff") == 4
    done = shell(tmp_path, commands)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no divergence" in done.stdout
    alike = re.findall(r"^nvme: (\d+) alike$", done.stdout, re.MULTILINE)
    assert len(alike) == 3 and int(alike[0]) > 100
    assert (tmp_path / "golden" / "nvme.vtrace.zst").exists()


@pytest.mark.qemu
def test_the_commands_of_the_live_replay_page_work(tmp_path: Path) -> None:
    page = (CHECKOUT / "docs" / "howto" / "live-replay.md").read_text()
    commands = "".join(BLOCK.findall(page))
    assert commands.count("vetrace boot") == 3
    done = shell(tmp_path, commands)
    assert done.returncode == 0, done.stdout + done.stderr
    alike = dict(re.findall(r"^([\w.-]+): (\d+) alike$", done.stdout, re.MULTILINE))
    assert int(alike["ecam"]) > 1 and int(alike["virtio-blk.device"]) > 5
    assert "no divergence" in done.stdout
    # But for the numbers of accesses and instructions, the page has the message as it comes.
    (shown,) = re.findall(r"^vetrace: nvme diverges .*$", page, re.MULTILINE)
    (said,) = re.findall(r"^vetrace: nvme diverges .*$", done.stderr, re.MULTILINE)
    number = re.compile(r"#\d+|\+0x\w+(?=[,;])")
    assert number.sub("N", said) == number.sub("N", shown)
