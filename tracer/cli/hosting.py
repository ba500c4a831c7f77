"""The arguments that say what becomes of accesses."""

from __future__ import annotations

import argparse
from pathlib import Path

from tracer.cli.phrase import phrase
from tracer.confidential.kind import Kind
from tracer.errors import UsageError
from tracer.repl.hosting import Hosting, hosting
from tracer.text.number import whole


def add_host_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments; :func:`asked` makes sense of them."""
    group = parser.add_argument_group("what becomes of accesses (docs/rules.md)")
    group.add_argument(
        "--rule", metavar="TEXT", type=phrase, action="append", default=[],
        help="such as 'on read nvme.CSTS once do give 0xffffffff'; again for more",
    )  # fmt: skip
    group.add_argument(
        "--host", metavar="FILE", type=Path,
        help="rules, one a line, or Python with mmio(access) where the name ends in .py",
    )  # fmt: skip
    group.add_argument(
        "--mutate", metavar="'[read|write] [PLACE] [if ...]'", type=phrase,
        help="give some of these accesses values of --seed (see `vetrace campaign`)",
    )  # fmt: skip
    group.add_argument("--seed", metavar="N", help="what --mutate draws from (default: 0)")


def asked(args: argparse.Namespace) -> Hosting:
    """Return what the arguments ask for. Raises UsageError."""
    kind = Kind(args.guest)
    if args.mutate is None:
        if args.seed is not None:
            raise UsageError("--seed is for --mutate: say which accesses")
        return hosting(args.rule, args.host, kind=kind)
    seed = 0 if args.seed is None else parse_seed(args.seed)
    return hosting(args.rule, args.host, (args.mutate, seed), kind=kind)


def parse_seed(text: str) -> int:
    """Return a seed. Raises UsageError."""
    return whole(text, "seed", bits=64)
