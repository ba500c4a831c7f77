"""Orders of breaks, where they stop."""

from __future__ import annotations

from tracer.repl.order import due, is_silent, order_lines, steps


def test_orders_are_of_the_breaks_that_stopped_the_guest() -> None:
    orders = {1: ("plan",), 3: ("silent", "c")}
    assert due("break 1: nvme; break 3: if 1", (1, 3), orders) == (("plan",), ("silent", "c"))
    assert due("break 2: nvme", (2,), orders) == ()
    assert due("step", (1,), orders) == ()  # those of an earlier stop


def test_silent_is_no_command() -> None:
    assert is_silent([("plan",), ("silent", "c")]) and not is_silent([("plan", "silent"), ()])
    assert list(steps(("silent", "c"))) == ["c"] and list(steps(("c", "silent"))) == ["c", "silent"]
    assert list(order_lines(("c",))) == ["commands", "c", "end"] and not order_lines(())
