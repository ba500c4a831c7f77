"""QEMU's virtqueues, as its monitor tells them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from tracer.devices.queue import Virtqueue
from tracer.errors import QemuError
from tracer.qemu.virtqueues import virtqueues

BLK, NET = "/machine/peripheral/disk/virtio-backend", "/machine/unattached/device[3]"


class Monitor:
    def __init__(self, told: Mapping[tuple[str, str, object], object]) -> None:
        self._told = told

    async def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> object:
        given = arguments or {}
        key = command, str(given.get("path", "")), given.get("queue")
        if key not in self._told:
            raise QemuError(f"no {command}")
        return self._told[key]


def test_queues_that_are_set_up() -> None:
    status = {"num-vqs": 3, "guest-features": {"transports": ["VIRTIO_F_RING_PACKED: packed"]}}
    queue = {"vring-num": 8, "vring-desc": 0x1000, "vring-avail": 0x2000, "vring-used": 0x3000,
             "last-avail-idx": 5, "used-idx": 4}  # fmt: skip
    monitor = Monitor({
        ("x-query-virtio", "", None): [{"path": BLK}, {"path": NET}],
        ("x-query-virtio-status", BLK, None): status,
        ("x-query-virtio-queue-status", BLK, 0): queue,
        ("x-query-virtio-queue-status", BLK, 1): {**queue, "vring-desc": 0},
    })  # fmt: skip
    names = {"/machine/peripheral/disk": "disk"}
    found = asyncio.run(virtqueues(monitor, names.get))
    assert found == [Virtqueue("disk", 0, 8, 0x1000, 0x2000, 0x3000, True, 5, 4)]
    assert asyncio.run(virtqueues(Monitor({}), names.get)) == []
