"""What a condition can ask about an access: names, their types, and registers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Literal

from tracer.query.condition.lexicon import Lexicon
from tracer.x86.instruction import File, Register, operand_text
from tracer.x86.state import GPR

Fact = int | str | None
"""What a name stands for; None where it is not known."""

Facts = Mapping[str, Fact]
"""What is known of one access, by the names of :data:`NAMES`, and by ``$rax`` and its kin."""

Type = Literal["number", "text", "truth"]

NAMES: dict[str, tuple[Type, str]] = {
    "value": ("number", "what is written or was read; unknown until the device has answered"),
    "offset": ("number", "in bytes from the region's start"),
    "width": ("number", "in bytes"),
    "address": ("number", "physical address"),
    "linear": ("number", "linear address"),
    "region": ("text", "the region's name: nvme.msix-table"),
    "device": ("text", "the device's name: nvme"),
    "register": ("text", "the register's name: CC; empty where none is known"),
    "symbol": ("text", "the call site: nvme_pci_enable+0x5e; empty where none is known"),
    "function": ("text", "the function of the call site: nvme_pci_enable"),
    "module": ("text", "the function's module; empty in the kernel itself"),
    "direction": ("text", "read or write"),
    "vcpu": ("number", "number of the vCPU, from 0"),
    "cpl": ("number", "privilege level, 0 to 3"),
    "seq": ("number", "number of the access in the trace, from 0"),
    "time": ("number", "guest time in nanoseconds: time >= 1.5s"),
    "count": ("number", "how many accesses have fitted what stands before `if`, from 1"),
    "mnemonic": ("text", "the instruction's name, without prefixes: mov"),
    "via": ("text", "emulated or stepped"),
    "phase": ("text", "the phase of the boot; empty where it is not known"),
}
"""Every name, with its type and what it stands for."""

VALUES: dict[str, tuple[str, ...]] = {
    "direction": ("read", "write"),
    "via": ("emulated", "stepped"),
}
"""Names that stand for one of few words."""

FIXED = {
    name: Lexicon(name, partial(tuple, words), growing=False) for name, words in VALUES.items()
}
"""The same, as what words are checked against."""

TEXTS = frozenset(name for name, (kind, _) in NAMES.items() if kind == "text")
"""The names that stand for text."""


def _register_parts() -> dict[str, tuple[str, int, int]]:
    # `ah` is ("rax", 8, 0xff): the full register, a shift and a mask.
    parts = {"rip": ("rip", 0, (1 << 64) - 1), "eip": ("rip", 0, (1 << 32) - 1)}
    parts |= {"rflags": ("rflags", 0, (1 << 64) - 1), "eflags": ("rflags", 0, (1 << 32) - 1)}
    for number, full in enumerate(GPR):
        for width in (8, 4, 2, 1):
            name = operand_text(Register(File.GPR, number, width))
            parts[name] = (full, 0, (1 << 8 * width) - 1)
        if number < 4:
            high = operand_text(Register(File.GPR, number, 1, high=True))
            parts[high] = (full, 8, 0xFF)
    return parts


REGISTERS = _register_parts()
"""Registers and their parts by name: the full register, how far to shift it right, and a mask."""
