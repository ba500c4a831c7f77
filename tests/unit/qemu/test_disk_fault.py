"""QEMU's monitor tells of disks that it could not read or write."""

from __future__ import annotations

from tracer.qemu.disk_fault import DiskFaults

FAILED = {
    "event": "BLOCK_IO_ERROR",
    "data": {"device": "disk-image", "node-name": "#block1", "reason": "Input/output error",
             "operation": "read", "action": "report"},
}  # fmt: skip
DAMAGED = {
    "event": "BLOCK_IMAGE_CORRUPTED",
    "data": {"device": "", "node-name": "#block1", "msg": "L2 table offset 0x7 unaligned",
             "fatal": True},
}  # fmt: skip


def test_each_kind_of_fault_is_told_once() -> None:
    faults = DiskFaults()
    assert faults.lines() == []
    for event in (FAILED, DAMAGED, FAILED, {"event": "BLOCK_IO_ERROR"}):
        assert not faults.take(event)
    assert faults.lines() == [
        "QEMU could not read disk-image for the guest: Input/output error, 2 times",
        "the disk image of #block1 is damaged (qemu-img check tells more): "
        "L2 table offset 0x7 unaligned",
    ]


def test_a_guest_that_finds_ever_other_faults_fills_no_memory() -> None:
    faults = DiskFaults()
    for number in range(1000):
        faults.take({"event": "BLOCK_IO_ERROR", "data": {"device": f"disk{number}"}})
    assert len(faults.lines()) == 20
