"""The words in which the counts of a run are told."""

from __future__ import annotations

from collections import Counter

from tracer.cli.closing import counted


def test_a_guest_that_is_not_confidential_has_one_line() -> None:
    counts = Counter(accesses=5, intercepts=4, emulated=3, stepped=2, stops=9, hooks=1)
    assert list(counted(counts, 0)) == [
        "5 accesses in 4 intercepts: 3 emulated, 2 stepped; 9 stops, 1 of them for mappings, 0 of "
        "these of RAM"
    ]
    assert ", 7 compiled at 2 sites; " in next(counted(counts | Counter(compiled=7), 2))


def test_a_guest_inside_the_monitor_tells_what_that_made() -> None:
    (told,) = counted(Counter(accesses=8, monitor=6, compiled=2), 1)
    assert ", 2 compiled at 1 sites, 6 by the monitor; " in told


def test_a_confidential_guest_has_two() -> None:
    first, second = counted(Counter(ve=8, ve_info=7, guest=6, agreed=4, disagreed=1), 0)
    assert ", 6 by the guest itself; " in first
    assert second.startswith("8 #VE, 7 fetched by the guest, ")
    assert second.endswith(" 5 compared: 4 as vetrace decodes them, 1 otherwise")
    _, second = counted(Counter(vc=3, mmio_calls=2), 0)
    assert second.startswith("3 #VC, 2 asked of its host, ")
