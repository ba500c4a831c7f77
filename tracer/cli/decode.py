"""Explain one instruction: accesses, flags, verdicts, and with values its exact result."""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import sys
from dataclasses import replace
from typing import Any

import msgspec

from tracer.cli import EXIT_OK
from tracer.confidential.handler import Verdict
from tracer.errors import EmulationError, TracerError, UnsupportedInstruction, UsageError
from tracer.look.explanation import (
    EXCEPTIONS,
    Handled,
    Result,
    address,
    handled,
    perform,
    stepped_live,
    touch_words,
    touches,
    verdicts,
)
from tracer.text.number import fitting
from tracer.trace.registers import changed_values
from tracer.x86.bus import Load
from tracer.x86.code_text import read_code
from tracer.x86.decode import decode
from tracer.x86.instruction import Instruction, Touch
from tracer.x86.state import GPR, CpuState, Flag, Mode

_MODES = {"64": Mode.LONG, "32": Mode.COMPAT32, "16": Mode.COMPAT16}
_SEGMENT_STATE = ("cs", "ss", "ds", "es", "fs", "gs", "fs_base", "gs_base")
_STATE = ("cr0", "cr4", "cpl", "mxcsr", "fpu_control", "fpu_status", "fpu_tag")
_LONGEST_REPORT = 1 << 20  # characters


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``vetrace decode``."""
    parser.add_argument(
        "code", metavar="HEX", nargs="+",
        help="the bytes: 8b401c, 0x8b 0x40 0x1c, \\x8b\\x40; or what has them: the Code: line of an"
        " oops, of which the marked byte is the first, or a line of objdump or GDB; - reads it all"
        " from standard input",
    )  # fmt: skip
    parser.add_argument(
        "--rip", metavar="A", default="0", help="the linear address of the first byte (default 0)"
    )
    parser.add_argument(
        "--mode", choices=tuple(_MODES), default="64", help="the code segment (default 64)"
    )
    parser.add_argument(
        "--set", metavar="NAME=VALUE", nargs="+", action="extend", default=[], dest="values",
        help=f"the state before: rax … r15, rflags, xmm0 … xmm15, ymm0 … ymm15, st0 … st7, "
        f"{', '.join((*_SEGMENT_STATE, *_STATE))}; all else is 0 or as after reset",
    )  # fmt: skip
    parser.add_argument(
        "--load", metavar="VALUE", nargs="+", action="extend", default=[], dest="loads",
        help="what memory answers, or a port, a value for each load in order",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.epilog = (
        "The first instruction is explained; bytes after it, and before a marked one, are ignored"
        " and counted."
    )


def run(args: argparse.Namespace) -> int:
    """Print the explanation; return the exit status."""
    source = read_code(_standard_input() if args.code == ["-"] else " ".join(args.code))
    code = source.code
    rip, mode = _number("--rip", args.rip, 64), _MODES[args.mode]
    try:
        insn = decode(code, rip, mode)
    except EmulationError as error:
        raise TracerError(f"{error} in {args.mode}-bit mode; check the bytes and --mode") from None
    cpu = result = None
    if args.values or args.loads:
        cpu = _state(args.values, rip, mode)
        with contextlib.suppress(UnsupportedInstruction):  # told as `handled`
            result = perform(insn, cpu, [_number("--load", value, 512) for value in args.loads])
    known = {setting.partition("=")[0].lower() for setting in args.values}
    told = verdicts(
        insn,
        cpl=cpu.cpl if cpu is not None else 0,
        linear=address(insn, cpu, known) if cpu is not None else None,
    )
    ignored = source.before, len(code) - insn.length
    if args.json:
        shown = _object(insn, told, ignored)
        shown["result"] = _result_object(cpu, result) if cpu and result else None
        print(msgspec.json.encode(shown).decode())
        return EXIT_OK
    lines = _lines(insn, told, ignored)
    if cpu and result:
        lines += _result_lines(cpu, result)
    elif cpu:
        lines.append("  result     left to the CPU, so not known here")
    print("\n".join(lines))
    return EXIT_OK


def _standard_input() -> str:
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # a log may hold anything beside the bytes
    return sys.stdin.read(_LONGEST_REPORT)


def _number(option: str, text: str, bits: int) -> int:
    try:
        return fitting(text, bits)
    except UsageError as error:
        raise UsageError(f"{option}: {error}") from None


def _state(settings: list[str], rip: int, mode: Mode) -> CpuState:
    gpr, xmm, ymm, st = [0] * 16, [0] * 16, [0] * 16, [0] * 8
    fields: dict[str, int] = {}
    segments: dict[str, int] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        name = name.lower()
        if not equals:
            raise UsageError(f"--set {setting}: give a name and a value, such as rax=0x1")
        if name in GPR:
            gpr[GPR.index(name)] = _number(f"--set {name}", text, 64)
        elif name in _SEGMENT_STATE:
            segments[name] = _number(f"--set {name}", text, 64 if "base" in name else 16)
        elif name in ("rflags", "eflags", *_STATE):
            width = 2 if name == "cpl" else 16 if name.startswith("fpu") else 64
            fields["rflags" if name == "eflags" else name] = _number(f"--set {name}", text, width)
        elif (found := re.fullmatch(r"xmm(\d+)", name)) and int(found[1]) < 16:
            xmm[int(found[1])] = _number(f"--set {name}", text, 128)
        elif (found := re.fullmatch(r"ymm(\d+)", name)) and int(found[1]) < 16:
            value = _number(f"--set {name}", text, 256)
            ymm[int(found[1])], xmm[int(found[1])] = divmod(value, 1 << 128)
        elif found := re.fullmatch(r"st([0-7])", name):
            st[int(found[1])] = _number(f"--set {name}", text, 80)
        else:
            raise UsageError(
                f"--set {setting}: no {name} here; `vetrace decode --help` has the names"
            )
    state = CpuState(
        gpr=tuple(gpr), rip=rip, mode=mode, xmm=tuple(xmm), ymm=tuple(ymm), st=tuple(st)
    )
    fields["rflags"] = fields.get("rflags", 0) | 2
    return replace(
        state,
        segments=replace(state.segments, **segments),
        **fields,  # type: ignore[arg-type]
    )


def _after(cpu: CpuState, result: Result) -> dict[str, str]:
    after = changed_values(cpu, result.cpu)
    for number, (old, new) in enumerate(zip(cpu.st, result.cpu.st, strict=True)):
        if old != new:
            after[f"st{number}"] = new
    for name in ("fpu_status", "fpu_tag", "fpu_control"):
        if getattr(cpu, name) != getattr(result.cpu, name):
            after[name] = getattr(result.cpu, name)
    return {name: hex(value) for name, value in after.items()}


def _object(
    insn: Instruction, told: dict[str, Verdict], ignored: tuple[int, int]
) -> dict[str, Any]:
    form = insn.form
    leading, trailing = ignored
    return {
        "bytes": insn.code.hex(),
        "text": insn.text,
        "length": insn.length,
        "trailing_bytes": trailing,
        "leading_bytes": leading,
        "form": f"{form.opcode.text} {form.name}" if form is not None else None,
        "accesses": [_touch_object(touch) for touch in touches(insn)],
        "flags": {
            "written": _names(form.flags) if form is not None else None,
            "undefined": _names(form.undefined) if form is not None else None,
        },
        "handled": handled(insn),
        "live": "stepped" if stepped_live(insn) else handled(insn),
        "verdict": {
            name: {"outcome": v.outcome, "reason": v.reason, "note": v.note or None}
            for name, v in told.items()
        },
    }


def _touch_object(touch: Touch) -> dict[str, Any]:
    told: dict[str, Any] = {"direction": touch.direction, "width": touch.width}
    if touch.lanes is not None:
        told["lanes"] = touch.lanes.count
    if touch.some:
        told["some"] = True
    return told


def _result_object(cpu: CpuState, result: Result) -> dict[str, Any]:
    error = result.exception
    return {
        "accesses": [
            {
                "direction": "read" if isinstance(access, Load) else "write",
                "linear": hex(access.linear),
                "width": access.width,
                "value": hex(value),
            }
            for access, value in result.accesses
        ],
        "after": _after(cpu, result),
        "undefined_flags": _names(result.undefined),
        "iterations": result.iterations,
        "exception": error
        and {
            "vector": error.vector,
            "name": EXCEPTIONS.get(error.vector),
            "error_code": error.error_code,
        },
    }


def _names(flags: int) -> list[str]:
    return [flag.name or "" for flag in Flag if flag & flags]


_HANDLED: dict[Handled, str] = {
    "emulated": "emulated",
    "stepped": "by a native step: the vCPU carries it out itself, and the trace tells less",
    "none": "not needed: it touches no memory",
}


def _lines(insn: Instruction, verdicts: dict[str, Verdict], ignored: tuple[int, int]) -> list[str]:
    form = insn.form
    leading, trailing = ignored
    accesses = ", ".join(touch_words(touch) for touch in touches(insn)) or "none"
    told = [
        insn.text,
        f"  bytes      {insn.code.hex(' ')}  ({insn.length} bytes"
        + (f"; {leading} before the marked one" if leading else "")
        + (f"; {trailing} more not looked at)" if trailing else ")"),
        f"  accesses   {accesses}" + (" an iteration" if insn.rep else ""),
    ]
    if form is not None:
        written, undefined = " ".join(_names(form.flags)), " ".join(_names(form.undefined))
        told.append(
            f"  flags      {written or 'none written'}"
            + (f"; undefined: {undefined}" if undefined else "")
        )
        told.append(f"  form       {form.opcode.text} {form.name} {' '.join(form.operands)}")
    live = "; in a live guest by a native step: GDB cannot write its registers exactly"
    told.append(f"  handled    {_HANDLED[handled(insn)]}{live if stepped_live(insn) else ''}")
    width = max(map(len, verdicts))
    for name, verdict in verdicts.items():
        note = f"; but {verdict.note}" if verdict.note else ""
        told.append(f"  {name:<{width}}  {verdict.outcome}: {verdict.reason}{note}")
    return told


def _result_lines(cpu: CpuState, result: Result) -> list[str]:
    told = ["  result" + (f" of {result.iterations} iterations" if result.iterations > 1 else "")]
    for access, value in result.accesses:
        name = type(access).__name__.lower()
        told.append(f"    {name:<6} {access.width} bytes at {access.linear:#x}: {value:#x}")
    error = result.exception
    if error is not None:
        code = "" if error.error_code is None else f", error code {error.error_code:#x}"
        told.append(f"    raises {EXCEPTIONS.get(error.vector, error.vector)}{code}")
        return told
    told += [f"    {name:<6} = {value}" for name, value in _after(cpu, result).items()]
    if result.undefined:
        told.append(f"    undefined: {' '.join(_names(result.undefined))}")
    return told
