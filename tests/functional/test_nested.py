"""Traps by physical address: nothing of the guest's is changed, and the same is seen."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from pathlib import Path

import pytest
from bare_guest import DEVICE, REGION, Case, assemble
from vetrace_run import Run, agreed, boot, drove_its_devices, read_trace, run

from tracer.compiled.layout import SLOTS
from tracer.launch.plan import Plan
from tracer.launch.start import launch
from tracer.trace.phase import PhaseTracker
from tracer.trace.record import Intercept, Record
from tracer.x86.paging import leaves, paging_of, walk

pytestmark = pytest.mark.qemu

Entries = Counter[tuple[int, int, int]]
"""Entries that lead to devices: physical address, size, and bits."""
MAPPED_AT = 0xFFFF_FFFF_8000_0000
"""Where Linux without KASLR has physical address 0 among its own code and data."""
ACCESSED, DIRTY = 1 << 5, 1 << 6


def nested(folder: Path, *options: str | Path) -> Run:
    return boot(folder, "--trap", "nested", "--check", "--quiet", *options)


@pytest.fixture(scope="module")
def default(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("default")
    return nested(folder, "--kaslr", "--append", "pti=on", "--inputs")


def test_a_kernel_is_traced_without_a_hook_in_it(default: Run) -> None:
    assert agreed(default) > 80_000
    assert " 0 of them for mappings" in default.err
    drove_its_devices(default)
    records = read_trace(default.trace).intercepts
    spaces = {access.space for record in records for access in record.accesses}
    assert spaces == {"memory", "port", "config", "msr", "cpuid", "irq", "msi"}
    ways = {record.via for record in records}
    assert ways == {"emulated", "compiled", "monitor"}


async def entries_at_the_end(plan: Plan, *, traced: bool) -> Entries:
    """Return the entries of a guest that has powered itself off, as they lie in its RAM.

    While it was traced no entry that an access had gone by was one that faults.
    """
    async with launch(plan) as session:
        await session.reach_entry()
        regions = await session.refresh_regions()
        view, top = session.view, session.names.kernel.address_of("init_top_pgt")
        assert top is not None
        paging = paging_of(top - MAPPED_AT, 0, view.poison)
        looked: list[int] = []

        def look(record: Record) -> None:
            if isinstance(record, Intercept):
                for access in record.accesses:
                    leaf = walk(view.memory, paging, access.linear)
                    looked.append(access.linear)
                    assert leaf is None or not leaf.poisoned

        if traced:
            session.scribes.append(look)
            await session.trap(ring=SLOTS, nested=plan.nested)
            await session.run()
            regions = view.regions
            assert len(looked) > 50
        else:
            await session.run_untraced()
        # Whatever vetrace would set is in `entry`, and is no part of the address.
        found = [
            (leaf.physical, leaf.size, leaf.entry & ~(ACCESSED | DIRTY))
            for leaf in leaves(view.memory, paging)
            if leaf.poisoned or regions.is_watched(leaf.physical, leaf.physical + leaf.size - 1)
        ]
        return Counter(found)


def test_the_page_tables_are_the_guests_own() -> None:
    untraced = asyncio.run(entries_at_the_end(Plan(), traced=False))
    nested = asyncio.run(entries_at_the_end(Plan(nested=True), traced=True))
    assert nested == untraced
    assert nested.total() > 100


def test_an_access_without_a_stop_has_its_phase(default: Run) -> None:
    tracker = PhaseTracker()
    phases = Counter[tuple[str, str | None]]()
    for record in read_trace(default.trace).records:
        phase = tracker.add(record)
        if isinstance(record, Intercept) and record.cpl == 0:
            phases[record.via, None if phase is None else phase.partition(" ")[0]] += 1
    assert {"initcall", "work", "user"} <= {kind for via, kind in phases if via == "compiled"}
    assert {"initcall", "work", "user"} <= {kind for via, kind in phases if via == "monitor"}
    assert not any(kind is None for _, kind in phases)


def test_its_trace_replays(default: Run) -> None:
    done = run(default.folder, "replay", default.trace)
    assert done.status == 0 and "no divergence" in done.out, done.out + done.err


def test_it_is_let_go_from_within_the_monitor(tmp_path: Path) -> None:
    script = "break nvme.CC; continue; regs; peek lapic+0x20; step; detach"
    done = boot(tmp_path, "--trap", "nested", "--quiet", "-e", script)
    assert done.status == 0, done.err + done.out
    assert "lapic+0x20 ID" in done.out
    drove_its_devices(done)


def test_several_vcpus_have_one_order(tmp_path: Path) -> None:
    done = nested(tmp_path, "--realtime", "--stacks", "--", "-smp", "2")
    agreed(done)
    drove_its_devices(done)
    records = [record for record in read_trace(done.trace).intercepts if record.cpl == 0]
    assert {record.vcpu for record in records} == {0, 1}
    assert all(record.stack is not None for record in records)


def test_a_page_table_in_a_device_is_told(tmp_path: Path) -> None:
    table = (
        "mov rax, [rip + window + 8]; mov [rip + root + 8], rax; mov rax, cr3; mov cr3, rax;"
        " movabs rax, 0x8000000000; mov eax, [rax]"
    )
    guest = assemble(tmp_path, [Case(table, [])])
    done = boot(tmp_path, "--trap", "nested", "--kernel", guest, "--quiet", "--", *DEVICE)
    assert done.status == 1
    (told,) = [line for line in done.complaints if "page table" in line]
    assert re.search(rf"has a page table where no RAM is, .* \({REGION}\+0x0\)", told)
