"""docs/instructions.md is what the table says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tracer.look.explanation import stepped_live
from tracer.x86.decode import decode
from tracer.x86.state import Mode

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "instructions.md"


def test_page_is_up_to_date() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "instructions"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _examples(title: str) -> list[bytes]:
    # The third column of each line of a table of the census is an example.
    _, _, rest = PAGE.read_text().partition(f"\n{title}:\n\n")
    table, _, _ = rest.partition("\n\n")
    found = re.findall(r"^\| \w+ \| `([0-9a-f ]+)` \|", table, re.MULTILINE)
    return [bytes.fromhex(example) for example in found]


def test_what_the_census_calls_left_is_left() -> None:
    # Else the table has grown since: run scripts/census --write with the kernels that it names.
    outside = _examples("Outside the table")
    stepped = _examples("Emulated by `vetrace decode` and stepped in a live guest")
    assert outside and stepped
    for example in outside:
        assert decode(example, 0, Mode.LONG).form is None, example.hex(" ")
    for example in stepped:
        assert stepped_live(decode(example, 0, Mode.LONG)), example.hex(" ")
