"""Look up the registers of devices: place, access right, bits, and where they are specified."""

from __future__ import annotations

import argparse
import re
import sys

import msgspec

from tracer.cli import EXIT_OK, register_import, terminal
from tracer.cli.filters import add_register_files, register_maps
from tracer.devices.directory import Listed, look_up
from tracer.devices.map import RegisterMap, RegisterMaps
from tracer.look.register_sheet import list_lines, map_lines, map_object, sheet_lines, sheet_object
from tracer.trace.layout import FILE_COLUMNS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``vetrace registers``."""
    parser.add_argument(
        "name", metavar="NAME", nargs="?",
        help="a register, as in CC, nvme.CC or nvme+0x14; a glob: nvme.*QS; a region: nvme;"
        " or the word import",
    )  # fmt: skip
    register_import.add_arguments(parser)
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object a register, or a map"
    )
    add_register_files(parser)
    parser.epilog = (
        "Without NAME: which register maps there are. One register is told in full, with its bits;"
        " of several each has a line. * as an index means all of an array. docs/registers.md has"
        " the format of a map. With `import FILE`: a map out of a CMSIS-SVD, SystemRDL or IP-XACT"
        " file."
    )


def run(args: argparse.Namespace) -> int:
    """Print what is known of the registers named; return the exit status."""
    if args.name == register_import.WORD:
        return register_import.run(args)
    register_import.check_arguments(args)
    maps = register_maps(args)
    shape = terminal.line_layout(sys.stdout)
    columns = shape.columns or FILE_COLUMNS
    if args.name is None:
        known = list(maps)
        objects = [map_object(each) for each in known]
        lines = map_lines(known, columns, shape.colour)
    else:
        found = look_up(args.name, _regions(args.name, maps))
        objects = [sheet_object(listed) for listed in found]
        lines = _lines(found, columns, shape.colour)
    if args.json:
        lines = [msgspec.json.encode(each).decode() for each in objects]
    for line in lines:
        print(line)
    return EXIT_OK


def _lines(found: list[Listed], columns: int, colour: bool) -> list[str]:
    if len(found) == 1:
        return sheet_lines(found[0], columns, colour)
    return list_lines(found, columns, colour)


# Without a guest, what is typed may be a region that a map is for: nvme, nvme#2, nvme.bar0, or
# QEMU's name of it; then no other map is read. Else each map stands for a region of its name.
def _regions(text: str, maps: RegisterMaps) -> dict[str, RegisterMap]:
    typed = [text[: match.start()] for match in re.finditer(r"[. +]|$", text)]
    found = {name: maps.of_region(name, name, name) for name in typed}
    named = {name: known for name, known in found.items() if known is not None}
    if named:
        return named
    own: dict[str, RegisterMap] = {}
    for known in maps:
        own.setdefault(known.name, known)
    return own
