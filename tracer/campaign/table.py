"""Outcomes of a campaign as a Parquet table, a row each."""

from __future__ import annotations

from collections.abc import Iterable
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from tracer.campaign.job import Outcome

SCHEMA = pa.schema(
    [
        ("seed", pa.uint64()),
        ("end", pa.string()),
        ("site", pa.string()),
        ("line", pa.string()),
        ("mutated", pa.int64()),
        ("refused", pa.int64()),
        ("guest", pa.string()),
        ("mutate", pa.string()),
        ("command", pa.string()),
    ]
)
"""The columns; ``site`` and ``line`` are null where nothing tells."""


def write(outcomes: Iterable[Outcome], sink: IO[bytes]) -> None:
    """Write a table with a row an outcome, by seed."""
    rows = sorted((_row(each) for each in outcomes), key=lambda row: row["seed"])
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), sink, compression="zstd")


def _row(each: Outcome) -> dict[str, Any]:
    return {
        "seed": each.job.seed,
        "end": each.ending.kind,
        "site": each.ending.site or None,
        "line": each.ending.line or None,
        "mutated": each.mutated,
        "refused": each.refused,
        "guest": each.job.guest,
        "mutate": each.job.mutate,
        "command": each.job.command,
    }
