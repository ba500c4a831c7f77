"""Call chains of the Debian kernel's drivers, against what its sources say calls what."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from vetrace_run import Run, Trace, boot, read_trace, run

from tracer.trace.phase import PhaseTracker
from tracer.trace.record import Intercept, Mark, StackRecord

pytestmark = pytest.mark.qemu

# Where the kernel's code begins: a thread, the boot CPU, a system call, an interrupt.
OUTERMOST = re.compile(r"ret_from_fork(_asm)?|\w+_startup_64\w*|entry_SYSCALL_64\w*|asm_\w+")


REGIONS = ("--region", "nvme", "--region", "virtio-blk.common", "--region", "hpet")


@pytest.fixture(scope="module")
def by_itself(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return boot(tmp_path_factory.mktemp("stacks"), "--quiet", "--stacks", "--kaslr", *REGIONS)


@pytest.fixture(scope="module")
def by_stops(tmp_path_factory: pytest.TempPathFactory) -> Run:
    words = ("--quiet", "--stacks", "--kaslr", "--every-stop")
    return boot(tmp_path_factory.mktemp("stacks"), *words, *REGIONS)


@pytest.fixture(scope="module", params=["by_itself", "by_stops"])
def booted(request: pytest.FixtureRequest) -> Run:
    run = request.getfixturevalue(request.param)
    assert isinstance(run, Run)
    return run


@pytest.fixture(scope="module")
def trace(booted: Run) -> Trace:
    assert booted.status == 0, booted.err
    return read_trace(booted.trace)


def chains(trace: Trace) -> dict[int, list[str]]:
    """The functions of each stack by its number, the innermost first."""
    return {
        record.id: [frame.site.partition("+")[0] for frame in record.frames]
        for record in trace.records
        if isinstance(record, StackRecord)
    }


def in_order(wanted: list[str], chain: list[str]) -> bool:
    """Tell whether patterns fit functions of a chain in this order, with others between."""
    rest = iter(chain)
    return all(any(re.fullmatch(pattern, name) for name in rest) for pattern in wanted)


def test_every_stack_is_whole(trace: Trace) -> None:
    stacks = [record for record in trace.records if isinstance(record, StackRecord)]
    assert len(stacks) > 20
    assert [record.lost for record in stacks if record.lost] == []
    distinct = {tuple(frame.rip for frame in record.frames) for record in stacks}
    assert len(distinct) == len(stacks)
    assert [chain for chain in chains(trace).values() if not OUTERMOST.fullmatch(chain[-1])] == []


def test_every_access_of_the_kernel_has_a_stack_told_before_it(trace: Trace) -> None:
    told: dict[int, StackRecord] = {}
    for record in trace.records:
        if isinstance(record, StackRecord):
            told[record.id] = record
        elif isinstance(record, Intercept) and record.cpl == 0:
            assert record.stack is not None
            first = told[record.stack].frames[0]
            assert (first.rip, first.symbol) == (record.rip, record.symbol)


def test_drivers_are_called_as_their_sources_say(trace: Trace) -> None:
    found = list(chains(trace).values())
    for wanted in (
        # A request rings the queue's doorbell.
        [r"nvme_\w+", r"blk_\w+", r"\w*nvme_submit\w+", r"nvme_\w+"],
        # A read from user space does so through the file system.
        [r"nvme_\S+", r"blk_\S+", r"\w*_read", r"\w*sys_read", "do_syscall_64"],
        # A driver in a module, probed while the module is loaded.
        [r"iowrite\w+|vp_\w+", r"virt\w+_probe", "really_probe", "driver_register",
         "do_one_initcall", "do_init_module", "do_syscall_64"],
    ):  # fmt: skip
        assert any(in_order(wanted, chain) for chain in found), wanted


def test_phases_are_initcalls_and_threads_and_then_user_space(trace: Trace) -> None:
    phases = [
        record.text.removeprefix("phase: ")
        for record in trace.records
        if isinstance(record, Mark) and record.text.startswith("phase: ")
    ]
    assert phases[-1] == "user space"
    others = phases[:-1]
    wanted = re.compile(r"(initcall|work|async|(irq )?thread) \w+|kernel")
    assert all(wanted.fullmatch(phase) for phase in others)
    assert any(phase.startswith("initcall ") for phase in others)


def test_work_beside_the_initcalls_is_in_none_of_them(trace: Trace) -> None:
    found, phase = chains(trace), ""
    work = set()
    for record in trace.records:
        if isinstance(record, Mark):
            phase = record.text
        elif isinstance(record, Intercept) and record.stack is not None and "user" not in phase:
            chain = found[record.stack]
            if "process_one_work" in chain and "async_run_entry_fn" not in chain:
                called = chain[chain.index("process_one_work") - 1]
                name = phase.removeprefix("phase: work ")
                # A function that has jumped to another one at its end is on no stack.
                assert name != phase and (name == called or name not in chain)
                work |= {name} & {called}
    assert work  # the NVMe driver resets its controller in a workqueue


def chained(trace: Trace, region: str) -> list[tuple[str | None, list[str]]]:
    """The phase and the call chain of each access to a region."""
    tracker, found, told = PhaseTracker(), [], {}
    for record in trace.records:
        phase = tracker.add(record)
        if isinstance(record, StackRecord):
            told[record.id] = [frame.site for frame in record.frames]
        elif isinstance(record, Intercept) and record.stack is not None:
            here = [access for _, access in record.device_accesses() if access.region == region]
            found += [(phase, told[record.stack])] * len(here)
    return found


def test_both_ways_tell_the_same_phase_and_chain(by_itself: Run, by_stops: Run) -> None:
    one, other = read_trace(by_itself.trace), read_trace(by_stops.trace)
    counts = one.end.counts
    assert counts["compiled"] > counts["emulated"] and not other.end.counts.get("compiled")
    # A driver in a module, whose init code is given away a moment later.
    probed = chained(one, "virtio-blk.common")
    assert len(probed) > 20 and probed == chained(other, "virtio-blk.common")


def test_folded_stacks_count_every_access(booted: Run, trace: Trace, tmp_path: Path) -> None:
    folded = run(tmp_path, "stats", "--folded", booted.trace)
    assert folded.status == 0, folded.err
    lines = [line.rpartition(" ") for line in folded.out.splitlines()]
    assert sum(int(count) for _, _, count in lines) == trace.end.counts["accesses"]
    assert {chain.partition(";")[0] for chain, _, _ in lines} <= {
        chain[-1] for chain in chains(trace).values()
    }
