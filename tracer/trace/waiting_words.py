"""Waits of code, in words and as an object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tracer.devices.map import Named, bare_bits
from tracer.text.printable import cut, printable
from tracer.trace.layout import padded
from tracer.trace.poll import Poll
from tracer.trace.waiting import WaitRecord, WayOut

_MOST = 3


def awaited_words(told: WaitRecord, named: Named | None = None) -> str:
    """Return what a loop waits for: ``until RDY=1, or it reads 0xffffffff``."""
    ways = [_way(each, told.width, named) for each in told.awaited]
    # All ones are what a device gives that is gone: nobody waits for that.
    ways.sort(key=lambda words: words.startswith("it reads"))
    return f"until {', or '.join(ways[:_MOST])}" if ways else ""


def gives_up_words(told: WaitRecord) -> str:
    """Return where a loop gives up, and by what; empty where it does not."""
    if not told.gives_up:
        return "nothing else ends it"
    shown = [_site(each) for each in told.gives_up[:_MOST]]
    more = len(told.gives_up) - len(shown)
    rest = f" and at {more} more places" if more else ""
    return f"gives up at {' or '.join(shown)}{rest}"


def wait_line(told: WaitRecord) -> str:
    """Return the line that tells what the loop around a read waits for."""
    where = f"{printable(told.region)} {_register(told, None)}"
    if not told.awaited:
        site = printable(told.symbol or hex(told.rip))
        return f"── waits: no loop around {site} that {where} ends ──"
    return f"── waits: {where} {awaited_words(told)}; {gives_up_words(told)} ──"


def poll_line(poll: Poll, named: Named | None = None, *, begins: str = "waiting for") -> str:
    """Return in one line which register a poll reads, for what, how long, how often."""
    told = poll.told
    register = named.text if named is not None else f"+{poll.offset:#x}"
    if named is None and told is not None:
        register = _register(told, None)
    times = f"read {poll.turns:,} times in {poll.duration_ns / 1e9:.6f} s"
    value = "" if poll.value is None else f", last {padded(poll.value, poll.width)}"
    site = poll.site if told is None or not told.awaited else told.loop or poll.site
    line = f"{begins} {printable(poll.region)} {printable(register)}"
    if told is not None and told.awaited:
        line += f" {awaited_words(told, named)}"
    line += f": {times} at {printable(site)}{value}"
    return line if told is None or not told.awaited else f"{line}; {gives_up_words(told)}"


def fitted_poll_line(poll: Poll, named: Named | None, columns: int) -> str:
    """Return the line about a poll for so many columns: shorter words, then less of them.

    How often and how long go before where, and that before where it gives up.
    """
    line = poll_line(poll, named)
    if len(line) <= columns:
        return line
    told = poll.told
    register = named.text if named is not None else f"+{poll.offset:#x}"
    awaited, site, ends = "", poll.site, ""
    if told is not None and told.awaited:
        register = _register(told, named)
        awaited = f" {awaited_words(told, named).partition(', or ')[0]}"
        site = told.loop or poll.site
        if told.gives_up:
            ends = f"; gives up at {_site(told.gives_up[0])}"
    what = f"{printable(poll.region)} {printable(register)}{awaited}"
    times = f"{poll.turns:,} times in {poll.duration_ns / 1e9:.3f} s"
    where = f" at {printable(site)}"
    shorter = (
        f"waiting for {what}: {times}{where}{ends}",
        f"waiting for {what}: {times}{where}",
        f"waiting for {what}: {times}",
        f"{what}: {times}",
    )
    return next((each for each in shorter if len(each) <= columns), cut(shorter[-1], columns))


def waited_line(poll: Poll, named: Named | None = None) -> str:
    """Return the line that tells of a wait that is over."""
    return f"── {poll_line(poll, named, begins='waited for')} ──"


def poll_words(poll: Poll) -> tuple[str, str, str]:
    """Return the register of a poll that was looked at, what is awaited, and what ends it else."""
    told = poll.told
    if told is None:
        return f"+{poll.offset:#x}", "", ""
    gives_up = gives_up_words(told).removeprefix("gives up at ")
    return _register(told, None), awaited_words(told), gives_up


def poll_object(poll: Poll, named: Named | None = None) -> dict[str, Any]:
    """Return a poll ready for JSON.

    ``rip`` is linear, ``mask`` of the value read, ``first`` and ``last`` are numbers of accesses.
    """
    told = poll.told
    awaited: Sequence[WayOut] = () if told is None else told.awaited
    gives_up: Sequence[WayOut] = () if told is None else told.gives_up
    register = named.text if named is not None else None
    if register is None and told is not None:
        register = told.register
    return {
        "type": "waiting",
        "region": poll.region,
        "offset": hex(poll.offset),
        "register": register,
        "width": poll.width,
        "vcpu": poll.vcpu,
        "rip": hex(poll.rip),
        "site": poll.site,
        "loop": None if told is None else told.loop,
        "turns": poll.turns,
        "first": poll.first,
        "last": poll.seq,
        "since_ns": poll.since_ns,
        "until_ns": poll.until_ns,
        "value": None if poll.value is None else hex(poll.value),
        "looked": told is not None,
        "awaited": [
            {
                "site": each.site,
                "mask": hex(each.mask or 0),
                "value": hex(each.value or 0),
                "other": each.other,
                "words": _way(each, poll.width, named),
            }
            for each in awaited
        ],
        "gives_up": [{"site": each.site, "by": each.said} for each in gives_up],
    }


def _register(told: WaitRecord, named: Named | None) -> str:
    name = told.register if named is None else named.text
    return printable(name) if name else f"+{told.offset:#x}"


def _way(way: WayOut, width: int, named: Named | None) -> str:
    mask, value = way.mask or 0, way.value or 0
    if not mask:
        return f"a condition at {printable(way.site)} holds"
    if mask == (1 << 8 * width) - 1:
        it = "it reads something else than" if way.other else "it reads"
        return f"{it} {padded(value, width)}"
    if named is not None:
        words = named.bits(mask, value)
    else:
        words = printable(way.said) if way.said else bare_bits(mask, value)
    return f"not {words}" if way.other else words


def _site(way: WayOut) -> str:
    by = f" ({printable(way.said)})" if way.said else ""
    return f"{printable(way.site)}{by}"
