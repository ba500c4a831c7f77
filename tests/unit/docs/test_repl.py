"""docs/repl.md: its commands are those there are, and its example does what it says."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path

from guest_sample import Talk

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "repl.md").read_text()


def test_the_commands_are_up_to_date() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "commands"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_example_of_ones_own_file(tmp_path: Path) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    path = tmp_path / "own.py"
    path.write_text(code)

    async def body() -> None:
        talk = await Talk().start()
        lines = [f"source {path}", "doorbells", "filter doorbell", "continue", "doorbells"]
        assert await talk.type(*lines) == 0, talk.complaints
        assert " ".join(talk.text.split()).startswith(f"{path}: 1 command, 1 filter, 1 subscriber")
        assert talk.said.count("{}") == 2 and talk.said[-1] == "{}"

    asyncio.run(body())
