"""Transcripts of pages: how they are read, and what of their output is compared."""

from __future__ import annotations

from pathlib import Path

import pytest
from transcript import Step, masked, misses, transcript

ROOT = Path(__file__).parents[3]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])

PAGE = """
Debian's `6.1.0-56-cloud-amd64` does this:

```console
$ vetrace boot -i
...
(vetrace) step
step
```

And then:

```console
(vetrace) quit
```
"""


def test_the_blocks_of_a_page_are_one_session() -> None:
    read = transcript(PAGE)
    assert read.release == "6.1.0-56-cloud-amd64"
    assert read.steps == (
        Step("$ vetrace boot -i", ("...",)),
        Step("(vetrace) step", ("step",)),
        Step("(vetrace) quit", ()),
    )
    assert [(step.command, step.at_prompt) for step in read.steps] == [
        ("vetrace boot -i", False), ("step", True), ("quit", True),
    ]  # fmt: skip


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_session_is_shown_that_is_not_played(page: Path) -> None:
    language, played = "", page.read_text()
    for line in played.splitlines():
        if line.startswith("```"):
            language = "" if language else line.removeprefix("```") or "text"
        elif language and line.startswith(("(vetrace) ", "$ vetrace", "$ pytest")):
            assert language == "console", line


ACCESS = (
    "  1.124160  vcpu0  nvme_pci_reg_write32+0xb  mov [rsi], edx   nvme+0x14  CC  W4  0x00460061"
)


@pytest.mark.parametrize(
    ("other", "exact", "otherwise"),
    [
        (ACCESS, True, True),
        (ACCESS.replace("1.124160", "1.200000"), True, True),
        (ACCESS.replace("   nvme", "          nvme"), True, True),
        (ACCESS.replace("+0xb", "+0xf"), False, True),
        (ACCESS.replace("pci_reg_write32", "pci_reg_wri…"), False, True),
        (ACCESS.replace("mov [rsi], edx", "mov [rax], ecx"), False, True),
        (ACCESS.replace("0x00460061", "0x00460001"), False, True),
        (ACCESS.replace("W4", "R4"), False, False),
        (ACCESS.replace("CC", "CSTS"), False, False),
        (ACCESS.replace("nvme+0x14", "nvme+0x1c"), False, False),
    ],
)
def test_a_line_of_an_access(other: str, exact: bool, otherwise: bool) -> None:
    for how, alike in ((True, exact), (False, otherwise)):
        assert (masked(other, exact=how) == masked(ACCESS, exact=how)) is alike


@pytest.mark.parametrize(
    ("shown", "seen", "alike"),
    [
        ("0 missing, 0 extra over 3860 accesses", "0 missing, 0 extra over 3,911 accesses", True),
        ("0 missing, 0 extra over 3860 accesses", "1 missing, 0 extra over 3860 accesses", False),
        (" ecam  26  26  0 ", " ecam   9    9   0", True),
        (" ecam  26  26  0 ", " hpet  26  26  0 ", False),
        ("~ W4  +0x1008 SQ1TDBL 0x00000010 #262", "~ W4  +0x1008 SQ1TDBL 0x00000010 #9", True),
        ("~ W4  +0x1008 SQ1TDBL 0x00000010 #262", "~ W4  +0x1000 SQ1TDBL 0x00000010 #262", False),
        ("nvme: 18 changed, 0 only in A", "nvme: 17 changed, 1 only in A", True),
        ("TDX guest, Linux 6.12 and later", "TDX guest, Linux 6.12 and later", True),
    ],
)
def test_a_line_of_a_shell(shown: str, seen: str, alike: bool) -> None:
    for exact in (True, False):
        mask = [masked(line, exact=exact, at_prompt=False) for line in (shown, seen)]
        assert (mask[0] == mask[1]) is alike


def test_breaks_keep_their_numbers() -> None:
    assert masked("break 1: nvme", exact=False) != masked("break 2: nvme", exact=False)


@pytest.mark.parametrize(
    ("shown", "seen", "missed"),
    [
        ("a b", "a b", None),
        ("a b", "a c", ["a", "b"]),
        ("", "", None),
        ("", "a", []),
        ("...", "a b c", None),
        ("...", "", None),
        ("... c", "a b c", None),
        ("... b", "a b c", ["b"]),
        ("a ...", "a b c", None),
        ("b ...", "a b c", ["b"]),
        ("... b ...", "a b c", None),
        ("... b a ...", "a b c", ["b", "a"]),
        ("a ... c", "a b c", None),
        ("a ... a", "a", ["a"]),
        ("... b ... b ...", "a b c", ["b"]),
        ("... b c ... e", "a b x b c d e", None),
    ],
)
def test_what_is_shown_is_looked_for_in_order(
    shown: str, seen: str, missed: list[str] | None
) -> None:
    assert misses(shown.split(), seen.split()) == missed
