"""The words that say for what a guest leaves to the monitor, bit by bit."""

from __future__ import annotations

from tracer.compiled.exits import intercepts_of, quiet_intercepts
from tracer.compiled.inputs import Input

ALL = frozenset(Input)


def test_what_a_guest_leaves_for() -> None:
    always = 1 << 2 | 1 << 18 | 1 << 28 | 0x7F << 32
    assert intercepts_of(()) == always
    assert intercepts_of([Input.PORT]) == always | 1 << 27
    assert intercepts_of([Input.TSC]) == always | 1 << 14 | 1 << 39
    assert intercepts_of([Input.MSR, Input.CPUID]) == always


def test_an_encrypted_guest_leaves_for_what_a_host_intercepts() -> None:
    # AMD64 Architecture Programmer's Manual vol. 2, appendix B: RDPMC, INVD, WBINVD to MWAIT; not
    # HLT, which ends in the host by itself.
    more = intercepts_of(ALL, encrypted=True) & ~intercepts_of(ALL)
    assert more == 1 << 15 | 1 << 22 | 7 << 41
    assert not intercepts_of(ALL, encrypted=True) >> 24 & 1


def test_what_was_asked_of_interrupts_stays_when_no_input_is_recorded_any_more() -> None:
    now = intercepts_of(ALL) | 1 << 20  # IRET
    assert quiet_intercepts(now) == intercepts_of([Input.IRQ]) | 1 << 20
    assert quiet_intercepts(intercepts_of([Input.PORT])) == intercepts_of(())
