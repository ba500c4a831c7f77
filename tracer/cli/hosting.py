"""The arguments that say what becomes of accesses."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_host_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments; :func:`tracer.repl.hosting.hosting` makes sense of them."""
    group = parser.add_argument_group("what becomes of accesses (docs/rules.md)")
    group.add_argument(
        "--rule", metavar="TEXT", action="append", default=[],
        help="such as 'on read nvme.CSTS once do give 0xffffffff'; again for more",
    )  # fmt: skip
    group.add_argument(
        "--host", metavar="FILE", type=Path,
        help="rules, one a line, or Python with mmio(access) where the name ends in .py",
    )  # fmt: skip
