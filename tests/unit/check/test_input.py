"""Records of the monitor's, held to their instructions."""

from __future__ import annotations

from typing import Any

import pytest
from block_sample import block
from input_row import row
from msgspec.structs import replace

from tracer.check.input import contrasts_of_accesses, contrasts_of_input, is_known
from tracer.check.replay import Replay
from tracer.compiled.inputs import Input
from tracer.compiled.message import Message
from tracer.trace import codec, inputs
from tracer.trace.block import Blocks
from tracer.trace.compiled import SiteRecord
from tracer.trace.inputs import INPUT_SPACES, message_access
from tracer.trace.member import Space
from tracer.trace.record import Intercept, MemoryAccess
from tracer.x86.bus import Direction
from tracer.x86.decode import decode
from tracer.x86.state import Mode


def record(
    code: str, space: Space, physical: int, value: int | None, width: int = 1,
    direction: Direction = "read", mode: Any = 64, **before: int,
) -> Intercept:  # fmt: skip
    access = MemoryAccess(
        direction=direction, width=width, linear=0, physical=physical, value=value, region=space,
        offset=0, space=space,
    )  # fmt: skip
    return Intercept(
        seq=0, time_ns=0, vcpu=0, cpl=0, mode=mode, rip=0x1000, code=bytes.fromhex(code), text="",
        cr2=0, error_code=0, via="monitor", accesses=[access],
        before={"rax": 0, "rcx": 0, "rdx": 0, **before}, after={},
    )  # fmt: skip


RIGHT = [
    record("e460", "port", 0x60, 0x1C),
    record("ec", "port", 0x3F8, 0x1C, rdx=0xABCD03F8),
    record("ed", "port", 0xCFC, 0x29C08086, 4, rdx=0xCFC),
    record("66ed", "port", 0xCFE, 0x29C0, 2, rdx=0xCFE),
    record("ed", "port", 0xCFE, 0x29C0, 2, mode=16, rdx=0xCFE),
    record("66ed", "port", 0xCFC, 0x29C08086, 4, mode=16, rdx=0xCFC),
    record("6648ed", "port", 0xCFE, 0x29C0, 2, rdx=0xCFE),
    record("e680", "port", 0x80, 0x34, 1, "write", rax=0x1234),
    record("ef", "port", 0xCF8, 0x80000000, 4, "write", rax=0x1_8000_0000, rdx=0xCF8),
    record("f3666f", "port", 0x1F0, 0x5A5A, 2, "write", rdx=0x1F0),
    record("f36c", "port", 0x511, ord("Q"), 1, rdx=0x511),
    record("0f32", "msr", 0xC0000080, 0xD01, 8, rcx=0xC0000080),
    record("0f30", "msr", 0x10, 0x2_00000001, 8, "write", rcx=0x10, rax=1, rdx=2),
    record("0fa2", "cpuid", 7 | 1 << 32, 5, 4, rax=7, rcx=1),
    record("0f31", "tsc", 0, 99, 8),
    record("", "irq", 0x30, 0x30),
]


@pytest.mark.parametrize("told", RIGHT, ids=lambda told: told.code.hex())
def test_what_an_instruction_does(told: Intercept) -> None:
    assert is_known(told) and contrasts_of_input(told) == []


def changed(told: Intercept, **members: Any) -> Intercept:
    return replace(told, accesses=[replace(told.accesses[0], **members)])


@pytest.mark.parametrize(
    ("told", "members", "names"),
    [
        (RIGHT[0], {"physical": 0x61}, ["port"]),
        (RIGHT[1], {"physical": 0x3F9}, ["port"]),
        (RIGHT[1], {"width": 2}, ["width"]),
        (RIGHT[1], {"direction": "write"}, ["direction"]),
        (RIGHT[1], {"value": 0x11C}, ["value"]),
        (RIGHT[3], {"width": 4}, ["width"]),
        (RIGHT[4], {"width": 4}, ["width"]),
        (RIGHT[7], {"value": 0x35}, ["value"]),
        (RIGHT[8], {"value": None}, ["value"]),
        (RIGHT[11], {"physical": 0xC0000081}, ["index"]),
        (RIGHT[12], {"value": 1}, ["value"]),
        (RIGHT[13], {"physical": 7}, ["leaf"]),
        (RIGHT[15], {"value": 0x31}, ["vector"]),
    ],
)
def test_what_it_does_not(told: Intercept, members: dict[str, Any], names: list[str]) -> None:
    assert [contrast.name for contrast in contrasts_of_input(changed(told, **members))] == names


def test_code_that_uses_no_port() -> None:
    (wrong,) = contrasts_of_input(replace(RIGHT[0], code=b"\x90"))
    assert (wrong.name, wrong.actual) == ("code", "90")


def test_a_record_without_code_or_registers_says_nothing() -> None:
    assert not is_known(replace(RIGHT[0], code=b""))
    assert not is_known(replace(RIGHT[0], before={}))


# --- whole records, as they are written where a trace was made of another -------------------------

RIP = 0x1000


def whole(
    code: str, kind: Input, address: int, *values: int, write: bool = False, width: int = 0,
    raised: bool = False, **registers: int,
) -> Intercept:  # fmt: skip
    insn = decode(bytes.fromhex(code), RIP, Mode.LONG)
    wide = width or {Input.PORT: 1, Input.CPUID: 4}.get(kind, 8)
    told = SiteRecord(
        time_ns=0, number=kind, rip=RIP, code=insn.code, text=insn.text,
        asked="write" if write else "read", width=wide, space=INPUT_SPACES[kind],
    )  # fmt: skip
    data = row(
        kind, address, *values, write=write, width=wide, raised=raised, following=insn.next_rip,
        **registers,
    )  # fmt: skip
    blocks = Blocks()
    assert not list(blocks.records(told))
    count = 4 if kind is Input.CPUID else 1 + (0xCFC <= address < 0xD00 and kind is Input.PORT)
    (made,) = blocks.records(block(data, accesses=count))
    read = codec.decode(codec.encode(made).rstrip(), 1)
    assert isinstance(read, Intercept)
    return read


def differing(told: Intercept) -> list[str]:
    divergence = Replay().add(told)
    return [] if divergence is None else [each.name for each in divergence.contrasts]


IN = whole("ed", Input.PORT, 0xCFE, 0x29C0, width=4, rax=1 << 40, rdx=0xCFE)
IN8 = whole("ec", Input.PORT, 0x3FD, 0x60, rax=0x1234, rdx=0x3FD)
OUT = whole("e680", Input.PORT, 0x80, 7, write=True, rax=7)
INS = whole("f3666d", Input.PORT, 0x1F0, 0x5A5A, width=2, rdx=0x1F0, rcx=3, rdi=0x9000)
CPUID = whole("0fa2", Input.CPUID, 7 | 1 << 32, 1, 2, 3, 4, rax=7, rcx=1)
RDMSR = whole("0f32", Input.MSR, 0xC0000080, 0x5_00000D01, rcx=0xC0000080)
WRMSR = whole("0f30", Input.MSR, 0x10, 0x2_00000001, write=True, rcx=0x10, rax=1, rdx=2)
RDTSC = whole("0f31", Input.TSC, 0, 0x7_00000009)
RAISED = whole("0f32", Input.MSR, 0xC0000081, 0, raised=True, rcx=0xC0000081)
REFUSED = whole("ec", Input.PORT, 0x60, 0, raised=True, rdx=0x60)
IRQ = replace(whole("90", Input.IRQ, 0x30, 0x30, width=1), code=b"", text="interrupt")
WHOLE = [IN, IN8, OUT, INS, CPUID, RDMSR, WRMSR, RDTSC, RAISED, REFUSED, IRQ]


@pytest.mark.parametrize("told", WHOLE, ids=lambda told: told.text)
def test_a_whole_record_is_what_its_instruction_does(told: Intercept) -> None:
    replay = Replay(next_seq=0)
    assert replay.add(told) is None and replay.counts.replayed == 1
    assert replay.next_seq == len(told.accesses)
    assert replay.ways == {"monitor": len(told.accesses)}


@pytest.mark.parametrize("told", [RAISED, REFUSED], ids=lambda told: told.text)
def test_what_a_person_had_a_handler_refused_was_raised_as_well(told: Intercept) -> None:
    refused = replace(told, note=f"{inputs.LEFT_OUT}; {inputs.RAISED}")
    assert differing(refused) == []
    assert differing(replace(refused, note=inputs.LEFT_OUT)) == ["access 0"]


@pytest.mark.parametrize("told", WHOLE, ids=lambda told: told.text)
@pytest.mark.parametrize("name", ["rip", "rflags", "rax", "rbx", "rcx", "rdx", "rsi", "rdi"])
def test_any_register_behind_it_is_held_to_it(told: Intercept, name: str) -> None:
    assert differing(replace(told, after={**told.after, name: 0xBAD})) == [name]
    if name in told.after:
        rest = {each: value for each, value in told.after.items() if each != name}
        assert differing(replace(told, after=rest)) == [name]


@pytest.mark.parametrize("told", WHOLE, ids=lambda told: told.text)
def test_any_member_of_any_access_is_held_to_it(told: Intercept) -> None:
    for number, access in enumerate(told.accesses):
        other = "write" if access.direction == "read" else "read"
        changes: list[dict[str, Any]] = [
            {"direction": other}, {"width": 2 * access.width}, {"offset": (access.offset or 0) + 1},
            {"physical": access.physical ^ 0x100}, {"space": "memory"}, {"region": "nvme"},
            {"linear": 1}, {"skipped": not access.skipped}, {"value": 1 << 40 | 2},
            {"value": None} if access.value is not None else {"value": 0}, {"device": 5},
        ]  # fmt: skip
        for change in changes:
            if access.space in ("port", "config") and "region" in change:
                continue  # what is announced tells
            if access.space == "config" and "skipped" in change:
                continue  # what was written to the address's port tells
            accesses = list(told.accesses)
            accesses[number] = replace(access, **change)
            assert differing(replace(told, accesses=accesses)), (number, change)


@pytest.mark.parametrize("told", WHOLE, ids=lambda told: told.text)
def test_an_access_too_many_and_one_too_few(told: Intercept) -> None:
    assert differing(replace(told, accesses=[*told.accesses, told.accesses[0]])) == ["accesses"]
    assert differing(replace(told, accesses=told.accesses[1:])) in (["accesses"], ["access 0"])


@pytest.mark.parametrize(
    ("members", "names"),
    [
        ({"text": "in ax, dx"}, ["text"]),
        ({"code": b"\xed\x90"}, ["length"]),
        ({"code": b"\x90", "text": "nop"}, ["code"]),
        ({"code": b"\x66"}, ["outcome"]),
        ({"code": b"\xe4"}, ["outcome"]),
        ({"before": {"rax": 0, "rcx": 0, "rdx": 0xCFE}}, ["before"]),
    ],
)
def test_code_and_registers_are_held_to_each_other(
    members: dict[str, Any], names: list[str]
) -> None:
    assert differing(replace(IN, **members)) == names


def test_a_register_is_not_read_by_what_writes_it() -> None:
    wrmsr = replace(RDMSR, code=bytes.fromhex("0f30"), text="wrmsr")
    assert "direction" in differing(wrmsr)


def test_what_is_not_known_by_its_code_is_held_to_its_places() -> None:
    unread = replace(IN, code=b"", text="in")
    replay = Replay()
    assert replay.add(unread) is None and replay.counts.incomplete == 1
    accesses = [unread.accesses[0], replace(unread.accesses[1], value=1)]
    assert differing(replace(unread, accesses=accesses)) == ["access 1"]
    assert differing(replace(unread, accesses=[])) == ["accesses"]


def came(address: int, data: int | None, vector: int = 0x30, **members: Any) -> Intercept:
    message = replace(message_access(Message(address or None, data)), **members)
    told = record("", "irq", vector, vector)
    irq = replace(told.accesses[0], offset=vector)
    return replace(told, accesses=[message, irq], text="interrupt")


def test_an_interrupt_has_its_message_before_it() -> None:
    for told in (came(0xFEE0_1004, 0x4030), came(0, 0x30), came(0xFEE0_1004, None)):
        assert is_known(told)
        assert contrasts_of_input(told) == contrasts_of_accesses(told) == []


@pytest.mark.parametrize(
    "told",
    [
        came(0xFEE0_1004, 0x4031), came(0xFED0_1004, 0x30), came(0xFEE0_1004, 0x30, width=2),
        came(0xFEE0_1004, 0x30, direction="write"), came(0xFEE0_1004, 0x30, region="nvme"),
        came(0xFEE0_1004, 0x30, offset=4),
    ],
)  # fmt: skip
def test_a_message_that_none_can_be(told: Intercept) -> None:
    assert [each.name for each in contrasts_of_accesses(told)] == ["message"]


def test_a_message_is_no_interrupt_by_itself() -> None:
    told = came(0xFEE0_1004, 0x30)
    (wrong,) = contrasts_of_accesses(replace(told, accesses=told.accesses[:1]))
    assert wrong.name == "accesses"
