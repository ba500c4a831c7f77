"""List the physical regions of a guest configuration, from QEMU itself."""

from __future__ import annotations

import argparse
import json
import sys

from tracer.access.region import RegionMap, check_choice
from tracer.cli import EXIT_OK, terminal
from tracer.cli.guest_arguments import add_guest_arguments, guest_plan, tell
from tracer.host import signals
from tracer.launch.plan import Plan
from tracer.launch.start import launch
from tracer.look.region import region_object


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``vetrace regions``."""
    parser.add_argument("--json", action="store_true", help="print one JSON object a region")
    add_guest_arguments(parser)
    parser.epilog = (
        "The guest runs up to its kernel's entry, so that firmware has given every device its"
        " address; the kernel may move some later."
    )


def run(args: argparse.Namespace) -> int:
    """Print the regions and which of them are traced; return the exit status."""
    plan = guest_plan(args)
    regions = signals.run(_regions(plan))
    rows = [
        region_object(region, traced=regions.is_traced_region(region)) for region in regions.regions
    ]
    if args.json:
        for row in rows:
            print(json.dumps(row))
    else:
        from rich.table import Table  # see terminal.table_console

        table = Table("region", "physical range", "size", "traced", "QEMU's name", box=None)
        table.columns[2].justify = "right"
        for row in rows:
            span = f"{row['start']}-{row['end']}"
            traced = "yes" if row["traced"] else "no"
            table.add_row(
                str(row["name"]), span, f"{row['size']:#x}", traced, str(row["qemu_name"])
            )
        terminal.table_console(sys.stdout).print(table)
    check_choice(regions.regions, plan.choice)
    return EXIT_OK


async def _regions(plan: Plan) -> RegionMap:
    async with launch(plan, progress=tell) as session:
        await session.reach_entry()
        return await session.refresh_regions()
