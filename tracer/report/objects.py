"""Device accesses as JSON-ready objects."""

from __future__ import annotations

from typing import Any

from tracer.confidential.hypercall import (
    GhcbExit,
    TdVmcall,
    ghcb_asked,
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
    one of TDX the first is what it asked, in one of SEV-ES the second, and ``agrees`` tells whether
    its instruction says the same.
    ``device`` is what the device gave or got where a person changed that, None elsewhere;
    ``skipped`` tells that it was left out.
    ``space`` is there where the access is to something else than memory, and ``address`` is the
    number of it there: a port, the index of an MSR, a leaf of CPUID with its subleaf. ``cause`` is
    there for an interrupt: what sent it; ``source`` and ``data`` are for a message (MSI), with
    ``address`` None where nobody knows where it went.
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
        "address": _address(access),
        "width": access.width,
        "extent": access.extent,
        "direction": access.direction,
        "value": _text(access.value),
        "fields": _field_numbers(access, named),
        "breach": named.breach(access.direction) if named is not None else None,
        "via": record.via,
        **_calls(record, calls),
        "agrees": record.agrees,
        "device": _text(access.device),
        "skipped": access.skipped,
        **({} if access.space == "memory" else {"space": access.space}),
        **_sent(record, access),
    }


def _sent(record: Intercept, access: MemoryAccess) -> dict[str, str | None]:
    if access.space == "msi":
        return {"data": _text(access.value), "source": record.cause}
    return {} if record.cause is None else {"cause": record.cause}


def _address(access: MemoryAccess) -> str | None:
    known = access.space != "msi" or access.physical
    return hex(access.physical) if known else None


# A guest that has asked is told with its own registers, or fields; of others, what they would ask.
def _calls(
    record: Intercept, calls: tuple[TdVmcall, GhcbExit] | None
) -> dict[str, dict[str, Any] | None]:
    tdx, sev = (None, None) if calls is None else calls
    asked = record.asked
    if asked is not None:
        exit = ghcb_asked(asked.given, asked.returned)
        if exit is None:
            tdx = TdVmcall(dict(asked.given), dict(asked.returned))
        else:
            sev = exit
    return {
        "tdvmcall": None if tdx is None else tdvmcall_object(tdx),
        "ghcb": None if sev is None else ghcb_object(sev),
    }


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
