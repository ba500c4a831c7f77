"""What is read from QEMU's stub by packet, against what GDB makes of the same stub."""

from __future__ import annotations

import asyncio
import re

import pytest

from tracer.launch.plan import Plan
from tracer.launch.start import launch

pytestmark = pytest.mark.qemu


async def registers() -> tuple[dict[str, int], dict[str, str]]:
    """All registers at the kernel's entry: ours, and GDB's in hexadecimal."""
    async with launch(Plan()) as session:
        await session.reach_entry()
        ours = dict((await session.target.registers()).values)
        client = session.target.client
        names = (await client.command("-data-list-register-names"))["register-names"]
        values = (await client.command("-data-list-register-values r"))["register-values"]
        assert isinstance(names, list)
        assert isinstance(values, list)
        return ours, {names[int(item["number"])]: item["value"] for item in values}


def number(text: str) -> int:
    """The value of a register: a vector has one of 128 bits among its views."""
    found = re.search(r"uint128 = (0x[0-9a-f]+)", text)
    return int(found[1] if found else text, 16)


def test_registers_are_those_that_gdb_shows() -> None:
    ours, theirs = asyncio.run(registers())
    assert set(ours) <= set(theirs)
    assert {name: number(theirs[name]) for name in ours} == ours
    # The kernel runs, so they are not all zero.
    assert ours["rip"] >> 31 == ours["rsp"] >> 31 == (1 << 33) - 1
    assert ours["cr3"]
    assert ours["efer"] & 0x500 == 0x500
