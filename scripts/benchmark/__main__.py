"""Run benchmarks by name: see ``scripts/bench``."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Callable, Sequence

from scripts.benchmark.access import cost_of_an_access
from scripts.benchmark.block import speed_of_blocks
from scripts.benchmark.boot import (
    cost_of_a_boot,
    cost_of_a_compiled_boot,
    cost_of_a_tdx_boot,
    cost_of_an_sev_es_boot,
    cost_of_inputs,
    cost_of_nested_traps,
    cost_of_other_kernels,
    coverage_of_other_drivers,
)
from scripts.benchmark.compiled import cost_of_a_compiled_access
from scripts.benchmark.instruction import cost_of_decoding, cost_of_executing
from scripts.benchmark.memory import memory_of_a_long_run
from scripts.benchmark.opening import latency_of_opening
from scripts.benchmark.page import speed_of_a_page
from scripts.benchmark.prompt import latency_of_a_prompt
from scripts.benchmark.result import Result
from scripts.benchmark.trace import speed_of_traces
from scripts.benchmark.witness import faults_in_a_log
from tracer.errors import TracerError

BENCHMARKS: dict[str, Callable[[], Result]] = {
    "access": cost_of_an_access,
    "blocks": speed_of_blocks,
    "boot": cost_of_a_boot,
    "compiled": cost_of_a_compiled_access,
    "compiled-boot": cost_of_a_compiled_boot,
    "coverage": coverage_of_other_drivers,
    "decode": cost_of_decoding,
    "execute": cost_of_executing,
    "inputs": cost_of_inputs,
    "kernels": cost_of_other_kernels,
    "nested": cost_of_nested_traps,
    "memory": memory_of_a_long_run,
    "open": latency_of_opening,
    "prompt": latency_of_a_prompt,
    "report": speed_of_a_page,
    "sev-es-boot": cost_of_an_sev_es_boot,
    "tdx-boot": cost_of_a_tdx_boot,
    "trace": speed_of_traces,
    "witness": faults_in_a_log,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run what ``argv`` names, everything without names; return the exit status."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Measure vetrace.")
    parser.add_argument("names", metavar="NAME", nargs="*", help="benchmarks, all by default")
    parser.add_argument("--list", action="store_true", help="list the benchmarks")
    args = parser.parse_args(argv)
    if args.list:
        for name, benchmark in BENCHMARKS.items():
            print(f"{name:<14} {(benchmark.__doc__ or '').splitlines()[0]}")
        return 0
    unknown = [name for name in args.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    kept = True
    for name in args.names or BENCHMARKS:
        try:
            result = BENCHMARKS[name]()
        except TracerError as error:
            print(f"scripts/bench: {name}: {error}", file=sys.stderr)
            return 1
        show(name, result)
        kept = kept and result.kept
    return 0 if kept else 1


def show(name: str, result: Result) -> None:
    """Print what one benchmark found."""
    print(f"\n{name}")
    print(textwrap.fill(result.measured, 96, initial_indent="  ", subsequent_indent="  "))
    width = max(len(label) for label, _ in result.rows)
    for label, figure in result.rows:
        print(f"    {label:<{width}}  {figure}", flush=True)
    if not result.kept:
        print("    LIMIT NOT KEPT")


if __name__ == "__main__":
    sys.exit(main())
