"""Boot a guest again and again, each time with other values from its devices."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tracer.campaign.job import Job, Outcome
from tracer.campaign.processes import run_jobs
from tracer.cli import EXIT_OK
from tracer.cli.extra import extra
from tracer.cli.guest_arguments import tell
from tracer.cli.hosting import parse_seed
from tracer.cli.output import output_file
from tracer.cli.parser import passed_on
from tracer.cli.phrase import phrase
from tracer.confidential.kind import Kind
from tracer.errors import GuestError, Interrupted, UsageError
from tracer.host import signals
from tracer.host.named_file import check_output, replacing
from tracer.host.signals import Ended, words_of
from tracer.repl.hosting import hosting
from tracer.text.number import whole
from tracer.text.printable import printable

_MOST_SEEDS = 1_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``vetrace campaign``."""
    parser.add_argument(
        "--mutate", metavar="'[read|write] [PLACE] [if ...]'", required=True, type=phrase,
        help="the accesses of which some get other values, such as 'read nvme'",
    )  # fmt: skip
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--seeds", metavar="N", help="a boot for each seed from 0, or --first, on")
    which.add_argument("--seed", metavar="N", help="this seed alone")
    parser.add_argument("--first", metavar="N", default="0", help="the first seed (default: 0)")
    parser.add_argument(
        "-o",
        "--output",
        metavar="TABLE",
        type=output_file,
        help="write the outcomes here, as Parquet",
    )
    parser.add_argument(
        "--jobs", metavar="N", default="1", help="boots at a time (default: %(default)s)"
    )
    parser.add_argument(
        "--guest", choices=[kind.value for kind in Kind], default=Kind.PLAIN.value,
        help="the kind of guest: a confidential one is refused accesses too (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "words", metavar="BOOT OPTIONS", nargs="*", type=passed_on,
        help="after --: more options of `vetrace boot`, and after another -- QEMU's arguments",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Run the campaign; return the exit status."""
    hosting((), None, (args.mutate, 0))  # raises what is wrong with the words
    jobs = _jobs(args)
    most = whole(args.jobs, "number of jobs", least=1, bits=16)
    if args.output is not None:
        check_output(args.output)
        with extra("pyarrow"):
            import tracer.campaign.table  # noqa: F401 - what it needs is told before hours of work
    campaign = _Campaign(len(jobs))
    try:
        signals.run(run_jobs(jobs, most, campaign.take))
    except Ended as end:
        _write(campaign.outcomes, args.output)
        told = f"{words_of(end.number)}; {len(campaign.outcomes)} of {len(jobs)} boots had ended"
        kept = f", kept in {args.output}" if args.output is not None and campaign.outcomes else ""
        raise Interrupted(end.number, told + kept) from None
    for line in summary(campaign.outcomes):
        print(line)
    _write(campaign.outcomes, args.output)
    return EXIT_OK


def _jobs(args: argparse.Namespace) -> list[Job]:
    words = list(args.words)
    at = words.index("--") if "--" in words else len(words)
    if args.seed is not None:
        seeds = [parse_seed(args.seed)]
    else:
        first = parse_seed(args.first)
        count = whole(args.seeds, "number of seeds", least=1)
        if count > _MOST_SEEDS:
            raise UsageError(f"--seeds {args.seeds}: {_MOST_SEEDS:,} at most")
        parse_seed(str(first + count - 1))  # the last one is told before the first is booted
        seeds = list(range(first, first + count))
    options, qemu = tuple(words[:at]), tuple(words[at + 1 :])
    return [Job(seed, args.mutate, options, qemu, args.guest) for seed in seeds]


class _Campaign:
    # The outcomes so far, told a line a boot.

    def __init__(self, count: int) -> None:
        self.outcomes: list[Outcome] = []
        self._count = count
        self._begun = time.monotonic()

    def take(self, each: Outcome) -> None:
        if each.misused:
            raise UsageError(each.ending.line)
        if not each.begun and each.ending.kind == "failed" and not self.outcomes:
            raise GuestError(f"the first boot has come to nothing: {each.ending.line}")
        self.outcomes.append(each)
        tell(f"{len(self.outcomes)}/{self._count}  {outcome_line(each)}{self._left()}")

    def _left(self) -> str:
        done = len(self.outcomes)
        left = (time.monotonic() - self._begun) / done * (self._count - done)
        return f"  (about {_duration(left)} left)" if left else ""


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{round(seconds)} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h"


def outcome_line(each: Outcome) -> str:
    """Return in a line how a boot ended."""
    end = each.ending
    site = f" at {end.site}" if end.site else ""
    line = f": {end.line}" if end.line else ""
    refused = f", {each.refused:,} of them refused" if each.refused else ""
    return printable(
        f"seed {each.job.seed}, {each.mutated:,} mutated{refused}: {end.kind}{site}{line}"
    )


def summary(outcomes: Sequence[Outcome]) -> list[str]:
    """Return how often each end came, and for each the command that boots the first one again."""
    ends = Counter(map(_end, outcomes))
    lines = []
    for end, count in sorted(ends.items(), key=lambda item: (-item[1], item[0])):
        first = min(
            (each for each in outcomes if _end(each) == end), key=lambda each: each.job.seed
        )
        kind, site, by = end
        at = printable(f" at {site}" if site else "")
        lines.append(f"{count:5}  {kind}{at}{by}")
        if kind != "clean":
            lines.append(f"       {first.job.command}")
    return lines


# An end's kind and its site; a confidential guest's also tells whether the host has refused.
def _end(each: Outcome) -> tuple[str, str, str]:
    by = ""
    if each.ending.kind != "clean" and each.job.guest != Kind.PLAIN and each.mutated:
        by = ", an access was refused" if each.refused else ", by values alone"
    return each.ending.kind, each.ending.site, by


def _write(outcomes: Sequence[Outcome], output: Path | None) -> None:
    if output is None or not outcomes:
        return
    from tracer.campaign import table

    with replacing(output) as sink:
        table.write(outcomes, sink)
