"""Decoding and executing one instruction, beside capstone alone and unicorn."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import capstone
import unicorn
from unicorn import x86_const as uc

from scripts.benchmark.result import Result
from scripts.benchmark.yardstick import in_laps
from tracer.x86 import decode as decoder
from tracer.x86 import modrm
from tracer.x86.bus import Load
from tracer.x86.decode import decode
from tracer.x86.emulate import execute
from tracer.x86.instruction import Instruction
from tracer.x86.state import GPR, CpuState, Mode

COLD_LIMIT, CACHED_LIMIT = 3.7, 1.0
"""Laps of the yardstick for decoding and executing an instruction never seen, and one seen
before."""

_CODE, _DATA = 0x4000_0000, 0x10_0000
_RAM = 0x100_0000  # from 0 on: room for an index scaled by 8
_ROUNDS = 300
# Instructions that drivers use on devices, and those that are hardest to decode and to execute.
_SAMPLE = tuple(
    bytes.fromhex(code)
    for code in (
        "8b401c", "89b700d0ffff", "66893e", "8a07", "488b03", "488911", "8903", "0fb603",
        "c70301000000", "8b44cb10", "0103", "f00fb10b", "f00fba2b05", "480fc103", "a5", "ab",
        "d123", "0f1103",
    )
)  # fmt: skip
_POINTERS = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi")


def cost_of_decoding() -> Result:
    """Compare decoding an instruction with capstone alone."""
    cold = _each(_decode_cold)
    cached = _each(lambda code: _timed(lambda: decode(code, _CODE, Mode.LONG)))
    text = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    details = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    details.detail = True
    return Result(
        f"One instruction, the median of {len(_SAMPLE)} typical ones, each the median of {_ROUNDS} "
        "rounds. Cold: every cache empty. Cached: the same bytes at the same address again.",
        (
            ("decode, cold", _us(cold)),
            ("decode, cached", _us(cached)),
            ("capstone alone, text", _us(_each(lambda code: _timed(lambda: _text(text, code))))),
            (
                "capstone alone, operands",
                _us(_each(lambda code: _timed(lambda: _operands(details, code)))),
            ),
        ),
    )


def cost_of_executing() -> Result:
    """Compare decoding and executing an instruction with unicorn."""
    cpu = _state()
    alone = _each(lambda code: _execute(decode(code, _CODE, Mode.LONG), cpu))
    cold, cold_laps = _beside(
        lambda code: _decode_cold(code) + _execute(decode(code, _CODE, Mode.LONG), cpu)
    )
    cached, cached_laps = _beside(
        lambda code: _timed(lambda: _run(decode(code, _CODE, Mode.LONG), cpu))
    )
    return Result(
        f"One instruction, the median of {len(_SAMPLE)} typical ones, each the median of {_ROUNDS} "
        "rounds; memory answers at once. Unicorn runs the same bytes on RAM, "
        "translated before. Limits are in laps of a fixed piece of plain Python, one run beside "
        "each round.",
        (
            ("execute, decoded before", _us(alone)),
            ("decode and execute, cold", _us(cold)),
            ("decode and execute, cached", _us(cached)),
            ("unicorn", _us(_each(_Unicorn()))),
            ("cold : a lap of plain Python", f"{cold_laps:7.2f}      (limit {COLD_LIMIT})"),
            ("cached : a lap of plain Python", f"{cached_laps:7.2f}      (limit {CACHED_LIMIT})"),
        ),
        kept=cold_laps <= COLD_LIMIT and cached_laps <= CACHED_LIMIT,
    )


def _each(measure: Callable[[bytes], float]) -> list[float]:
    # The median in microseconds of each instruction of the sample.
    return [median(measure(code) for _ in range(_ROUNDS)) * 1e6 for code in _SAMPLE]


def _beside(measure: Callable[[bytes], float]) -> tuple[list[float], float]:
    # The same, and the median of the sample in laps of the yardstick.
    found = [in_laps(partial(measure, code), _ROUNDS) for code in _SAMPLE]
    return [seconds * 1e6 for seconds, _ in found], median(laps for _, laps in found)


def _us(figures: list[float]) -> str:
    return f"{median(figures):7.2f} us   (least {min(figures):.2f}, most {max(figures):.2f})"


def _timed(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def _decode_cold(code: bytes) -> float:
    for cached in (decoder._decode_at, decoder._decode_known, modrm._register):
        cached.cache_clear()
    return _timed(lambda: decode(code, _CODE, Mode.LONG))


def _text(cs: capstone.Cs, code: bytes) -> object:
    return list(cs.disasm_lite(code, _CODE, 1))


def _operands(cs: capstone.Cs, code: bytes) -> object:
    return [[operand.type for operand in insn.operands] for insn in cs.disasm(code, _CODE, 1)]


def _state() -> CpuState:
    gpr = tuple(_DATA if name in _POINTERS else 0 for name in GPR)
    return CpuState(gpr=gpr, rip=_CODE, xmm=(0,) * 16)


def _execute(insn: Instruction, cpu: CpuState) -> float:
    return _timed(lambda: _run(insn, cpu))


def _run(insn: Instruction, cpu: CpuState) -> CpuState:
    emulation = execute(insn, cpu)
    for access in emulation:
        if isinstance(access, Load):
            emulation.answer = 0x5A
    return emulation.after


class _Unicorn:
    def __init__(self) -> None:
        machine: Any = vars(unicorn)["Uc"](unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)  # untyped
        machine.mem_map(_CODE, 0x1000)
        machine.mem_map(0, _RAM)
        self._machine = machine
        self._code = b""

    def __call__(self, code: bytes) -> float:
        machine = self._machine
        if code != self._code:
            machine.ctl_remove_cache(_CODE, _CODE + 64)
            machine.mem_write(_CODE, code + b"\x90" * 16)
            self._code = code
        for name in _POINTERS:
            machine.reg_write(getattr(uc, f"UC_X86_REG_{name.upper()}"), _DATA)
        return _timed(lambda: machine.emu_start(_CODE, _CODE + len(code)))
