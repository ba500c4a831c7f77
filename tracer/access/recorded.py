"""Accesses as a trace records them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tracer.access.region import UNASSIGNED, Region, RegionMap
from tracer.access.transfer import Meddling, Transfer, located
from tracer.trace.compiled import Place
from tracer.trace.record import Intercept, MemoryAccess
from tracer.trace.registers import BASES, other_registers
from tracer.x86.hidden import on_hidden_registers
from tracer.x86.instruction import Instruction
from tracer.x86.state import GPR, CpuState, Segments

# An instruction that was carried out once had the units it needs: SSE and AVX. Canonical addresses
# of 57 bits include those of 48. Ref: Intel SDM vol. 3A, 2.5.
_CR0 = 0x80010033
_CR4 = 0x6F0 | 1 << 12 | 1 << 18
_FLAT = Segments()


def memory_access(transfer: Transfer, meddling: Meddling | None = None) -> MemoryAccess:
    """Return a transfer as it is recorded."""
    device = None if meddling is None else meddling.device
    name, offset = located(transfer)
    return MemoryAccess(
        direction=transfer.direction,
        width=transfer.width,
        linear=transfer.linear,
        physical=transfer.physical,
        value=transfer.value,
        region=name if transfer.traced else None,
        offset=offset if transfer.traced else None,
        device=device,
        skipped=meddling is not None and meddling.skipped,
        extent=transfer.extent,
        space=transfer.space,
    )


def places(regions: RegionMap, ports: Iterable[Region] = ()) -> Iterator[Place]:
    """Yield where the traced regions are, those of memory first, sorted and disjoint."""
    for start, end in regions.traced:
        while start <= end:
            region = regions.find(start)
            size = regions.room(start, end - start + 1)
            yield Place(
                region=UNASSIGNED if region is None else region.name,
                start=start,
                end=start + size - 1,
                base=0 if region is None else region.base,
                reads=regions.is_recorded(start, read=True),
            )
            start += size
    for port in ports:
        yield Place(region=port.name, start=port.start, end=port.end, base=port.base, space="port")


def state_of(record: Intercept, insn: Instruction) -> CpuState | None:
    """Return the state before a recorded instruction, None where it lacks what that sees."""
    before = record.before
    hidden = record.via == "compiled" and on_hidden_registers(insn)
    if hidden or not before.keys() >= _NEEDED:
        return None
    segments = _FLAT
    xmm: tuple[int, ...] = ()
    others = (*other_registers(insn), *(name for name in BASES if name in before))
    if others:
        if not before.keys() >= set(others):
            return None
        values = {name: before[name] for name in others}
        segments = Segments(**{n: v for n, v in values.items() if not n.startswith("xmm")})
        xmm = tuple(values.get(f"xmm{number}", 0) for number in range(16))
    return CpuState(
        gpr=tuple([before[name] for name in GPR]),
        rip=insn.rip,
        rflags=before["rflags"],
        cpl=record.cpl,
        mode=insn.mode,
        segments=segments,
        cr0=_CR0,
        cr4=_CR4,
        xmm=xmm,
    )


_NEEDED = frozenset(("rflags", *GPR))
