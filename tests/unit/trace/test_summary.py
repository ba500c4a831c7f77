"""Counting a trace, and the forms of instructions."""

from __future__ import annotations

import gc
import tracemalloc

import msgspec
import pytest
import trace_sample as sample

from tracer.trace.call import SharedRecord, TdcallRecord, VmgexitRecord
from tracer.trace.phase import EARLY, USER, PhaseTracker
from tracer.trace.record import Mark, MemoryAccess
from tracer.trace.summary import Summary, instruction_form, summary_object


def summary_of_sample() -> Summary:
    """Feed the whole sample trace to a summary."""
    summary = Summary()
    for record in sample.RECORDS:
        summary.add(record)
    return summary


def test_totals() -> None:
    summary = summary_of_sample()
    assert (summary.accesses, summary.emulated, summary.stepped) == (5, 4, 1)
    assert (summary.intercepts, summary.stepped_intercepts) == (5, 1)
    assert summary.end == sample.RECORDS[-1]


@pytest.mark.parametrize(
    ("region", "reads", "writes", "emulated", "stepped", "sites"),
    [
        ("nvme", 1, 1, 2, 0, 2),
        ("nvme.msix-table", 0, 1, 1, 0, 1),
        ("hpet", 1, 0, 1, 0, 1),
        ("lapic", 1, 0, 0, 1, 1),
    ],
)
def test_a_region_is_counted(
    region: str, reads: int, writes: int, emulated: int, stepped: int, sites: int
) -> None:
    count = summary_of_sample().regions[region]
    assert (count.reads, count.writes) == (reads, writes)
    assert (count.emulated, count.stepped) == (emulated, stepped)
    assert len(count.sites) == sites


def test_inputs_are_the_monitors_and_have_their_space() -> None:
    summary = Summary()
    summary.add(sample.ports("serial"))
    summary.add(sample.ports("pic"))
    summary.add(sample.inputs(0, sample.port(0x3F8, 1, "write", 65)))
    summary.add(sample.inputs(1, *sample.cpuid(1), text="cpuid"))
    assert (summary.accesses, summary.emulated, summary.monitor) == (5, 0, 5)
    assert summary.monitor_intercepts == 2
    told = summary_object(summary)
    assert told["monitor"] == 5
    spaces = {each["region"]: (each["space"], each["monitor"]) for each in told["regions"]}
    assert spaces == {"serial": ("port", 1), "pic": ("port", 0), "cpuid": ("cpuid", 4)}
    plain = summary_object(summary_of_sample())
    assert "monitor" not in plain and not any("space" in each for each in plain["regions"])


def test_guest_memory_is_not_counted() -> None:
    summary = Summary()
    summary.add(
        sample.intercept(0, sample.ram(4, "read", 1), sample.device("hpet", 0, 4, "read", 1))
    )
    assert summary.accesses == 1


def test_traced_regions_are_listed_even_without_an_access() -> None:
    summary = Summary()
    summary.add(sample.region("nvme"))
    summary.add(sample.region("hpet", traced=False))
    assert list(summary.regions) == ["nvme"]
    assert summary.accesses == 0


def test_call_sites_are_symbols_or_else_addresses() -> None:
    sites = summary_of_sample().sites
    assert sites["nvme_pci_enable+0x5e", "nvme"] == 1
    assert sites["0xffffffff81234567", "lapic"] == 1


def test_a_call_site_is_counted_once_per_region() -> None:
    summary = Summary()
    for seq in range(3):
        summary.add(sample.intercept(seq, sample.device("nvme", 4 * seq, 4, "read", 0)))
    assert len(summary.regions["nvme"].sites) == 1
    assert summary.sites["nvme_pci_enable+0x5e", "nvme"] == 3


def test_forms_tell_how_they_were_carried_out() -> None:
    forms = summary_of_sample().forms
    assert forms["mov r32, m32", "emulated"] == 1
    assert forms["mov r32, m32", "stepped"] == 1
    assert forms["movsd m32, m32", "emulated"] == 1


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("mov eax, dword ptr [rax + 0x1c]", "mov r32, m32"),
        ("mov dword ptr [rbp - 4], 0x460001", "mov m32, imm"),
        ("mov byte ptr [r8], r9b", "mov m8, r8"),
        ("mov r10w, word ptr gs:[rip + 0x10]", "mov r16, m16"),
        ("movzx r12d, byte ptr [r13 + rax*2]", "movzx r32, m8"),
        ("mov r15, qword ptr [rsp]", "mov r64, m64"),
        ("lock or dword ptr [rdi], 4", "lock or m32, imm"),
        ("lock cmpxchg qword ptr [rdi], rsi", "lock cmpxchg m64, r64"),
        ("rep stosd dword ptr es:[rdi], eax", "rep stosd m32, r32"),
        ("movups xmmword ptr [rdi], xmm1", "movups m128, xmm"),
        ("vmovdqu ymm3, ymmword ptr [rsi]", "vmovdqu ymm, m256"),
        ("movq mm2, qword ptr [rsi]", "movq mm, m64"),
        ("fld tbyte ptr [rax]", "fld m80"),
        ("mov ds, word ptr [rax]", "mov sreg, m16"),
        ("mov al, ah", "mov r8, r8"),
        ("mov sil, byte ptr [rdi]", "mov r8, m8"),
        ("bt dword ptr [rbx], -1", "bt m32, imm"),
        ("sysret", "sysret"),
        ("rep movsb byte ptr es:[rdi], byte ptr [rsi]", "rep movsb m8, m8"),
        ("", ""),
    ],
)
def test_an_instruction_has_a_form(text: str, form: str) -> None:
    assert instruction_form(text) == form


def test_an_operand_without_a_size_takes_that_of_the_access() -> None:
    access: MemoryAccess = sample.device("nvme", 0, 8, "read", 0)
    assert instruction_form("fxsave [rax]", [access]) == "fxsave m64"
    assert instruction_form("fxsave [rax]") == "fxsave m"


def test_memory_does_not_grow_with_the_trace() -> None:
    summary = Summary()
    records = [sample.intercept(n, sample.device("nvme", n, 4, "read", n)) for n in range(500)]
    gc.collect()
    tracemalloc.start()
    try:
        sizes = []
        for _ in range(20):
            for record in records:
                summary.add(record)
            sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert summary.accesses == 20 * len(records)
    assert sizes[-1] - sizes[9] < 4 * len(records)  # by then the free lists of Python are full


def test_what_a_compiled_site_did_is_counted_apart() -> None:
    summary = Summary()
    access = sample.device("nvme", 0x1C, 4, "read", 1)
    summary.add(sample.intercept(0, access))
    for seq in (1, 2):
        summary.add(sample.intercept(seq, access, via="compiled"))
    summary.add(sample.intercept(3, access, via="stepped"))
    assert (summary.emulated, summary.compiled, summary.stepped) == (1, 2, 1)
    assert summary.regions["nvme"].compiled == summary.compiled_intercepts == 2
    assert summary_object(summary)["compiled"] == 2


def test_the_phase_of_a_compiled_site_is_not_guessed() -> None:
    access = sample.device("nvme", 0x1C, 4, "read", 1)
    by_stop, by_itself = (sample.intercept(0, access, via=via) for via in ("emulated", "compiled"))
    tracker = PhaseTracker()
    assert tracker.add(by_itself) == EARLY  # no mark has told of any
    assert tracker.add(Mark(time_ns=1, text="phase: initcall nvme_init")) == "initcall nvme_init"
    assert tracker.add(by_stop) == "initcall nvme_init"
    assert tracker.add(by_itself) is None and tracker.phase is None
    assert tracker.add(by_stop) == tracker.phase == "initcall nvme_init"
    # Whose errand is known has had its phase marked.
    told = msgspec.structs.replace(by_itself, thread=0x8801)
    assert tracker.add(told) == tracker.phase == "initcall nvme_init"
    assert tracker.add(by_itself) is None
    # Whose call chain is known has, too; and user space is for good.
    chained = msgspec.structs.replace(by_itself, stack=3)
    assert tracker.add(chained) == "initcall nvme_init"
    assert tracker.add(Mark(time_ns=1, text="phase: user space")) == USER
    assert tracker.add(by_itself) == USER


def test_what_a_confidential_guest_did_is_counted_beside() -> None:
    summary = Summary()
    access = sample.device("nvme", 0x1C, 4, "read", 1)
    for seq, agrees in enumerate((True, False)):
        made = sample.intercept(seq, access, via="guest")
        summary.add(msgspec.structs.replace(made, agrees=agrees))
    told = {"time_ns": 0, "vcpu": 0, "rip": 0x1000}
    call = TdcallRecord(**told, leaf=1, name="TDG.VP.INFO", given={}, returned={})
    summary.add(call)
    summary.add(VmgexitRecord(**told, code=5, name="AP jump table", given={}, returned={}))
    summary.add(SharedRecord(**told, what="touch", physical=0, size=0x1000, shared=True))
    assert (summary.guest, summary.emulated, summary.disagreements) == (2, 0, 1)
    found = summary_object(summary)
    assert found["calls"] == {"TDG.VP.INFO": 1, "AP jump table": 1} and found["shared"] == {
        "touch": 1
    }
    assert found["regions"][0]["guest"] == found["guest"] == 2
