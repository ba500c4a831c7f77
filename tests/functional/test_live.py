"""A stock kernel's own handler of #VE or #VC, tried live: what it makes of instructions is as told.

Each guest goes on to its power-off afterwards: any other end is an error, status 1.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from confidential_kernel import kernel_for
from vetrace_run import run

from tracer.confidential.findings import Findings
from tracer.confidential.handler import PROFILES
from tracer.confidential.kind import Kind
from tracer.errors import TracerError
from tracer.intercept.below.bench import Wanted
from tracer.launch.plan import Plan
from tracer.launch.start import launch
from tracer.linux.handler_end import behind_handler

pytestmark = pytest.mark.qemu

TRUE = b"\xb8\x01\x00\x00\x00\xc3"  # mov eax, 1; ret
FALSE = b"\x31\xc0\xc3"  # xor eax, eax; ret


def told(folder: Path, kind: Kind, *words: str | Path) -> dict[str, Any]:
    tried = run(
        folder, "audit", "--live", "--guest", kind, "--kernel", kernel_for(kind), *words, "--json"
    )
    assert tried.status == 0, tried.out + tried.err
    (found,) = tried.objects
    assert found["agrees"] is True and found["disagreements"] == []
    assert found["tried"] == found["carried_out"] + found["rejected"]
    return found


@pytest.mark.parametrize("kind", [Kind.TDX, Kind.SEV_ES])
def test_a_stock_kernels_handler_is_as_foretold(kind: Kind, tmp_path: Path) -> None:
    found = told(tmp_path, kind, "-n", "300", "--seed", "7")
    assert found["tried"] == 300
    assert min(found["carried_out"], found["rejected"], found["unlike_the_cpu"]) > 10
    assert {"device", "crossing", "user"} <= set(found["places"])
    assert found["profile"] == {Kind.TDX: "linux-tdx", Kind.SEV_ES: "linux-sev"}[kind]


async def _tried(kind: Kind, profile: str, patched: str, code: bytes, count: int) -> Findings:
    """Try instructions on a kernel of which one function is another."""
    plan = Plan(guest=kind, kernel=kernel_for(kind))
    async with launch(plan) as session:
        await session.reach_entry()
        behind = partial(behind_handler, session.names.symbols, kind)
        session.loop.wanted = Wanted(PROFILES[profile], 7, count, behind)
        await session.trap()
        place = session.names.symbols.address_of(patched)
        assert place is not None
        await session.target.write_code(place, code)
        # User space is not to be had with this, and not needed: the trials come long before.
        with suppress(TracerError):
            await session.run()
        assert session.loop.bench is not None and session.loop.bench.done
        return session.loop.bench.findings


@pytest.mark.long
def test_a_handler_without_its_check_of_user_addresses_is_another() -> None:
    patched = "fault_in_kernel_space", TRUE, 300
    current = asyncio.run(_tried(Kind.TDX, "linux-tdx", *patched))
    assert not current.agrees
    assert {finding.trial.place for finding in current.found} == {"user"}
    assert all("not rejected" in finding.differences[0] for finding in current.found)
    older = asyncio.run(_tried(Kind.TDX, "linux-tdx-5.19", *patched))
    assert older.agrees, older.found


@pytest.mark.long
def test_a_handler_that_does_not_see_a_repeat_prefix_is_another() -> None:
    current = asyncio.run(_tried(Kind.SEV_ES, "linux-sev", "insn_has_rep_prefix", FALSE, 400))
    assert not current.agrees and current.tried == 400
    assert all(
        finding.trial.insn.rep and finding.trial.insn.text.split()[1].startswith("movs")
        for finding in current.found
    )
