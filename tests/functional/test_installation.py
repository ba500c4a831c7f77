"""vetrace as others get it: built, installed in an empty environment, used outside the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from email import message_from_string
from pathlib import Path

import pytest
from vetrace_run import CHECKOUT, DEADLINE

PLUGIN_TEST = """\
import pytest


def test_the_driver_is_seen(vetrace_boot):
    records = vetrace_boot("--region", "nvme").records()
    assert any(type(record).__name__ == "Intercept" for record in records)


def test_the_driver_survives_in_a_td(vetrace_boot):
    trace = vetrace_boot("--region", "nvme", guest="tdx")
    trace.assert_survives("linux-tdx", region="nvme")
    asked = [record for record in trace.records() if getattr(record, "via", "") == "guest"]
    assert asked and all(record.agrees for record in asked)


def test_another_instruction_is_an_oops_there(vetrace_boot):
    with pytest.raises(pytest.fail.Exception, match="the guest panicked"):
        vetrace_boot(
            "--region", "nvme", "--append", "oops=panic", guest="tdx",
            rules=["on read nvme.CSTS once do refuse"],
        )
"""


# Where shells and man(1) look, below share.
SHARED = (
    "bash-completion/completions/vetrace", "zsh/site-functions/_vetrace",
    "fish/vendor_completions.d/vetrace.fish", "man/man1/vetrace.1", "man/man1/vetrace-boot.1",
)  # fmt: skip


def call(folder: Path, *command: str | Path, status: int = 0) -> str:
    """Run a program outside the checkout; return what it printed on both streams."""
    done = subprocess.run(
        list(map(str, command)),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=2 * DEADLINE,
        check=False,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )
    assert done.returncode == status, done.stdout
    return done.stdout


@dataclass(frozen=True, slots=True)
class Built:
    wheel: Path
    sdist: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("dist")
    call(CHECKOUT, sys.executable, "-m", "hatchling", "build", "-d", folder)
    (wheel,) = folder.glob("*.whl")
    (sdist,) = folder.glob("*.tar.gz")
    return Built(wheel, sdist)


def test_the_wheel_has_the_guests_recipe(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as wheel:
        for name in ("machine.cfg", "cmdline", "init"):
            content = wheel.read(f"tracer/guest/files/{name}")
            assert content == (CHECKOUT / "qemu" / name).read_bytes()
        assert not [name for name in wheel.namelist() if name.startswith(("tests/", "scripts/"))]


def test_what_an_index_shows(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as wheel:
        (name,) = [name for name in wheel.namelist() if name.endswith("/METADATA")]
        metadata = message_from_string(wheel.read(name).decode())
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Keywords"] and metadata.get_all("Project-URL")
    assert "Typing :: Typed" in metadata.get_all("Classifier", [])
    text = str(metadata.get_payload())
    links = [part.partition(")")[0] for part in text.split("](")[1:]]
    assert [link for link in links if not link.startswith(("https:", "#"))] == []
    assert "`docs/how-it-works.md`" in text


def test_the_source_distribution_builds_and_tests(built: Built, tmp_path: Path) -> None:
    with tarfile.open(built.sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    for needed in ("scripts/setup", "scripts/test", "qemu/init", "docs/architecture.md", "LICENSE"):
        assert (source / needed).is_file(), needed
    call(source, sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path / "dist")
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as again, zipfile.ZipFile(built.wheel) as first:
        assert sorted(again.namelist()) == sorted(first.namelist())
    call(source, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
         "tests/unit/x86/test_paging.py", "tests/unit/x86/test_decode.py")  # fmt: skip


@pytest.mark.qemu
def test_an_installed_vetrace_boots(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What it sets up is its own: other tests and the user keep the kernels that they have.
    monkeypatch.setenv("VETRACE_CACHE", str(tmp_path / "cache"))
    call(tmp_path, sys.executable, "-m", "venv", "env")
    programs = tmp_path / "env/bin"
    call(tmp_path, programs / "pip", "install", "--quiet", built.wheel, "pytest")
    vetrace = programs / "vetrace"
    for place in SHARED:
        assert "vetrace" in (tmp_path / "env/share" / place).read_text()
    assert "ready" in call(tmp_path, vetrace, "setup")
    assert "ready" in call(tmp_path, vetrace, "setup", "--guest", "tdx")
    assert "ready: vetrace boot" in call(tmp_path, vetrace, "doctor")
    said = call(
        tmp_path, vetrace, "boot", "--quiet", "--check", "--region", "nvme", "-o", "a.vtrace"
    )
    assert "0 missing, 0 extra, 0 different" in said
    assert "nvme" in call(tmp_path, programs / "python", "-m", "tracer", "show", "a.vtrace")
    (tmp_path / "test_driver.py").write_text(PLUGIN_TEST)
    assert "3 passed" in call(tmp_path, programs / "pytest", "-q", "test_driver.py")
