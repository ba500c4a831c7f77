"""A record's accesses as QEMU's log has them: whole where the vCPU made them whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from tracer.check.comparison import Extent, TracedAccess
from tracer.check.witness.territory import PORT
from tracer.trace.record import Intercept, MemoryAccess
from tracer.x86.state import PAGE_SIZE

_VECTOR = 64  # bytes of the widest register: what is wider is a block, such as FXSAVE's
_UNIT = 8  # bytes of the widest access that TCG makes at once

_WITNESSED = frozenset({"memory", PORT, "config"})
"""Where accesses are that QEMU logs."""

Whole = tuple[int, int]
"""The linear address and width of an access of the vCPU."""


def interrupt_of(record: Intercept, site: str, text: str) -> TracedAccess | None:
    """Return the interrupt that a record is of, at the linear address at which it came.

    None where it is of another access as well.
    """
    match record.accesses:
        case [access] if not access.skipped:
            message = None
        case [MemoryAccess(space="msi") as message, access] if not access.skipped:
            pass
        case _:
            return None
    sent = None if message is None else (message.physical, message.value)
    seq = record.seq + len(record.accesses) - 1
    return TracedAccess(seq, site, text, True, "write", record.rip, 1, access.value,
                        cause=record.cause, message=sent)  # fmt: skip


def wholes_of(accesses: Sequence[MemoryAccess]) -> dict[int, Whole]:
    """Return the access of the vCPU that a record's accesses are pieces of, by their identity.

    It is what the vCPU loads or stores at once, where that is more than the piece.
    """
    found: dict[int, Whole] = {}
    run: list[MemoryAccess] = []
    for access in accesses:
        before = run[-1] if run else None
        if before is None or not (
            before.direction == access.direction and before.linear + before.width == access.linear
        ):
            found.update(_units(run))
            run = []
        run.append(access)
    found.update(_units(run))
    return found


def _units(run: Sequence[MemoryAccess]) -> Iterator[tuple[int, Whole]]:
    if len(run) < 2 or not all(access.width for access in run):
        return
    begin = run[0].linear
    end = run[-1].linear + run[-1].width
    for access in run:
        linear = access.linear
        unit = linear - (linear - begin) % _UNIT
        width = min(_UNIT, end - unit)
        inside = linear + access.width <= unit + width
        if inside and width.bit_count() == 1 and (linear, access.width) != (unit, width):
            yield id(access), (unit, width)


def traced_accesses(
    made: Iterable[tuple[int, MemoryAccess]],
    site: str,
    text: str,
    by_vcpu: bool,
    wholes: Mapping[int, Whole],
) -> Iterator[tuple[str, TracedAccess]]:
    """Yield the accesses that a record's instruction made, by region, as QEMU's log has them.

    Those in a region stand in order; those not known one by one may be in any. ``made`` has them
    with their numbers.
    """
    unknown: dict[str, TracedAccess] = {}
    for region, traced in _joined(_one_by_one(made, site, text, by_vcpu, wholes)):
        if traced.within:
            known = unknown.get(region, traced)
            within = (*known.within, *traced.within) if region in unknown else traced.within
            unknown[region] = replace(known, within=within)
            continue
        if region in unknown:
            yield region, unknown.pop(region)
        yield region, traced
    yield from unknown.items()


def _one_by_one(
    made: Iterable[tuple[int, MemoryAccess]],
    site: str,
    text: str,
    by_vcpu: bool,
    wholes: Mapping[int, Whole],
) -> Iterator[tuple[str, TracedAccess]]:
    for seq, access in made:
        if access.skipped or access.space not in _WITNESSED:
            continue
        traced = _traced_access(access, seq, site, text, by_vcpu)
        if id(access) in wholes and traced.width:
            linear, width = wholes[id(access)]
            place = traced.address - access.linear + linear
            traced = replace(traced, whole=(place, width))
        yield PORT if access.space == PORT else access.region or "", traced


# Pieces of one access of the vCPU that lie side by side in one region, as one.
def _joined(
    accesses: Iterable[tuple[str, TracedAccess]],
) -> Iterator[tuple[str, TracedAccess]]:
    held: tuple[str, TracedAccess] | None = None
    for region, access in accesses:
        if held is not None:
            name, last = held
            if (
                name == region
                and last.whole is not None
                and last.whole == access.whole
                and last.address + last.width == access.address
                and (last.value is None) == (access.value is None)
            ):
                value = None
                if last.value is not None and access.value is not None:
                    value = last.value | access.value << 8 * last.width
                width, pieces = last.width + access.width, last.pieces + 1
                held = region, replace(last, width=width, value=value, pieces=pieces)
                continue
            yield held
        held = region, access
    if held is not None:
        yield held


def _traced_access(
    access: MemoryAccess, seq: int, site: str, text: str, by_vcpu: bool
) -> TracedAccess:
    address, width = access.physical, access.width
    value = access.value if access.device is None else access.device
    within: tuple[Extent, ...] = ()
    if not width:
        size = access.extent or PAGE_SIZE - address % PAGE_SIZE
        within = (Extent(access.direction, address, size),)
    elif by_vcpu and value is None and width > _VECTOR:
        # An older vetrace has the width of the whole block, which is stored in parts with holes.
        within, width = (Extent(access.direction, address, width),), 0
    return TracedAccess(
        seq,
        site,
        text,
        by_vcpu,
        access.direction,
        address,
        width,
        value,
        within,
    )
