"""Text that is broken into lines: where, and where not."""

from __future__ import annotations

from tracer.text.printable import unparted, wrapped


def test_a_number_stays_with_what_it_counts() -> None:
    assert unparted("at 1.125060 s by 0 none, 1 vendor") == [
        "at", "1.125060 s", "by", "0 none,", "1 vendor",
    ]  # fmt: skip
    assert unparted("nvme.CC 0x1 EN #88") == ["nvme.CC", "0x1", "EN", "#88"]
    assert wrapped("it was read at 1.125060 s", 23) == ["it was read at", "  1.125060 s"]
