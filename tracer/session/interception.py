"""The interceptor of a guest's accesses, made alike for either way of its traps."""

from __future__ import annotations

from dataclasses import dataclass

from tracer.access.space import AddressSpace
from tracer.access.symbols import KERNEL_HALF
from tracer.compiled.diary import Current
from tracer.compiled.inputs import InputPlace
from tracer.intercept.interceptor import Interceptor
from tracer.intercept.ring.input_bell import InputBell
from tracer.intercept.ring.rows import Domain, Told
from tracer.intercept.standin import StandIn
from tracer.intercept.system import Callers
from tracer.session.manner import Manner
from tracer.session.room import Setting


@dataclass(slots=True)
class OwnTables:
    """Say by which page tables the software's own linear addresses are looked up by now.

    ``root`` is CR3, 0 for that of each access, ``cr4`` is CR4.
    """

    root: int
    cr4: int


def callers_in(setting: Setting, how: Manner, space: AddressSpace) -> Callers:
    """Return who follows the callers of accesses; what is worse than it might be is told."""
    journal = setting.journal
    callers = setting.system.callers(journal.publish, stacks=how.stacks)
    remark = callers.remark(space) if how.stacks else None
    if remark is not None:
        journal.remark(remark)
    return callers


def interceptor_in(setting: Setting, how: Manner, callers: Callers) -> Interceptor:
    """Return the interceptor of a guest; a recording answers in its devices' place, if any."""
    view, journal, names = setting.view, setting.journal, setting.system.names
    interceptor = Interceptor(view, names, callers, journal.counts, journal.publish)
    if how.recorded is not None:
        interceptor.answers.insert(0, StandIn(how.recorded, names, journal.counts))
    interceptor.asks = how.asks
    return interceptor


def told_in(
    setting: Setting,
    how: Manner,
    interceptor: Interceptor,
    callers: Callers,
    tables: OwnTables,
    current: Current | None,
    domain: Domain | None = None,
    *,
    nested: bool = False,
) -> Told:
    """Return who is told of accesses that take no stop.

    Where code is looked up follows ``tables``.
    """
    view = setting.view
    return Told(
        callers, setting.system.names, lambda: view.space(tables.root, tables.cr4),
        interceptor.ledger.take, current, how.stacks, domain, how.inputs,
        lambda place: view.space_by(_tables(place, tables.root), tables.cr4),
        nested,
    )  # fmt: skip


def input_bell_in(
    setting: Setting, how: Manner, interceptor: Interceptor, callers: Callers
) -> InputBell | None:
    """Return what takes stops at inputs, where they are recorded: it is to begin.

    Somebody may be asked about them, they may be doorbells, and code may wait for what they read.
    """
    if not how.inputs:
        return None
    view, journal, names = setting.view, setting.journal, setting.system.names
    return InputBell(view, journal, names, callers, interceptor.ledger, asks=how.asks)


def _tables(place: InputPlace, root: int) -> int:
    # The software's own tables have its code, if they are known, but no program's, nor firmware's.
    own = root and not place.program and place.rip >= KERNEL_HALF
    return root if own else place.tables
