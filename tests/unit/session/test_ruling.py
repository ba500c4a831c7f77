"""Rulings: what an access that waits can be given, and when it is too late for another one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.support.stop_sample import stepped, stop
from tracer.access.decision import Delay, Give, Pending, Postpone, Refuse, Ruling
from tracer.errors import UsageError
from tracer.session.course import halt_at
from tracer.session.ruling import (
    check_given,
    check_no_interrupt,
    check_rewrite,
    check_untouched,
    command_of,
)

READ = "8b4620"  # mov eax, [rsi+0x20]


def of_space(space: str) -> Pending:
    access = stop(READ)
    return replace(access, transfer=replace(access.transfer, space=space))


def refused(check: Callable[[], None]) -> str:
    with pytest.raises(UsageError) as error:
        check()
    return str(error.value)


def test_a_value_fits_the_width_of_its_access() -> None:
    check_given(stop(READ), 0xFFFFFFFF)
    why = refused(lambda: check_given(stop(READ), 1 << 32))
    assert why == "0x100000000 does not fit the 4 bytes of this access"


def test_as_many_values_are_given_as_registers_wait() -> None:
    why = refused(lambda: check_given(stop(READ), 1, 2))
    assert why == "2 values are given, and 1 wait to be read"
    cpuid = of_space("cpuid")
    of_four = replace(cpuid, foretold=(cpuid.transfer,) * 4, done=(cpuid.transfer,))
    check_given(of_four, 1, 2, 3)
    assert "4 values are given, and 3 wait" in refused(lambda: check_given(of_four, 1, 2, 3, 4))


def test_what_the_vcpu_carries_out_itself_is_not_given_another_value() -> None:
    access = stepped("0fae06", "no form", 8)
    assert "it can be skipped, not changed" in refused(lambda: check_given(access, 1))


@pytest.mark.parametrize("space", ["irq", "msi"])
def test_an_interrupt_can_only_be_late(space: str) -> None:
    check_no_interrupt(stop(READ), "skip")
    for check in (
        lambda: check_no_interrupt(of_space(space), "another value"),
        lambda: check_given(of_space(space), 1),
    ):
        assert refused(check) == "an interrupt is given no another value: it can be late"


def test_an_access_that_its_device_has_seen_is_not_taken_back() -> None:
    access = stop(READ)
    check_untouched(halt_at(access, "access", "a step"), "rewrite it")
    began = replace(access, done=(access.transfer,))
    for halt in (halt_at(access, "answered", "a break"), halt_at(began, "access", "a step")):
        why = refused(lambda halt=halt: check_untouched(halt, "rewrite it"))
        assert why == "the instruction is halfway: `step` first, then rewrite it"


def test_an_instruction_is_rewritten_in_its_own_room() -> None:
    access = stop(READ)
    halt = halt_at(access, "access", "a step")
    check_rewrite(access, halt, b"\x90" * 3)
    for code in (b"", b"\x90" * 4):
        why = refused(lambda code=code: check_rewrite(access, halt, code))
        assert why == "from 1 to 3 bytes can be rewritten here: 8b 46 20"
    assert "has left the guest" in refused(lambda: check_rewrite(of_space("port"), halt, b"\x90"))


@pytest.mark.parametrize(
    ("ruling", "command"),
    [
        (Give(1), "set value 0x1"),
        (Give(1, rest=(2, 3)), "set value 0x1 0x2 0x3"),
        (Delay(5), "delay 5ns"),
        (Postpone(physical=0x1000), "retry 0x1000"),
        (Postpone(), "retry"),
        (Refuse(), "refuse"),
    ],
)
def test_each_ruling_has_the_command_that_makes_it(ruling: Ruling, command: str) -> None:
    assert command_of(ruling) == command
