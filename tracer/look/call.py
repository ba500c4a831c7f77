"""A call of a confidential guest that waits, as text and as an object: both sides, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tracer.access.decision import Called
from tracer.access.region import place_of
from tracer.access.transfer import Transfer
from tracer.confidential.request import Mmio, describe
from tracer.confidential.tdx_status import host_status_text, status_text
from tracer.look.sheet import Cell, flow, labelled, words


def decoded_words(transfer: Transfer) -> str:
    """Return in words what a hypercall has to ask for an access, as vetrace decodes it."""
    return describe(_request(transfer))


def agrees(transfer: Transfer, request: Mmio) -> bool:
    """Tell whether a guest asks for just an access that vetrace decodes."""
    return _request(transfer) == request


def _request(transfer: Transfer) -> Mmio:
    value = transfer.value if transfer.direction == "write" else None
    return Mmio(transfer.direction, transfer.width, transfer.physical, value)


def call_lines(called: Called, columns: int = 80, colour: bool = False) -> list[str]:
    """Return the call: who asks what, what vetrace has decoded, and the usual answer."""
    head = [
        Cell(f"{called.time_ns / 1e9:.6f}", "time"),
        Cell(f"vcpu{called.vcpu}"),
        Cell(called.symbol or "no symbol", "symbol"),
        Cell(f"at {called.cpu.rip:#x}", "time"),
        Cell(called.name, "value"),
    ]
    lines = flow(head, columns, colour, "  ", "")
    if called.access is not None:
        lines += labelled("decoded", words(_decoded(called.access)), columns, colour)
    if called.request is not None:
        lines += labelled("asked", words(_asked(called)), columns, colour)
    given = [Cell(f"{name}={value:#x}") for name, value in called.given.items()]
    lines += labelled("registers", given, columns, colour)
    lines += labelled("answer", _answer(called), columns, colour)
    return lines


def _decoded(transfer: Transfer) -> str:
    place = place_of(transfer.physical, transfer.region, ram=transfer.ram)
    return f"vetrace: {decoded_words(transfer)}" + (f" ({place})" if place else "")


def _asked(called: Called) -> str:
    request = called.request
    assert request is not None
    text = f"the guest: {describe(request)}"
    if called.access is None or not isinstance(request, Mmio):
        return text
    return text + (", as decoded" if agrees(called.access, request) else ", not as decoded")


def _answer(called: Called) -> Iterator[Cell]:
    if called.usual is None:
        yield from words("what the machine makes of it")
        return
    yield from words(_status(called))
    for name, value in called.usual.items():
        yield Cell(f"{name}={value:#x}")


def _status(called: Called) -> str:
    # The module's status, and that of the host where it was asked.
    assert called.usual is not None
    if called.request is not None:
        return host_status_text(called.usual.get("r10", 0))
    return status_text(called.usual.get("rax", 0))


def call_object(called: Called) -> dict[str, Any]:
    """Return the call as a JSON-ready object."""
    request, access = called.request, called.access
    return {
        "vcpu": called.vcpu,
        "time_ns": called.time_ns,
        "rip": hex(called.cpu.rip),
        "symbol": called.symbol,
        "leaf": called.leaf,
        "name": called.name,
        "hypercall": called.hypercall,
        "asked": None if request is None else describe(request),
        "decoded": None if access is None else decoded_words(access),
        "agrees": agrees(access, request)
        if access is not None and isinstance(request, Mmio)
        else None,
        "in": _texts(called.given),
        "usual": None if called.usual is None else _texts(called.usual),
    }


def _texts(values: Mapping[str, int]) -> dict[str, str]:
    return {name: hex(value) for name, value in values.items()}
