"""A stock kernel's own handler of #VE, tried live: what it makes of instructions is as foretold."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from confidential_kernel import kernel_for
from vetrace_run import run

from tracer.confidential.findings import Findings
from tracer.confidential.handler import PROFILES
from tracer.confidential.kind import Kind
from tracer.errors import TracerError
from tracer.intercept.bench import Wanted
from tracer.launch.plan import Plan
from tracer.launch.start import launch
from tracer.linux.ve_handler import behind_handler

pytestmark = pytest.mark.qemu

TRUE = b"\xb8\x01\x00\x00\x00\xc3"  # mov eax, 1; ret


def test_a_stock_kernels_handler_is_as_foretold(tmp_path: Path) -> None:
    """The guest goes on to its power-off afterwards: any other end is an error, status 1."""
    tried = run(
        tmp_path, "audit", "--live", "--guest", "tdx", "--kernel", kernel_for(Kind.TDX),
        "-n", "300", "--seed", "7", "--json",
    )  # fmt: skip
    assert tried.status == 0, tried.out + tried.err
    (told,) = tried.objects
    assert told["agrees"] is True and told["disagreements"] == []
    assert told["tried"] == 300 == told["carried_out"] + told["rejected"]
    assert min(told["carried_out"], told["rejected"], told["unlike_the_cpu"]) > 10
    assert {"device", "crossing", "user"} <= set(told["places"])


async def _tried(profile: str, patched: str) -> Findings:
    """Try instructions on a kernel of which one function says yes to everything."""
    plan = Plan(guest=Kind.TDX, kernel=kernel_for(Kind.TDX))
    async with launch(plan) as session:
        await session.reach_entry()
        behind = partial(behind_handler, session.names.symbols)
        session.loop.wanted = Wanted(PROFILES[profile], 7, 300, behind)
        await session.trap()
        place = session.names.symbols.address_of(patched)
        assert place is not None
        await session.target.write_code(place, TRUE)
        # User space is not to be had with this, and not needed: the trials come long before.
        with suppress(TracerError):
            await session.run()
        assert session.loop.bench is not None and session.loop.bench.done
        return session.loop.bench.findings


def test_a_handler_without_its_check_of_user_addresses_is_another() -> None:
    current = asyncio.run(_tried("linux-tdx", "fault_in_kernel_space"))
    assert not current.agrees
    assert {finding.trial.place for finding in current.found} == {"user"}
    assert all("not rejected" in finding.differences[0] for finding in current.found)
    older = asyncio.run(_tried("linux-tdx-5.19", "fault_in_kernel_space"))
    assert older.agrees, older.found
