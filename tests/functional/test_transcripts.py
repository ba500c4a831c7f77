"""Every transcript in the pages that people read, played on a real guest."""

from __future__ import annotations

import lzma
import re
import shutil
from pathlib import Path

import late_guest
import pytest
from built_module import build
from confidential_kernel import kernel_for
from transcript import Booted, Player, transcript
from vetrace_run import CHECKOUT

from tracer.confidential.kind import Kind
from tracer.host.package import fetch_kernel, newest_kernel
from tracer.linux.kernel import default_kernel, read_facts

PAGES = [
    page
    for page in sorted([*CHECKOUT.glob("*.md"), *CHECKOUT.glob("docs/**/*.md")])
    if transcript(page.read_text()).steps
]


@pytest.fixture(scope="module")
def boots() -> dict[str, Booted]:
    """Boots of one kernel that several pages make."""
    return {}


FILE = re.compile(
    r"^```(?:python|toml|make|text)\n# (\S+\.py|\S+\.toml|\S+\.cfg|Makefile)\n(.*?)^```",
    re.DOTALL | re.MULTILINE,
)
SOURCE = re.compile(r"^```c\n(// (\S+\.c): .*?)^```", re.DOTALL | re.MULTILINE)


def player(folder: Path, kernel: Path | None = None) -> Player:
    image = kernel or default_kernel()
    assert image is not None
    work = folder / "session"
    work.mkdir()
    # A log of the kernel's own tracer is of another machine.
    log = CHECKOUT / "tests" / "data" / "mmiotrace" / "damaged.log"
    (work / "nvme.log.xz").write_bytes(lzma.compress(log.read_bytes()))
    shutil.copy(CHECKOUT / "tests" / "golden" / "6.1.0-56-cloud-amd64" / "nvme.vtrace.zst", work)
    return Player(work, read_facts(image).release, kernel)


def said(page: str) -> str:
    """Return the commands of a page's sessions."""
    return "\n".join(step.command for step in transcript(page).steps)


@pytest.mark.qemu
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_shows_what_happens(page: Path, tmp_path: Path, boots: dict[str, Booted]) -> None:
    text = page.read_text()
    plays = player(tmp_path, kernel_for(Kind.TDX) if "--guest tdx" in said(text) else None)
    for name, program in FILE.findall(text):
        if "/" not in name:
            (plays.folder / name).write_text(program)
    sources = SOURCE.findall(text)
    for program, name in sources:
        (plays.folder / name).write_text(program)
    if sources:
        build(plays.folder, plays.release)
    if "late.elf" in said(text):
        late_guest.build(plays.folder)
    plays.boots = boots
    plays.play(transcript(text))


@pytest.mark.qemu
@pytest.mark.long
def test_the_first_session_arrives_with_debians_full_kernel(tmp_path: Path) -> None:
    page = CHECKOUT / "docs" / "repl.md"
    kernel = fetch_kernel(newest_kernel("linux-image-amd64"))
    player(tmp_path, kernel).play(transcript(page.read_text()))
