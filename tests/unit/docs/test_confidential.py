"""docs/confidential.md lists what is answered, and the code answers that."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tracer.confidential.sev_exit import EXITS, PROTOCOLS
from tracer.confidential.tdx_field import FIELDS
from tracer.confidential.tdx_host import CALLS
from tracer.confidential.tdx_leaf import LEAVES

PAGE = Path(__file__).parents[3] / "docs" / "confidential.md"


def rows() -> Iterator[tuple[str, list[str]]]:
    """Each table by the heading of its first column, with its lines."""
    yield (
        "leaf",
        [
            f"| {leaf.number} | {leaf.name} | {leaf.answered} | `{leaf.source}` |"
            for leaf in LEAVES.values()
        ],
    )
    yield (
        "R11",
        [
            f"| {call.number:#x} | {call.name} | {call.answered} | `{call.source}` |"
            for call in CALLS.values()
        ],
    )
    yield (
        "field",
        [
            f"| {field.identifier:#x} | {field.name} | {field.readable:#x} | {field.writable:#x} |"
            for field in FIELDS.values()
        ],
    )
    yield (
        "MSR",
        [
            f"| {protocol.code:#05x} | {protocol.name} | {protocol.answered} |"
            for protocol in PROTOCOLS.values()
        ],
    )
    yield (
        "SW_EXITCODE",
        [f"| {exit.code:#x} | {exit.name} | {exit.answered} |" for exit in EXITS.values()],
    )


@pytest.mark.parametrize(("heading", "lines"), list(rows()), ids=[heading for heading, _ in rows()])
def test_the_page_has_what_the_code_has(heading: str, lines: list[str]) -> None:
    page = PAGE.read_text().splitlines()
    begin = next(n for n, line in enumerate(page) if line.startswith(f"| {heading} |"))
    found = page[begin + 2 :]
    end = next((n for n, line in enumerate(found) if not line.startswith("|")), len(found))
    assert found[:end] == lines
