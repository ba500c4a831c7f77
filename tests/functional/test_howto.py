"""The commands of the how-to, run as they stand, in order."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tracer.linux.kernel import default_kernel

CHECKOUT = Path(__file__).parents[2]
PAGE = CHECKOUT / "docs" / "howto" / "regression-test.md"
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.DOTALL | re.MULTILINE)
FILE = re.compile(r"^```python\n# (\S+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
PROGRAMS = {"vetrace": "tracer", "pytest": "pytest -p tracer.pytest_plugin"}


def shell(folder: Path, commands: str) -> subprocess.CompletedProcess[str]:
    """Run commands in a folder until one fails, with ``vetrace`` and ``pytest`` on the path."""
    programs = folder / "bin"
    programs.mkdir()
    for name, module in PROGRAMS.items():
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m {module} "$@"\n')
        program.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(CHECKOUT),
    }
    return subprocess.run(
        ["bash", "-euxc", commands], cwd=folder, env=environment, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with the tests of the page, in which all of its commands are carried out."""
    return tmp_path_factory.mktemp("project")


@pytest.fixture(scope="module")
def done(project: Path) -> subprocess.CompletedProcess[str]:
    """The result of the page's commands."""
    page = PAGE.read_text()
    for name, text in FILE.findall(page):
        (project / name).parent.mkdir(exist_ok=True)
        (project / name).write_text(text)
    kernel = default_kernel()
    assert kernel is not None
    (project / "kernels").symlink_to(kernel.parent)
    commands = "".join(BLOCK.findall(page))
    assert commands.count("vetrace diff") == commands.count("pytest tests") == 3
    return shell(project, commands)


@pytest.mark.qemu
def test_another_driver_parameter_shows_as_the_page_says(
    done: subprocess.CompletedProcess[str], project: Path, tmp_path: Path
) -> None:
    assert done.returncode == 0, done.stdout + done.stderr
    (name, text), *_ = FILE.findall(PAGE.read_text())
    test = tmp_path / name
    test.parent.mkdir()
    shutil.copy(project / "new.vtrace.zst", tmp_path / "a.vtrace")
    for trace in ("a", "b"):
        opened = f'vetrace_trace("../{trace}.vtrace")'
        changed = text.replace('vetrace_boot("--region", "nvme", "--every-stop")', opened)
        assert changed != text
        (tmp_path / trace).write_text(changed.replace("(vetrace_boot)", "(vetrace_trace)"))
    boot = "vetrace boot --region nvme --every-stop --quiet -o"
    commands = f"""
        {boot} b.vtrace --append nvme.io_queue_depth=16
        cp a {name} && pytest tests --vetrace-record
        cp b {name} && ! pytest tests
        vetrace diff a.vtrace b.vtrace
        """
    compared = shell(tmp_path, commands)
    assert compared.returncode == 3, compared.stderr
    # The doorbell of the first queue, at its seventeenth command.
    wrapped = r"~ W4  \+0x1008 SQ1TDBL 0x00000010 → 0x00000000  nvme_\w+"
    assert re.search(rf"^  {wrapped}", compared.stdout, re.MULTILINE), compared.stdout
    assert re.search(rf"^E +{wrapped}", compared.stdout, re.MULTILINE), compared.stdout


@pytest.mark.qemu
def test_the_commands_of_the_regression_test_page_work(
    done: subprocess.CompletedProcess[str], project: Path
) -> None:
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no divergence" in done.stdout
    # Five tests each time; only the first time is there something to record.
    assert done.stdout.count("5 passed") == 3
    recorded = re.findall(r"^vetrace: recorded (.*)$", done.stdout, re.MULTILINE)
    golden = project / "tests" / "golden"
    assert sorted(recorded) == sorted(map(str, golden.glob("**/*.vtrace.zst")))
    assert len(recorded) == 2
    alike = re.findall(r"^nvme: (\d+) alike$", done.stdout, re.MULTILINE)
    assert len(alike) == 2 and int(alike[0]) > 50


@pytest.mark.qemu
@pytest.mark.long
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
