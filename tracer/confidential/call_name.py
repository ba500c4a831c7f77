"""The names by which a person names a call of a TDX guest: leaves of TDCALL, and hypercalls."""

from __future__ import annotations

from tracer.confidential.tdx_host import CALLS, Number
from tracer.confidential.tdx_leaf import LEAVES
from tracer.errors import UsageError, advice
from tracer.text.number import whole

LEAF_NAMES = {leaf.name: number for number, leaf in LEAVES.items()}
"""The leaves of TDCALL by name."""

HYPERCALL_NAMES = {
    "MMIO" if number == Number.MMIO else call.name.rpartition(".")[2]: number
    for number, call in CALLS.items()
}
"""The sub-functions of TDG.VP.VMCALL by the last part of their names; #VE.RequestMMIO is MMIO."""

_FULL_NAMES = {call.name.lstrip("#"): number for number, call in CALLS.items()}


def leaf_number(text: str) -> int:
    """Return the leaf that a name, with or without TDG in front, or a number means.

    Raises UsageError for a name that no leaf has.
    """
    names = LEAF_NAMES | {name.removeprefix("TDG."): n for name, n in LEAF_NAMES.items()}
    return _number(text, names, "leaf of TDCALL", LEAF_NAMES)


def hypercall_number(text: str) -> int:
    """Return the sub-function that a name or a number means. Raises UsageError likewise."""
    return _number(text.lstrip("#"), HYPERCALL_NAMES | _FULL_NAMES, "hypercall", HYPERCALL_NAMES)


def _number(text: str, names: dict[str, int], what: str, shown: dict[str, int]) -> int:
    if text[:1].isdigit():
        return whole(text, f"number of a {what}", bits=64)
    folded = {name.casefold(): number for name, number in names.items()}
    number = folded.get(text.casefold())
    if number is None:
        raise UsageError(f"no {what} is called {text}{advice(text, shown)}")
    return number
