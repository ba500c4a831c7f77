"""Addresses as people type them at the prompt.

An address is a sum: ``$rip``, ``nvme_reset_work+0x1c``, ``0xffffffff81000000``, ``$rsp - 8``.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from tracer.errors import UsageError, suggestion
from tracer.text.number import fitting, is_whole, whole
from tracer.x86.state import GPR, CpuState

_MASK = (1 << 64) - 1
_TERM = re.compile(r"\s*(\$?[\w.]+)\s*([-+]?)")

WIDTHS = {"b": 1, "h": 2, "w": 4, "g": 8, "1": 1, "2": 2, "4": 4, "8": 8}
"""Bytes of an access by GDB's unit letters, or as a number."""


def linear_address(text: str, cpu: CpuState | None, address_of: Callable[[str], int | None]) -> int:
    """Return the linear address that ``text`` is the sum of.

    ``cpu`` has the registers, None where no guest stands. Raises UsageError for a name that
    nothing has.
    """
    total, sign, at = 0, 1, 0
    while True:
        match = _TERM.match(text, at)
        if match is None:
            raise UsageError(f"{text!r} is no address: 0xffff…, $rip, a symbol, or a sum of these")
        total += sign * _term(match[1], cpu, address_of)
        at = match.end()
        if not match[2]:
            break
        sign = -1 if match[2] == "-" else 1
    if text[at:].strip():
        raise UsageError(f"{text[at:].strip()!r} does not belong to the address {text[:at]!r}")
    return total & _MASK


def register_value(text: str, cpu: CpuState | None, address_of: Callable[[str], int | None]) -> int:
    """Return what a 64-bit register is to hold: a number, or the sum that an address can be.

    Raises UsageError as :func:`linear_address` does.
    """
    if is_whole(text.removeprefix("-")):
        return fitting(text, 64)
    return linear_address(text, cpu, address_of)


def _term(text: str, cpu: CpuState | None, address_of: Callable[[str], int | None]) -> int:
    if text.startswith("$"):
        return _register(text[1:].lower(), cpu)
    if text[0].isdigit():
        return whole(text, "address")
    address = address_of(text)
    if address is None:
        raise UsageError(f"the kernel has no symbol {text}; `sym PATTERN` finds symbols")
    return address


def _register(name: str, cpu: CpuState | None) -> int:
    names = {"pc": "rip", "sp": "rsp", "fp": "rbp"}
    name = names.get(name, name)
    known = (*GPR, "rip", "rflags")
    if name not in known:
        near = suggestion(f"${name}", [f"${item}" for item in known])
        raise UsageError(f"there is no register ${name}{near}")
    if cpu is None:
        raise UsageError(f"${name} is known only while the guest stands")
    if name in GPR:
        return cpu.gpr[GPR.index(name)]
    return cpu.rip if name == "rip" else cpu.rflags
