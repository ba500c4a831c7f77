"""What a condition can ask about an access: names, their types, and registers."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import Literal, Protocol, get_args

from tracer.query.condition.lexicon import Lexicon
from tracer.trace.member import Space, Via
from tracer.x86.instruction import File, Register, operand_text
from tracer.x86.state import GPR

Fact = int | str | tuple[str, ...] | None
"""What a name stands for; None where it is not known."""


class Facts(Protocol):
    """Tell what is known of one access.

    That is asked for by the names of :data:`NAMES`, by ``$rax`` and its kin, and by those of
    :data:`OWNERS`, :data:`SITE`, :data:`COVERED`, :class:`Between` and :func:`memory`.
    """

    def __getitem__(self, name: str, /) -> Fact: ...


OWNERS = "owners of the region"
"""Every name that stands for a device which the region belongs to: texts."""

SITE = "site"
"""The call site with its module, as it is recorded; empty where none is known."""

COVERED = "covered registers"
"""The name of what is accessed, then those of the registers covered: texts, none without a name."""

MEMORY = "changes "
"""The beginning of the names of the facts that :func:`memory` makes."""


class Between(str):
    """Name the fact that tells whether an access is behind one mark, and before another."""

    first: str | None
    last: str | None

    def __new__(cls, first: str | None, last: str | None) -> Between:
        """Name it by its marks; None for no mark."""
        made = super().__new__(cls, f"mark in {first!r}..{last!r}")
        made.first, made.last = first, last
        return made


class Since(str):
    """Name the fact that tells by how much a number differs from what it was before."""

    run: Callable[[Facts], int]

    def __new__(cls, number: int, run: Callable[[Facts], int]) -> Since:
        """Name it by a number of its own, and how to evaluate what is compared."""
        made = super().__new__(cls, f"delta {number}")
        made.run = run
        return made


def memory(number: int) -> str:
    """Return the fact that tells for one asker whether the value is another than the one before."""
    return f"{MEMORY}{number}"


Type = Literal["number", "text", "texts", "truth"]
"""The types of values; `texts` are several, of which any may be meant."""

NAMES: dict[str, tuple[Type, str]] = {
    "value": ("number", "what is written or was read; unknown until the device has answered"),
    "offset": ("number", "in bytes from the region's start"),
    "width": ("number", "in bytes; 0 where a step hid it"),
    "extent": ("number", "bytes from the address on that can be touched: the width, if known"),
    "address": ("number", "physical address; of a port its number, of an MSR its index"),
    "data": ("number", "what a message (MSI) tells; unknown for all else"),
    "linear": ("number", "linear address"),
    "space": ("text", "what is accessed: memory, port, config, irq, msi, msr, cpuid or tsc"),
    "port": ("number", "number of an I/O port; unknown for all else"),
    "msr": ("number", "index of a model-specific register; unknown for all else"),
    "leaf": ("number", "leaf of CPUID: EAX; unknown for all else"),
    "subleaf": ("number", "subleaf of CPUID: ECX, heeded or not; unknown for all else"),
    "region": ("text", "the region's name: nvme.msix-table"),
    "device": ("text", "the device's name: nvme"),
    "register": ("text", "the register's name: CC; empty where none is known"),
    "symbol": ("text", "the call site: nvme_pci_enable+0x5e; empty where none is known"),
    "function": ("text", "the function of the call site: nvme_pci_enable"),
    "module": ("text", "the function's module; empty in the kernel itself"),
    "callers": ("texts", "functions under way: the call site's, and those that called it"),
    "direction": ("text", "read or write; unknown where a step hid it"),
    "vcpu": ("number", "number of the vCPU, from 0"),
    "cpl": ("number", "privilege level, 0 to 3"),
    "seq": ("number", "number of the access in the trace, from 0"),
    "time": ("number", "guest time in nanoseconds: time >= 1.5s"),
    "count": ("number", "how many accesses have fitted what stands before `if`, from 1"),
    "mnemonic": ("text", "the instruction's name, without prefixes: mov"),
    "via": ("text", "emulated, stepped, compiled, guest or monitor"),
    "cause": (
        "texts",
        "what sent an interrupt: nvme[1], lapic timer; each, where it may be several",
    ),
    "source": ("texts", "what sent a message (MSI): nvme[1], ioapic pin 4; each, likewise"),
    "phase": ("text", "the phase of the boot; empty where it is not known"),
    "mark": ("text", "the last marker before the access; empty before the first"),
    "changes": ("truth", "another value than the access before it there, of those asked about"),
}
"""Every name, with its type and what it stands for."""

VALUES: dict[str, tuple[str, ...]] = {
    "direction": ("read", "write", "unknown"),
    "via": get_args(Via),
    "space": get_args(Space),
}
"""Names that stand for one of few words."""


OF_KIND = frozenset(
    {
        "region", "device", "register", "offset", "width", "direction", "space", "via", "symbol",
        "function", "module", "mnemonic", "cause",
        "source",
    }
)  # fmt: skip
"""Names of facts that all records of one :meth:`kind <tracer.trace.block.Blocks.kinds>` have in
common."""


def _mnemonics() -> Collection[str]:
    from tracer.x86.disassembler import mnemonics  # capstone, for those who ask for an instruction

    return mnemonics()


def _is_mnemonic(word: str) -> bool:
    from tracer.x86.disassembler import is_mnemonic

    return is_mnemonic(word)


FIXED = {
    name: Lexicon(name, partial(tuple, words), growing=False) for name, words in VALUES.items()
} | {"mnemonic": Lexicon("instruction", _mnemonics, _is_mnemonic, growing=False)}
"""Names whose words are the same everywhere, as what these are checked against."""

TEXTS = frozenset(name for name, (kind, _) in NAMES.items() if kind in ("text", "texts"))
"""The names that stand for text, or for several."""


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
