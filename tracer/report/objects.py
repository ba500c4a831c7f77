"""Device accesses as JSON-ready objects."""

from __future__ import annotations

from typing import Any

from tracer.confidential.hypercall import (
    GhcbExit,
    TdVmcall,
    ghcb_object,
    hypercalls,
    tdvmcall_object,
)
from tracer.devices.map import Named
from tracer.trace.event import Event
from tracer.trace.record import Intercept, MemoryAccess


def access_object(event: Event) -> dict[str, Any]:
    """Return the JSON-ready object for a device access.

    ``type`` tells them from the other objects that may come in the same output.
    ``address`` is physical and ``rip`` linear; ``width`` is in bytes; numbers that may exceed
    2^53 are hex strings. ``value`` is None where a natively stepped instruction hid it.
    ``register`` is its name, None without one, and ``fields`` has the numbers
    of its bit fields. ``breach`` is ``read-only`` for a write to a read-only register,
    ``write-only`` for a read of a write-only one, and None for all else. ``tdvmcall`` and ``ghcb``
    are what the access would become in a confidential guest, None where there is no such call; in
    a guest of TDX the first is what it asked, and ``agrees`` whether its instruction says the same.
    ``device`` is what the device gave or got where a person changed that, None elsewhere;
    ``skipped`` tells that it was left out.
    """
    record, access, named = event.record, event.access, event.named
    calls = hypercalls(access)
    return {
        "type": "access",
        "seq": event.seq,
        "time_ns": record.time_ns,
        "vcpu": record.vcpu,
        "rip": hex(record.rip),
        "symbol": record.symbol,
        "bytes": record.code.hex(),
        "text": record.text,
        "region": access.region,
        "offset": _text(access.offset),
        "register": named.text if named is not None else None,
        "address": hex(access.physical),
        "width": access.width,
        "extent": access.extent,
        "direction": access.direction,
        "value": _text(access.value),
        "fields": _field_numbers(access, named),
        "breach": named.breach(access.direction) if named is not None else None,
        "via": record.via,
        "tdvmcall": _tdvmcall(record, calls),
        "agrees": record.agrees,
        "ghcb": None if calls is None else ghcb_object(calls[1]),
        "device": _text(access.device),
        "skipped": access.skipped,
    }


# A guest that has asked is told with its own registers; of others, what they would ask.
def _tdvmcall(
    record: Intercept, calls: tuple[TdVmcall, GhcbExit] | None
) -> dict[str, dict[str, str]] | None:
    asked = record.asked
    if asked is not None:
        return tdvmcall_object(TdVmcall(dict(asked.given), dict(asked.returned)))
    return None if calls is None else tdvmcall_object(calls[0])


def _text(number: int | None) -> str | None:
    return None if number is None else hex(number)


# A field too wide for a JSON number is a hex string, whatever its value.
def _field_numbers(access: MemoryAccess, named: Named | None) -> dict[str, int | str]:
    if named is None or access.value is None:
        return {}
    return {
        name: number if bits <= 53 else hex(number)
        for name, bits, number, _ in named.fields(access.value)
    }
