"""QEMU's options: their names, and which words belong together.

Ref: QEMU qemu-options.hx; softmmu/vl.c (lookup_opt).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

MACHINE = ("machine", "M")
"""Names of the option that says what machine it is."""


def option_name(word: str) -> str:
    """Return the name of a QEMU option, spelt with one hyphen or two; nothing for what is none."""
    return word.lstrip("-") if word.startswith("-") else ""


def options(arguments: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Return each option of QEMU arguments, with its value where it has one."""
    at = 0
    while at < len(arguments):
        end = at + 1
        if end < len(arguments) and not option_name(arguments[end]):
            end += 1
        yield tuple(arguments[at:end])
        at = end
