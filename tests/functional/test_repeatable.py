"""Two boots of one guest: how far they are one and the same, in values and in time."""

from __future__ import annotations

from pathlib import Path

import pytest
from vetrace_run import boot, read_trace

pytestmark = pytest.mark.qemu


def until_a_disk_is_asked(path: Path) -> list[tuple[object, ...]]:
    """Return all that is told of each access, up to the first doorbell of a disk.

    QEMU answers it in another thread than the vCPU's, when the host gets to it.
    """
    told: list[tuple[object, ...]] = []
    for record in read_trace(path).intercepts:
        where = record.rip, record.time_ns, record.via, record.before, record.after
        for access in record.accesses:
            told.append((*where, access))
            doorbell = access.region == "nvme" and (access.offset or 0) >= 0x1000
            if doorbell or access.region == "virtio-blk.notify":
                return told
    raise AssertionError("no disk was asked for anything")


def test_two_boots_are_the_same_until_a_disk_is_asked(tmp_path: Path) -> None:
    # The ring has room for the loop that calibrates the HPET: one that is full takes stops.
    paths = [tmp_path / "one.vtrace.zst", tmp_path / "other.vtrace.zst"]
    for path in paths:
        done = boot(tmp_path, "--quiet", "--ring", "65536", "-o", path)
        assert done.status == 0, done.err
    one, other = map(until_a_disk_is_asked, paths)
    assert one == other and len(one) > 1000
    assert any(access.region == "hpet" and access.value for *_, access in one)  # type: ignore[attr-defined]
