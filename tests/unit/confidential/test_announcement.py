"""Lines of real consoles tell whether a guest is of the kind that was asked for."""

from __future__ import annotations

import pytest

from tracer.confidential.announcement import Announcement
from tracer.confidential.kind import Kind

BEFORE = b"[    0.000000] tdx: Guest detected\r\n[    0.05] Console: colour dummy device 80x25\r\n"
TDX = b"[    0.064240] Memory Encryption Features active: Intel TDX\r\n"
SEV_ES = b"[    0.064240] Memory Encryption Features active: AMD SEV SEV-ES\r\n"
SEV = b"[    0.064240] Memory Encryption Features active: AMD SEV\r\n"
OLD_SEV_ES = b"[    0.064240] AMD Memory Encryption Features active: SEV SEV-ES\r\n"
BEHIND = b"[    0.070000] pid_max: default: 32768 minimum: 301\r\n"
QUIET = b"vetrace-guest: kernel 6.12.0\r\nvetrace-guest: done\r\n"


def listened(kind: Kind, console: bytes, size: int = 7) -> Announcement:
    announcement = Announcement(kind)
    for at in range(0, len(console), size):
        assert announcement.take(console[at : at + size]) == []
    return announcement


@pytest.mark.parametrize("size", [1, 7, 10000])
@pytest.mark.parametrize(
    ("kind", "line"), [(Kind.TDX, TDX), (Kind.SEV_ES, SEV_ES), (Kind.SEV_ES, OLD_SEV_ES)]
)
def test_a_guest_that_is_what_was_asked_for(kind: Kind, line: bytes, size: int) -> None:
    announcement = listened(kind, BEFORE + line + BEHIND + QUIET, size)
    assert announcement.heard
    assert not announcement.fault


@pytest.mark.parametrize(
    ("kind", "line", "active"),
    [(Kind.TDX, SEV_ES, "AMD SEV SEV-ES"), (Kind.SEV_ES, TDX, "Intel TDX"),
     (Kind.SEV_ES, SEV, "AMD SEV")],
)  # fmt: skip
def test_a_guest_of_another_kind(kind: Kind, line: bytes, active: str) -> None:
    announcement = listened(kind, BEFORE + line)
    assert announcement.fault.endswith(f"no {kind.label} guest: active is {active}")
    assert not announcement.heard


@pytest.mark.parametrize("kind", [Kind.TDX, Kind.SEV_ES])
def test_a_guest_that_found_nothing_is_told_before_user_space(kind: Kind) -> None:
    announcement = listened(kind, BEFORE + BEHIND)
    assert "boots as an ordinary guest" in announcement.fault
    assert kind.label in announcement.fault


@pytest.mark.parametrize("console", [b"", BEFORE, QUIET, BEHIND.rstrip()])
def test_what_says_nothing_either_way(console: bytes) -> None:
    announcement = listened(Kind.TDX, console)
    assert not announcement.heard
    assert not announcement.fault


def test_a_plain_guest_is_not_asked() -> None:
    announcement = listened(Kind.PLAIN, BEFORE + BEHIND + TDX)
    assert not announcement.heard
    assert not announcement.fault


def test_a_device_that_is_not_driven_is_told() -> None:
    announcement = Announcement(Kind.TDX)
    line = b"[1.2] virtio_rng virtio3: device must provide VIRTIO_F_ACCESS_PLATFORM\r\n"
    (told,) = announcement.take(TDX + line)
    assert told.startswith("virtio_rng virtio3 is not driven")
    assert "iommu_platform=on" in told
    assert not announcement.fault


def test_a_line_without_end_is_not_kept() -> None:
    announcement = Announcement(Kind.TDX)
    for _ in range(100):
        announcement.take(b"x" * 10000)
    announcement.take(b"\n" + TDX)
    assert announcement.heard
