"""Outcomes as a table."""

from __future__ import annotations

import io

import pyarrow.parquet as pq

from tracer.campaign import table
from tracer.campaign.ending import Ending
from tracer.campaign.job import Job, Outcome


def test_a_row_an_outcome_by_seed() -> None:
    sink = io.BytesIO()
    table.write(
        [
            Outcome(Job(9, "read nvme", guest="tdx"), Ending("oops", "f+0x1", "Oops: 0000"), 2, 1),
            Outcome(Job((1 << 64) - 1, "nvme"), Ending("clean"), 0),
            Outcome(Job(3, "nvme"), Ending("hang", "", "had not ended"), 1),
        ],
        sink,
    )
    rows = pq.read_table(sink).to_pylist()
    assert [row["seed"] for row in rows] == [3, 9, (1 << 64) - 1]
    assert rows[1] == {
        "seed": 9, "end": "oops", "site": "f+0x1", "line": "Oops: 0000", "mutated": 2,
        "refused": 1, "guest": "tdx", "mutate": "read nvme",
        "command": Job(9, "read nvme", guest="tdx").command,
    }  # fmt: skip
    assert (rows[0]["site"], rows[2]["line"]) == (None, None)


def test_no_outcomes_are_a_table_too() -> None:
    sink = io.BytesIO()
    table.write([], sink)
    assert pq.read_table(sink).column_names == table.SCHEMA.names
