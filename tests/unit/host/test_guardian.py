"""A process that does what is left to do where another one is killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """\
import os, signal, sys
from tracer.host.guardian import Guardian

kept = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
other = os.open(sys.argv[1] + ".other", os.O_WRONLY | os.O_CREAT)
guardian = Guardian()
for number in range(2):  # the second takes the first one's place
    guardian.begin(lambda: [os.write(kept, b"%d" % number), os.write(other, b"lost")], [kept])
if sys.argv[2] == "ends":
    guardian.end()
    guardian.end()
elif sys.argv[2] == "fails":
    guardian.begin(lambda: 1 / 0)
if sys.argv[2] != "ends":
    os.kill(os.getpid(), signal.SIGKILL)
"""


def told(folder: Path, how: str) -> tuple[int, str, str]:
    """Run the program; return its status, what its guardian did, and standard error."""
    place = folder / how
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(place), how],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (folder / f"{how}.other").read_text() == ""
    return done.returncode, place.read_text(), done.stderr


def test_work_is_done_once_where_the_process_is_killed(tmp_path: Path) -> None:
    assert told(tmp_path, "killed") == (-9, "1", "")
    assert told(tmp_path, "ends") == (0, "", "")
    status, done, said = told(tmp_path, "fails")
    assert (status, done) == (-9, "") and "division by zero" in said
