"""tracer.guest.report: what the default guest went without, from its console."""

from __future__ import annotations

from pathlib import Path

import pytest

from tracer.guest.report import GuestReport, why_failed, why_missing, why_unloaded

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


def test_a_script_that_has_ended() -> None:
    report = GuestReport()
    assert report.status is None
    report.take(b"vetrace-guest: script status 3\r\n")
    assert report.status == 3
    report.take(b"vetrace-guest: script status\nvetrace-guest: script status x\n")
    assert report.status == 3
    told = why_failed(Path("test.sh"), 3)
    assert told.startswith("the script test.sh ended with status 3 in the guest: its console")
    assert "--add" in why_failed(Path("test.sh"), 127)
    assert "cannot be run" in why_failed(Path("test.sh"), 126)


def test_modules_that_the_kernel_refused() -> None:
    report = GuestReport()
    report.take(b"vetrace-guest: module snd_hda failed\r\nvetrace-guest: module edu\r\n")
    report.take(b"vetrace-guest: module mine failed\r\nvetrace-guest: module aesni failed\r\n")
    assert report.unloaded == ["snd_hda", "mine", "aesni"]
    assert report.unloaded_of(["snd-hda", "edu", "here/mine.ko"]) == ["snd_hda", "mine"]
    assert report.unloaded_of([]) == []
    assert why_unloaded(["mine"]).startswith("the guest's kernel did not load mine: its console")
