"""Foretell the accesses of an instruction that the vCPU carries out itself, in a native step.

What they are follows from the instruction's operands and the registers before it. Nobody sees the
step itself, so what does not follow is told by the faults that the vCPU comes upon: each poisoned
page that it touches is one.

Ref: Intel SDM vol. 2, VPGATHERDD and its kin (lanes), and chapter 3 for the operands.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tracer.access.space import AddressSpace, Glance
from tracer.access.transfer import Transfer, pieces_of
from tracer.errors import GuestException
from tracer.x86.bus import Direction
from tracer.x86.emulate.address import effective_address, linear_address, places
from tracer.x86.emulate.mask import SIZES as MASKED
from tracer.x86.instruction import Instruction, Lanes, Memory, Touch
from tracer.x86.state import PAGE_SIZE, CpuState


@dataclass(frozen=True, slots=True)
class Encounter:
    """Hold where the vCPU came upon poison, a linear address, and whether it was to write.

    ``fetch`` says that the instruction itself was what it came for.
    """

    linear: int
    write: bool
    fetch: bool = False


@dataclass(frozen=True, slots=True)
class Footprint:
    """Hold the transfers to traced regions that are foretold, and the directions of the others.

    ``elsewhere`` are those of accesses whose addresses are not known; ``reach`` has the linear
    addresses of all others, in RAM too.
    """

    transfers: tuple[Transfer, ...] = ()
    elsewhere: frozenset[Direction] = frozenset()
    reach: tuple[range, ...] = ()

    def seen(self, encounters: Sequence[Encounter], space: AddressSpace) -> tuple[Transfer, ...]:
        """Return the transfers, with those that only the faults of the step tell.

        They are of unknown extent: the region's bytes in the page that faulted. A fault that the
        instruction cannot have tells that the CPU takes it for another one: then nothing is known.
        """
        encounters = [met for met in encounters if not met.fetch]
        transfers = list(self.transfers)
        if not self.elsewhere:
            if all(any(met.linear in span for span in self.reach) for met in encounters):
                return self.transfers
            transfers = []
        glance = space.glance()
        way: Direction = "unknown"
        if len(self.elsewhere) == 1:
            (way,) = self.elsewhere
        for met in encounters:
            page = [*_within(met.linear & -PAGE_SIZE, PAGE_SIZE, way, glance)]
            # From RAM beside a device it may go on to any region of the page.
            hit = [item for item in page if item.linear <= met.linear < item.linear + item.span]
            transfers += [item for item in hit or page if item not in transfers]
        return tuple(transfers)


UNKNOWN = Footprint(elsewhere=frozenset({"unknown"}))
"""That of an instruction which is not known."""


def footprint(insn: Instruction | None, cpu: CpuState, space: AddressSpace) -> Footprint:
    """Return what an instruction will access in traced regions, from the state before it.

    Of RAM and of what is not traced nothing is told.
    """
    if insn is None:
        return UNKNOWN
    transfers: list[Transfer] = []
    elsewhere: set[Direction] = set()
    reach: list[range] = []
    glance = space.glance()
    for extent in _extents(insn, cpu):
        if extent.linear is None:
            elsewhere.add(extent.direction)
            continue
        reach.append(range(extent.linear, extent.linear + extent.size))
        if extent.whole:
            transfers += _exact(extent.linear, extent.size, extent.direction, glance)
        else:
            transfers += _within(extent.linear, extent.size, extent.direction, glance)
    return Footprint(tuple(transfers), frozenset(elsewhere), tuple(reach))


@dataclass(frozen=True, slots=True)
class _Extent:
    # ``size`` bytes from a linear address on, of which some or the ``whole`` are accessed.
    direction: Direction
    linear: int | None
    size: int = 0
    whole: bool = True


def _extents(insn: Instruction, cpu: CpuState) -> Iterator[_Extent]:
    if insn.form is None:
        for touch in insn.touches:
            yield from _of_touch(touch, insn, cpu)
        return
    if insn.form.operation in MASKED:
        # The mask is in a vector register, and not every processor leaves the others alone.
        memory = next(operand for operand in insn.operands if isinstance(operand, Memory))
        direction: Direction = "write" if memory is insn.operands[0] else "read"
        yield _Extent(direction, _linear(memory, insn, cpu), memory.width, whole=False)
        return
    try:
        operands = places(insn, cpu)
    except GuestException:
        return  # the vCPU says otherwise, if it gets so far
    for operand in operands:
        if operand.read:
            yield _Extent("read", operand.linear, operand.width)
        if operand.write:
            yield _Extent("write", operand.linear, operand.width)


def _of_touch(touch: Touch, insn: Instruction, cpu: CpuState) -> Iterator[_Extent]:
    if touch.memory is None or touch.width is None or touch.direction == "unknown":
        yield _Extent(touch.direction, None)
        return
    if touch.lanes is None:
        whole = not touch.some and not touch.parts
        yield _Extent(touch.direction, _linear(touch.memory, insn, cpu), touch.width, whole)
        return
    chosen = _lanes(touch.lanes, touch.width, cpu)
    if chosen is None:
        yield _Extent(touch.direction, None)
        return
    for index in chosen:
        offset = effective_address(touch.memory, insn, cpu) + index * touch.lanes.scale
        linear = linear_address(touch.memory, offset & touch.memory.mask, cpu)
        yield _Extent(touch.direction, linear, touch.width)


def _linear(memory: Memory, insn: Instruction, cpu: CpuState) -> int:
    return linear_address(memory, effective_address(memory, insn, cpu), cpu)


def _lanes(lanes: Lanes, width: int, cpu: CpuState) -> list[int] | None:
    # The indices of the lanes that the mask selects, None where the registers are not known.
    if lanes.mask is None:
        return None
    indices = _elements(lanes.index, lanes.width, lanes.count, cpu)
    masks = _elements(lanes.mask, width, lanes.count, cpu)
    if indices is None or masks is None:
        return None
    return [index for index, mask in zip(indices, masks, strict=True) if mask < 0]


def _elements(register: int, width: int, count: int, cpu: CpuState) -> list[int] | None:
    # The first ``count`` elements of a vector register, signed.
    if register >= len(cpu.xmm) or (count * width > 16 and not cpu.ymm):
        return None
    value = cpu.xmm[register]
    if cpu.ymm:
        value |= cpu.ymm[register] << 128
    data = value.to_bytes(32, "little")
    return [
        int.from_bytes(data[at : at + width], "little", signed=True)
        for at in range(0, count * width, width)
    ]


def _exact(linear: int, width: int, direction: Direction, glance: Glance) -> Iterator[Transfer]:
    read = direction == "read"
    for piece in pieces_of(linear, width, glance):
        if piece.leaf is None:
            continue
        physical = piece.leaf.translate(piece.linear)
        if glance.regions.is_recorded(physical, read=read):
            yield _transfer(piece.linear, physical, direction, glance, width=piece.width)


def _within(linear: int, size: int, direction: Direction, glance: Glance) -> Iterator[Transfer]:
    # One transfer of unknown extent for each page and traced region that the bytes lie in.
    end = linear + size
    while linear < end:
        room = min(end - linear, PAGE_SIZE - linear % PAGE_SIZE)
        leaf = glance.leaf(linear)
        if leaf is not None:
            start = leaf.translate(linear)
            for first, last in _traced(start, start + room - 1, glance):
                if not glance.regions.is_recorded(first, read=direction == "read"):
                    continue
                at = linear + first - start
                extent = last + 1 - first
                yield _transfer(at, first, direction, glance, extent=extent)
        linear += room


def _traced(start: int, end: int, glance: Glance) -> Iterator[tuple[int, int]]:
    # Yields the traced ranges between two physical addresses, each within one region.
    for first, last in glance.regions.traced:
        first, last = max(first, start), min(last, end)
        while first <= last:
            region = glance.regions.find(first)
            stop = last if region is None else min(last, region.end)
            yield first, stop
            first = stop + 1


def _transfer(
    linear: int, physical: int, direction: Direction, glance: Glance,
    *, width: int = 0, extent: int | None = None,
) -> Transfer:  # fmt: skip
    return Transfer(
        direction=direction,
        linear=linear,
        physical=physical,
        width=width,
        value=None,
        region=glance.regions.find(physical),
        traced=True,
        ram=glance.regions.is_ram(physical),
        extent=extent,
    )
