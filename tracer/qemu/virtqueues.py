"""The virtqueues of QEMU's devices as they are at this moment.

Ref: QEMU qapi/virtio.json: x-query-virtio, x-query-virtio-status, x-query-virtio-queue-status.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from tracer.devices.queue import Virtqueue
from tracer.errors import QemuError

_MOST = 64
_BACKEND = "/virtio-backend"
_PACKED = "VIRTIO_F_RING_PACKED"


class Monitor(Protocol):
    """Stand for the monitor of a running QEMU."""

    async def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> object:
        """Carry out a QMP command."""


async def virtqueues(qemu: Monitor, name_of: Callable[[str], str | None]) -> list[Virtqueue]:
    """Return the virtqueues that a driver has set up, 64 of a device at most.

    ``name_of`` returns the name of the device at a QOM path. A QEMU that does not tell has none.
    """
    try:
        devices = await qemu.execute("x-query-virtio")
    except QemuError:
        return []
    found = []
    for each in devices if isinstance(devices, list) else []:
        path = str(each.get("path", ""))
        device = name_of(path.removesuffix(_BACKEND))
        if device is not None:
            found += await _of(qemu, path, device)
    return found


async def _of(qemu: Monitor, path: str, device: str) -> list[Virtqueue]:
    told = await _ask(qemu, "x-query-virtio-status", path=path)
    features = told.get("guest-features", {})
    packed = any(_PACKED in str(each) for each in features.get("transports", ()))
    found = []
    for number in range(min(int(told.get("num-vqs", 0)), _MOST)):
        queue = await _ask(qemu, "x-query-virtio-queue-status", path=path, queue=number)
        if queue.get("vring-desc") and queue.get("vring-num"):
            found.append(Virtqueue(
                device, number, queue["vring-num"], queue["vring-desc"], queue["vring-avail"],
                queue["vring-used"], packed, queue.get("last-avail-idx"),
                queue.get("used-idx", 0),
            ))  # fmt: skip
    return found


async def _ask(qemu: Monitor, command: str, **arguments: object) -> dict[str, Any]:
    try:
        told = await qemu.execute(command, arguments)
    except QemuError:
        return {}
    return told if isinstance(told, dict) else {}
