"""A test asks whether a trace's device accesses would survive in a TDX or SEV-ES guest."""

from __future__ import annotations

from tracer.confidential.audit import Audit, OwnAudit, Site
from tracer.confidential.handler import PROFILES
from tracer.devices import library
from tracer.errors import TraceError, UsageError, advice
from tracer.query.source import Source
from tracer.query.words import Selection, choose
from tracer.text.amount import counted
from tracer.trace.reader import TraceReader

_SITES = 10  # shown


class Fatal(AssertionError):
    """Tell which instructions a confidential guest's handler would not survive, and why."""


def assert_survives(
    trace: TraceReader, profile: str | None = None, *, region: str | None = None
) -> None:
    """Raise :exc:`Fatal`, naming each call site, when a handler would not survive a trace.

    ``profile`` is whose handler, as ``vetrace audit`` has them, and without it the one that it
    takes for the trace; ``region`` is a region's name, its device's, or a glob: without it all
    regions count. Raise UsageError for a profile that is none, and TraceError when the trace cannot
    be read to its end, has no such access, or does not tell the instruction of each.
    """
    __tracebackhide__ = True
    if profile is not None and profile not in PROFILES:
        raise UsageError(f"there is no profile {profile}{advice(profile, PROFILES)}")
    own = OwnAudit(trace.header.kernel)
    audits = own.audits if profile is None else [Audit(PROFILES[profile])]
    chosen = Selection() if region is None else choose(region=region)
    for record, events in Source(trace, chosen, library.load()):
        own.hear(record)
        for each in audits:
            each.add(record, events)
    audit = own.own if profile is None else audits[0]
    if trace.damage is not None:
        raise TraceError(f"{trace.name}: {trace.damage}; record it again")
    if audit.unjudged:
        raise TraceError(
            f"{trace.name}: {counted(audit.unjudged, 'access')} cannot be judged: the trace "
            "does not have their instructions"
        )
    if not audit.exits:
        what = "an access" if region is None else f"an access to {region}"
        raise TraceError(f"{trace.name} has not {what} that could be judged")
    fatal = [site for site in audit.sites if site.fatal]
    if fatal:
        more = len(fatal) - _SITES
        raise Fatal(
            "\n".join(
                [
                    f"{trace.name}: {len(fatal)} of {counted(len(audit.sites), 'call site')} "
                    f"would be fatal ({audit.profile.name})",
                    *map(_line, fatal[:_SITES]),
                    *(
                        [f"  and {more} more: vetrace audit --profile {audit.profile.name}"]
                        if more > 0
                        else []
                    ),
                ]
            )
        )


def _line(site: Site) -> str:
    function = site.place.function or f"{site.rip:#x}"
    module = f" [{site.place.module}]" if site.place.module else ""
    where = f"{function}{f'+{site.offset}' if site.offset else ''}{module}"
    regions = ", ".join(sorted(site.regions))
    return (
        f"  {where}  {site.text}  {regions}, {counted(site.fatal, 'time')}: {site.verdict.reason}"
    )
