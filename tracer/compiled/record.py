"""A raw record as the trace has it: the one place where compiled accesses become trace records."""

from __future__ import annotations

from dataclasses import dataclass

from tracer.access.recorded import changed_values, memory_access, register_values
from tracer.access.region import RegionMap
from tracer.access.transfer import Transfer
from tracer.compiled.reading import accesses, state_after, state_before, transfers
from tracer.compiled.ring import Raw
from tracer.compiled.sites import Site
from tracer.trace.record import Intercept, Via


@dataclass(frozen=True, slots=True)
class Circumstances:
    """Hold what a trace record tells beside the raw one: number, time, names, how it came about."""

    seq: int
    time_ns: int
    symbol: str | None
    via: Via
    stack: int | None = None


def intercept(
    site: Site, raw: Raw, window: int, regions: RegionMap, circumstances: Circumstances
) -> Intercept:
    """Return the trace's record of a raw one.

    ``window`` is the linear address that the guest's window has physical address 0 at. What is
    told of the registers after it is the emulator's, and empty where it would have to know more.
    """
    insn = site.insn
    before = state_before(insn, raw)
    after = state_after(insn, raw)
    return Intercept(
        seq=circumstances.seq,
        time_ns=circumstances.time_ns,
        vcpu=raw.vcpu,
        cpl=0,
        mode=64,
        rip=insn.rip,
        symbol=circumstances.symbol,
        code=insn.code,
        text=insn.text,
        cr2=raw.linear,
        error_code=raw.error,
        via=circumstances.via,
        accesses=[
            memory_access(
                Transfer(
                    direction="write" if access.write else "read",
                    linear=access.linear,
                    physical=access.physical,
                    width=access.width,
                    value=access.value,
                    region=regions.find(access.physical),
                    traced=regions.is_recorded(access.physical, read=not access.write),
                    ram=regions.is_ram(access.physical),
                )
            )
            for whole in accesses(insn, raw, window)
            for access in transfers(whole)
        ],
        before=register_values(before, insn),
        after={} if after is None else changed_values(before, after),
        stack=circumstances.stack,
    )
