"""The power-management timer: its ticks as a time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tracer.qemu.pm_timer import FREQUENCY, PERIOD, earliest

SECOND = 10**9
TICK = SECOND // FREQUENCY + 1  # nanoseconds
TURN = PERIOD * SECOND // FREQUENCY


def shown(time_ns: int) -> int:
    """Return what QEMU's timer shows at a time: muldiv64 and 24 bits."""
    return time_ns * FREQUENCY // SECOND % PERIOD


@given(st.integers(0, 10**15), st.integers(0, TURN - 2 * TICK))
def test_the_time_is_found_within_a_turn(since_ns: int, passed: int) -> None:
    now = since_ns + passed
    found = earliest(shown(now), since_ns)
    assert since_ns <= found and now - TICK <= found <= now


def test_time_that_has_not_passed_stays() -> None:
    assert earliest(shown(5 * SECOND), 5 * SECOND) == 5 * SECOND


def test_a_whole_turn_cannot_be_told() -> None:
    assert earliest(shown(3 * SECOND + TURN + 1), 3 * SECOND) - 3 * SECOND < 2 * TICK
