"""tracer.guest.report: what the default guest went without, from its console."""

from __future__ import annotations

import pytest

from tracer.guest.report import GuestReport, why_missing

CONSOLE = b"""\
[    1.2] virtio: none\r
vetrace-guest: kernel 6.1.0-test\r
vetrace-guest: disk nvme 0123abcd\r
vetrace-guest: disk virtio-blk none\r
[    2.0] vetrace-guest: network none\r
vetrace-guest: done\r
"""


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_devices_that_are_missing(size: int) -> None:
    report = GuestReport()
    for at in range(0, len(CONSOLE), size):
        report.take(CONSOLE[at : at + size])
    assert report.missing == ["disk virtio-blk", "network"]
    told = why_missing(report.missing, "6.1.0-test", modules=False)
    assert told.startswith("the default guest found no disk virtio-blk, no network under Linux")
    assert "no modules beside its image" in told


def test_a_line_without_end_is_not_kept() -> None:
    report = GuestReport()
    for _ in range(100):
        report.take(b"x" * 10000)
    report.take(b"\nvetrace-guest: network none\n")
    assert report.missing == ["network"]
