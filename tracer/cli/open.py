"""Go through a trace at a prompt, forwards and back, or by a script: without a guest."""

from __future__ import annotations

import argparse
import asyncio

from tracer.cli.filters import add_register_files, register_maps
from tracer.cli.interactive import add_script_arguments, recording_wish, screen
from tracer.devices.map import RegisterMaps
from tracer.errors import UsageError
from tracer.repl.interruption import Interruption
from tracer.repl.playback import Playback
from tracer.repl.shell import Shell, Wish
from tracer.trace.reader import TraceReader
from tracer.trace.tape import Tape


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``vetrace open``."""
    parser.add_argument("trace", metavar="TRACE", help="a trace written by `vetrace boot`")
    add_script_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object a command")
    add_register_files(parser)
    parser.epilog = (
        "The prompt is that of `vetrace boot -i`, at an access that was made: step, next, until,"
        " break and continue go on, back, reverse-next and reverse-continue go back; plan, regs,"
        " bt, info, show and stats look. A trace that is cut, damaged or still written is gone"
        " through as far as it goes. docs/howto/open.md has more."
    )


def run(args: argparse.Namespace) -> int:
    """Open the trace; return the exit status."""
    wish = recording_wish(args)
    maps = register_maps(args)
    with TraceReader(args.trace) as reader:
        if not reader.is_file:
            raise UsageError(f"{reader.name} is read once, and a prompt goes back: give a file")
        interruption = Interruption(lambda text: None, person=False)
        interruption.begin()
        return asyncio.run(_converse(reader, maps, wish, interruption))


async def _converse(
    reader: TraceReader, maps: RegisterMaps, wish: Wish, interruption: Interruption
) -> int:
    task = asyncio.current_task()
    assert task is not None  # asyncio.run has made it
    interruption.install(task)
    tape = Tape(reader, maps)
    return await Shell(Playback(tape, maps), tape.naming, wish, interruption, screen).run()
