"""The names that the prompt checks others against: regions of a guest, registers, functions."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import TYPE_CHECKING

from tracer.access.region import UNASSIGNED, RegionMap
from tracer.devices.map import fits_register
from tracer.query.condition.lexicon import Lexicon
from tracer.query.facts import function
from tracer.query.place import Known
from tracer.query.roster import REGISTER_END
from tracer.text.span import Span
from tracer.trace.name import names_region
from tracer.trace.naming import PORTS, Naming
from tracer.trace.phase import PHASES

if TYPE_CHECKING:  # a recording has none
    from tracer.access.space import AddressSpace
    from tracer.session.session import Session


def known_of(
    session: Session,
    naming: Naming,
    space: AddressSpace | None = None,
    phases: Callable[[], Collection[str]] = tuple,
) -> Known:
    """Return what a person can name of a guest, whose addresses lead where ``space`` says."""
    names, system = session.names, session.system
    known = known_places(
        session.view.regions,
        naming,
        lambda: names.functions(space),
        lambda: {*names.modules(space), *names.modules_on_disk()},
        phases,
    )
    regions = session.view.regions
    return replace(
        known, kind=system.kind, profile=session.profile, ports=regions.ports, inputs=regions.inputs
    )


def known_places(
    regions: RegionMap,
    names: Naming,
    functions: Callable[[], Collection[str]] | None = None,
    modules: Callable[[], Collection[str]] | None = None,
    phases: Callable[[], Collection[str]] = tuple,
) -> Known:
    """Return the regions, devices and registers that a person can name.

    ``functions`` and ``modules`` return the names of those that the guest has, ``phases`` those
    that it has been in.
    """
    everywhere = (*regions.regions, *regions.ports)
    own = dict.fromkeys((*(region.name for region in everywhere), *regions.inputs))
    devices = dict.fromkeys(owner for region in everywhere for owner in region.owners)
    owners = {region.name: region.owners for region in everywhere}
    sizes: dict[str, int] = dict.fromkeys(regions.inputs, 1 << 64)
    for region in everywhere:
        sizes[region.name] = max(sizes.get(region.name, 0), region.end - region.base + 1)

    bases = {region.name: region.base for region in regions.ports}

    def span(region: str, register: str) -> Span | None:
        found = names.map_of(region)
        entries = [] if found is None else found.find(register)
        if not entries:
            return None
        offset = entries[0].offset
        if region in bases and found is names.map_of(PORTS):
            offset -= bases[region]  # ports are named by their numbers
        return Span(offset, offset + entries[0].register.width - 1)

    # A window shows one of several registers, so the place alone does not tell which.
    def shown(region: str, register: str) -> bool:
        found = names.map_of(region)
        entry = next(iter(found.find(register)), None) if found is not None else None
        return entry is not None and entry.selector is not None

    def registers(region: str) -> Collection[str]:
        found = names.map_of(region)
        return () if found is None else tuple(found.names())

    def all_registers() -> Collection[str]:
        return dict.fromkeys(name for region in own for name in registers(region))

    # Other than a place, a condition tells upper case from lower.
    def is_register(name: str) -> bool:
        folded = name.casefold()
        return all(folded != other.casefold() for other in all_registers()) and any(
            span(region, name) is not None for region in own
        )

    def a_region(pattern: str) -> bool:
        return any(names_region(pattern, region, owners.get(region, ())) for region in own)

    def a_register(pattern: str) -> bool:
        bare = pattern.rpartition(".")[2] if pattern.rpartition(".")[0] in own else pattern
        return is_register(bare) or any(
            fits_register(pattern, region, name) for region in own for name in registers(region)
        )

    def answers(first: int, last: int) -> bool:
        return any(region.start <= last and first <= region.end for region in regions.regions)

    alone = tuple(name for name in devices if name not in own)
    places = (*own, *alone)
    kinds = dict.fromkeys((*(region.device for region in everywhere), *regions.inputs))
    words = {
        "region": Lexicon("region", lambda: (*places, UNASSIGNED), names=a_region),
        "device": Lexicon("device", lambda: (*kinds, UNASSIGNED)),
        "register": Lexicon(
            "register",
            all_registers,
            is_register,
            lambda text: REGISTER_END.split(text)[0],
            names=a_register,
        ),
    }
    if functions is not None:
        words["function"] = Lexicon("function", functions)
        words["symbol"] = words["callers"] = Lexicon("function", functions, stem=function)
        words["phase"] = _phases(phases, functions)
    if modules is not None:
        words["module"] = Lexicon("module", modules)
    return Known(
        places, span, registers, alone, owners, size=sizes.__getitem__, answers=answers,
        shown=shown, words=words,
    )  # fmt: skip


# A phase that comes is one of the few, or the work of a function that the kernel has.
def _phases(
    been: Callable[[], Collection[str]], functions: Callable[[], Collection[str]]
) -> Lexicon:
    # A kernel's code is loaded for those who ask for what it does on somebody's behalf.
    def sorts() -> tuple[str, ...]:
        from tracer.linux.callers import ON_BEHALF

        return ON_BEHALF

    def bare() -> set[str]:
        # A suffix of link-time optimisation is left out of it.
        return {name.partition(".")[0] for name in functions()}

    def is_phase(text: str) -> bool:
        kind, _, name = text.rpartition(" ")
        return kind in sorts() and name in bare()

    def known() -> Collection[str]:
        names = bare()
        return {*PHASES, *been(), *(f"{kind} {name}" for kind in sorts() for name in names)}

    return Lexicon("phase", known, is_phase)
