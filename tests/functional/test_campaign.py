"""Campaigns on Debian's kernel: a seed that is booted again, and ends told by what was planted."""

from __future__ import annotations

import shlex
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from vetrace_run import Run, run

pytestmark = pytest.mark.qemu

MUTATE = "read nvme"
ALONE = ("--", "--region", "nvme")


@pytest.fixture(scope="module")
def booted(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("campaign")
    words = ("--seeds", "4", "--mutate", MUTATE, "-o", folder / "results.parquet")
    return run(folder, "campaign", *words, *ALONE)


def rows(done: Run) -> list[dict[str, object]]:
    found: list[dict[str, object]] = pq.read_table(done.folder / "results.parquet").to_pylist()
    return found


def test_each_seed_has_a_row_and_a_line(booted: Run) -> None:
    assert booted.status == 0, booted.err
    found = rows(booted)
    assert [row["seed"] for row in found] == [0, 1, 2, 3]
    assert all(row["end"] != "failed" for row in found)
    assert any(row["mutated"] for row in found)
    told = [line for line in booted.complaints if "/4  seed " in line]
    assert len(told) == 4 and "left)" in told[0] and "left)" not in told[-1]
    ends = {str(row["end"]) for row in found}
    assert all(any(end in line for line in booted.out.splitlines()) for end in ends)


def test_a_seed_alone_and_its_command_end_alike(booted: Run, tmp_path: Path) -> None:
    row = next(row for row in rows(booted) if row["mutated"])
    again = run(tmp_path, "campaign", "--seed", str(row["seed"]), "--mutate", MUTATE,
                "-o", tmp_path / "results.parquet", *ALONE)  # fmt: skip
    assert again.status == 0
    (same,) = rows(again)
    assert (same["end"], same["site"], same["command"]) == (row["end"], row["site"], row["command"])
    assert same["mutated"] == row["mutated"]
    vetrace, command, *words = shlex.split(str(row["command"]))
    assert (vetrace, command) == ("vetrace", "boot")
    done = run(tmp_path, "boot", "--quiet", *words)
    assert f"seed {row['seed']} decided about {row['mutated']} access" in done.err


def test_a_planted_end_is_told_by_its_line(tmp_path: Path) -> None:
    gone = ("--rule", "on read nvme.CSTS once do give 0xffffffff")
    words = ("--seed", "1", "--mutate", "write nvme+0x1ff0", "-o", tmp_path / "results.parquet")
    done = run(tmp_path, "campaign", *words, *ALONE, *gone)
    (row,) = rows(Run(done.status, done.out, done.err, tmp_path))
    assert (row["end"], row["mutated"]) == ("probe failed", 0)
    assert "nvme" in str(row["line"])
    panics = ("--append", "rdinit=/none root=/dev/none")
    done = run(tmp_path, "campaign", *words, *ALONE, *panics)
    (row,) = rows(Run(done.status, done.out, done.err, tmp_path))
    assert row["end"] == "panic" and row["site"]
