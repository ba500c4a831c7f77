"""Sites: what the line of one says of the rows that are of it."""

from __future__ import annotations

from dataclasses import dataclass

from tracer.compiled.asking import AskedSite, decoded
from tracer.compiled.inputs import Input
from tracer.compiled.reading import parts
from tracer.compiled.safety import NotCompiled
from tracer.errors import EmulationError, TraceError
from tracer.trace.compiled import SiteRecord
from tracer.trace.inputs import instruction_of, kind_of
from tracer.x86.bus import Direction
from tracer.x86.instruction import Instruction
from tracer.x86.state import Mode


@dataclass(frozen=True, slots=True)
class Site:
    """Hold a site, its instruction, and what goes over the bus each time, as far as that is known.

    ``parts`` are direction, number of the first byte, and width in bytes of each access, None where
    RAM is accessed beside the device. An instruction that the guest's own kernel has decoded may be
    one that vetrace cannot. An ``input`` is of that kind.
    """

    told: SiteRecord
    insn: Instruction | None
    parts: tuple[tuple[Direction, int, int], ...] | None
    input: Input | None = None

    @property
    def asked(self) -> Direction | None:
        """Return the way of the access that a guest's own kernel has decoded, None without."""
        return None if self.input is not None else self.told.asked


def site_of(told: SiteRecord) -> Site:
    """Return what a line tells of a site. Raises TraceError where that cannot be."""
    from tracer.x86.decode import decode  # capstone: a trace without blocks does not wait for it

    kind = kind_of(told)
    if kind is not None:
        return Site(told, instruction_of(told), (), kind)
    if told.asked is not None:
        if told.width is None:
            raise TraceError(f"site {told.number}: asked for without a width")
        return Site(told, decoded(told.code, told.rip), ((told.asked, 0, told.width),))
    try:
        insn = decode(told.code, told.rip, Mode.LONG)
        made = parts(insn)
    except (EmulationError, NotCompiled) as error:
        raise TraceError(f"site {told.number}: {error}") from error
    if made is None:
        return Site(told, insn, None)
    way: tuple[Direction, Direction] = "read", "write"
    return Site(told, insn, tuple([(way[write], at, width) for write, at, width in made]))


def asked_site(site: AskedSite, time_ns: int, symbol: str | None = None) -> SiteRecord:
    """Return the line that tells of a site which a guest's own kernel decodes."""
    return SiteRecord(
        time_ns=time_ns,
        number=site.number,
        rip=site.rip,
        symbol=symbol,
        code=site.code,
        text="(bad)" if site.insn is None else site.insn.text,
        asked="write" if site.write else "read",
        width=site.width,
    )
