"""Records of the monitor's, held to their instructions."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from tracer.check.input import contrasts_of_input, is_known
from tracer.trace.member import Space
from tracer.trace.record import Intercept, MemoryAccess
from tracer.x86.bus import Direction


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
