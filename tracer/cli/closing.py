"""A run in words, as it is told at its end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from tracer.intercept.recording import RecordedDevice
from tracer.session.host import Host
from tracer.session.session import Session


def closing_lines(
    session: Session, host: Host | None, recorded: RecordedDevice | None, *, sites: bool
) -> Iterator[str]:
    """Yield the lines that tell what was counted, of what rules did, and of a device's recording.

    With ``sites`` each compiled site is told too.
    """
    compiled = session.loop.sites
    yield from counted(session.counts, 0 if compiled is None else len(compiled))
    if compiled and sites:
        yield from compiled.told()
    if host is not None:
        yield from host.told()
    if recorded is not None:
        yield f"{recorded.answered} of {recorded.recorded} accesses of {recorded.name} replayed"


# Programs read these lines: a number has digits alone, and one of something is told as several.
def counted(counts: Counter[str], sites: int) -> Iterator[str]:
    """Yield the lines that tell the counts of a run with so many compiled sites."""
    raised = _raised(counts)
    asked = f", {counts['guest']} by the guest itself" if raised else ""
    compiled = f", {counts['compiled']} compiled at {sites} sites" if sites else ""
    monitor = f", {counts['monitor']} by the monitor" if counts["monitor"] else ""
    yield (
        f"{counts['accesses']} accesses in {counts['intercepts']} intercepts: "
        f"{counts['emulated']} emulated, {counts['stepped']} stepped{asked}"
        f"{compiled}{monitor}; "
        f"{counts['stops']} stops, {counts['hooks']} of them for mappings, "
        f"{counts['ram_hooks']} of these of RAM"
    )
    if counts["smis"]:
        yield f"{counts['smis']} SMIs: what firmware accessed for them is not recorded"
    if raised:
        compared = counts["agreed"] + counts["disagreed"]
        yield (
            f"{raised}, {counts['mmio_calls']} asked of its host, {compared} compared: "
            f"{counts['agreed']} as vetrace decodes them, "
            f"{counts['disagreed']} otherwise"
        )


def _raised(counts: Counter[str]) -> str:
    # The exceptions by which a confidential guest was told of its accesses; none in others.
    if counts["ve"]:
        return f"{counts['ve']} #VE, {counts['ve_info']} fetched by the guest"
    return f"{counts['vc']} #VC" if counts["vc"] else ""
