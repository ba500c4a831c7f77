"""A confidential guest's request for an access is held to the instruction that it is for.

The hypercall has its registers, or the fields of a GHCB, as the guest gave them, the record the
instruction and the registers before it. Whether the two agree was said while the guest ran, and is
judged here again.
"""

from __future__ import annotations

from tracer.check.divergence import Contrast
from tracer.confidential.agreement import Made, differing
from tracer.confidential.request import Mmio
from tracer.confidential.wanted import exits, wanted
from tracer.trace.record import Intercept
from tracer.x86.bus import Load, Store
from tracer.x86.state import PAGE_SIZE


def contrasts(record: Intercept, made: Load | Store | None) -> list[Contrast]:
    """Return how a record of what a guest asked for contradicts itself, and its instruction.

    ``made`` is the only access that a handler can ask for, None where there is no such one.
    """
    call = record.asked
    request = None if call is None else wanted(call.given, call.returned)
    if call is None or request is None or record.agrees is None or len(record.accesses) != 1:
        return [Contrast("asked", "a hypercall for one access", None)]
    access = record.accesses[0]
    told = (access.direction, access.width, access.physical)
    if told != (request.direction, request.width, request.physical):
        return [Contrast("access 0", _words(request), " ".join(map(_word, told)))]
    if access.direction == "write" and access.value != request.value:
        return [Contrast("value", _text(request.value), _text(access.value))]
    agrees = made is not None and made.linear == access.linear and _is(request, made)
    if agrees != record.agrees:
        return [Contrast("agrees", str(record.agrees).lower(), str(agrees).lower())]
    name = "shared_buffer" if exits(call.given) else "r11"
    got = call.returned.get(name, 0)
    if access.direction == "read" and not refused(record) and got != access.value:
        return [Contrast(name, _text(access.value), _text(got))]
    return []


def refused(record: Intercept) -> bool:
    """Tell whether the host has told the guest that its access cannot be made."""
    if record.asked is None:
        return False
    name = "sw_exit_info_1" if exits(record.asked.given) else "r10"
    return bool(record.asked.returned.get(name))


def _is(request: Mmio, made: Load | Store) -> bool:
    # Tells whether the two are one access. A record does not tell where the instruction's page is
    # in physical memory, so that is taken from the request.
    physical = request.physical & -PAGE_SIZE | made.linear % PAGE_SIZE
    if isinstance(made, Store):
        value = made.value & (1 << 8 * made.width) - 1
        return not differing(Made("write", made.width, physical, value), request)
    return not differing(Made("read", made.width, physical, None), request)


def _words(request: Mmio) -> str:
    return " ".join(map(_word, (request.direction, request.width, request.physical)))


def _word(item: object) -> str:
    return hex(item) if isinstance(item, int) else str(item)


def _text(number: int | None) -> str | None:
    return None if number is None else hex(number)
