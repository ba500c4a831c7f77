"""The filters that every command over a trace's accesses has in common."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from tracer.cli.parser import argument
from tracer.cli.phrase import Phrase, phrase
from tracer.devices import library
from tracer.devices.map import RegisterMaps
from tracer.errors import ConditionError
from tracer.query import words
from tracer.query.condition import parse
from tracer.query.words import Selection, Words, chosen


def add_filters(parser: argparse.ArgumentParser) -> None:
    """Declare the filters; :func:`selection` reads them."""
    group = parser.add_argument_group(
        "filters",
        "only accesses that meet all of these, or any where one is given again; numbers may be"
        " hexadecimal (0x10). All but --if are short forms of conditions: docs/conditions.md",
    )
    group.add_argument(
        "--if", dest="conditions", metavar="CONDITION", type=Phrase(parse), action="append",
        default=[], help="for which this holds: 'register == CC and value & 1'; again for more",
    )  # fmt: skip
    group.add_argument(
        "--region", metavar="R", action="append",
        help="its name, its device's name, or a glob; again for more",
    )  # fmt: skip
    group.add_argument(
        "--offset",
        metavar="O[-O]",
        action="append",
        type=_meaning(words.offset),
        help="touching these bytes of the region",
    )
    group.add_argument(
        "--register",
        metavar="NAME",
        action="append",
        help="its name, as in CC or nvme.CC, or a glob: TIMER*",
    )
    direction = group.add_mutually_exclusive_group()
    direction.add_argument("--read", action="store_true", help="reads")
    direction.add_argument("--write", action="store_true", help="writes")
    group.add_argument(
        "--value",
        metavar="V[/MASK]",
        action="append",
        type=_meaning(words.value),
        help="having V in the bits of MASK",
    )
    group.add_argument(
        "--changes", action="store_true", help="with another value than the one before it there"
    )
    group.add_argument(
        "--symbol", metavar="S", action="append", help="from this function or call site, or a glob"
    )
    group.add_argument(
        "--vcpu", metavar="N", action="append", type=_meaning(words.vcpu), help="by this vCPU"
    )
    group.add_argument(
        "--time",
        metavar="[S]-[S]",
        action="append",
        type=_meaning(words.time),
        help="in these seconds of guest time",
    )
    group.add_argument(
        "--phase",
        metavar="P",
        action="append",
        help="in this phase: `vetrace stats` lists them; or a glob",
    )
    group.add_argument(
        "--from-mark", metavar="TEXT", type=phrase,
        help="after the first mark that has TEXT in it (or fits it as a glob)",
    )  # fmt: skip
    group.add_argument(
        "--to-mark", metavar="TEXT", type=phrase, help="before the first such mark after that"
    )
    add_register_files(parser)


def add_register_files(parser: argparse.ArgumentParser) -> None:
    """Declare the files that describe registers; :func:`register_maps` reads them."""
    parser.add_argument(
        "--registers", metavar="FILE", type=Path, action="append", default=[],
        help="name a device's registers as this file says (docs/registers.md); again for more",
    )  # fmt: skip


def register_maps(args: argparse.Namespace) -> RegisterMaps:
    """Return the maps that name registers: the files asked for, then vetrace's own."""
    return library.load(args.registers)


# Tells argparse of a text that means nothing, and keeps any other as it is.
def _meaning(long: Callable[[str], str]) -> Callable[[str], str]:
    def kept(text: str) -> str:
        long(text)
        return text

    return argument(kept)


def selection(args: argparse.Namespace) -> Selection:
    """Return what the filters on the command line say. Raises UsageError."""
    given: Words = {}
    for name in Words.__annotations__:
        if getattr(args, name) not in (None, False):
            given[name] = getattr(args, name)  # type: ignore[literal-required]  # it is one of them
    try:
        return chosen(given, tuple(args.conditions))
    except ConditionError as error:
        raise error.of("--if") from None
