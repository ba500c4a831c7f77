"""How much of the engine is entered without a guest."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.long
def test_nine_of_ten_functions_of_the_engine_are_entered_without_a_guest() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "reach")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
