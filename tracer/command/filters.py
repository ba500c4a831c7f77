"""The filters that every command over a trace's accesses has in common."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection

from tracer.errors import UsageError
from tracer.selection import Match, Selection, Span, names_region


def add_filters(parser: argparse.ArgumentParser) -> None:
    """Declare the filters; :func:`selection` reads them."""
    group = parser.add_argument_group(
        "filters", "only accesses that meet all of these; numbers may be hexadecimal (0x10)"
    )
    group.add_argument("--region", metavar="R", help="its name, its device's name, or a glob")
    group.add_argument(
        "--offset", metavar="O[-O]", type=_offsets, help="touching these bytes of the region"
    )
    direction = group.add_mutually_exclusive_group()
    direction.add_argument(
        "--read", dest="direction", action="store_const", const="read", help="reads"
    )
    direction.add_argument(
        "--write", dest="direction", action="store_const", const="write", help="writes"
    )
    group.add_argument(
        "--value", metavar="V[/MASK]", type=_match, help="having V in the bits of MASK"
    )
    group.add_argument(
        "--changes", action="store_true", help="with another value than the one before it there"
    )
    group.add_argument("--symbol", metavar="S", help="from this function or call site, or a glob")
    group.add_argument("--vcpu", metavar="N", type=_number, help="by this vCPU")
    group.add_argument(
        "--time", metavar="[S]-[S]", type=_seconds, help="in these seconds of guest time"
    )
    group.add_argument(
        "--phase", metavar="P", help="in this phase: `vetrace stats` lists them; or a glob"
    )


def selection(args: argparse.Namespace) -> Selection:
    """Return what the filters on the command line say."""
    return Selection(
        region=args.region,
        symbol=args.symbol,
        direction=args.direction,
        offset=args.offset,
        value=args.value,
        vcpu=args.vcpu,
        time=args.time,
        phase=args.phase,
        changes=args.changes,
    )


def check_region(chosen: Selection, regions: Collection[str], trace: str) -> None:
    """Raise :exc:`UsageError` when no region of the trace has the name that was asked for."""
    pattern = chosen.region
    if pattern is not None and not any(names_region(pattern, name) for name in regions):
        known = ", ".join(sorted(regions)) or "none at all"
        raise UsageError(f"no region of {trace} is called {pattern}; it has: {known}")


def _number(text: str) -> int:
    try:
        number = int(text, 0)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is no number: 16 and 0x10 are") from None
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return number


def _offsets(text: str) -> Span:
    first, dash, last = text.partition("-")
    return _span(text, _number(first), _number(last) if dash else _number(first))


def _seconds(text: str) -> Span:
    first, dash, last = text.partition("-")
    if not dash:
        raise argparse.ArgumentTypeError(f"{text} is no span: 0.5-2, 0.5- and -2 are")
    return _span(text, *(_optional(end, _nanoseconds) for end in (first, last)))


def _nanoseconds(text: str) -> int:
    try:
        return round(float(text) * 1e9)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text} is no number of seconds") from None


def _optional(text: str, read: Callable[[str], int]) -> int | None:
    return read(text) if text else None


def _span(text: str, first: int | None, last: int | None) -> Span:
    if first is not None and last is not None and last < first:
        raise argparse.ArgumentTypeError(f"{text} ends before it begins")
    return Span(first, last)


def _match(text: str) -> Match:
    value, slash, mask = text.partition("/")
    match = Match(_number(value), _number(mask)) if slash else Match(_number(value))
    if match.value & ~match.mask:
        raise argparse.ArgumentTypeError(f"{text} has bits outside its mask: nothing can fit")
    return match
