"""A Linux guest's last words among the lines that it printed: a panic and its oops, or a halt.

Ref: Linux arch/x86/kernel/dumpstack.c (`__die_header`, `show_ip`, `oops_end`), arch/x86/mm/fault.c
(`show_fault_oops`), lib/bug.c (`__report_bug`), kernel/panic.c, kernel/reboot.c (`kernel_halt`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_PANIC = "Kernel panic - not syncing"
_REST = re.compile(r"reboot: System halted|---\[ end Kernel panic - not syncing.*")
"""The last line of a kernel that does nothing more: it cannot power off, or panicked to stay."""
_STAMP = re.compile(r"\[ *\d+\.\d+\](?:\[ *[TC]\d+\])? ")
"""Time and caller in front of a kernel line (Linux kernel/printk/printk.c, info_print_prefix)."""
_DEATH = re.compile(r"(?P<what>.+?): [0-9a-f]{4} \[#\d+\]")
"""The line of an oops that has its error code, and its number since the boot."""
_CAUSE = re.compile(r"BUG: |kernel BUG at ")
"""A line that begins so names the fault; it stands a few lines before that one, if at all."""
_RIP = re.compile(r"RIP: [0-9a-f]{4}:(?P<place>[^/ ]+)")
_BEFORE = 8  # lines


def panic(console: Sequence[str]) -> str | None:
    """Return in one line that the kernel panicked, and after which oops, if any.

    ``console`` are the lines that the guest has printed. None where it has not panicked.
    """
    said = [text for text in _of_the_kernel(console) if text is not None]
    last = next((at for at in reversed(range(len(said))) if said[at].startswith(_PANIC)), None)
    if last is None:
        return None
    oops = _oops(said[:last])
    return said[last] if oops is None else f"{said[last]}, after {oops}"


def at_rest(console: Sequence[str]) -> bool:
    """Tell whether the kernel does nothing more, by the last of the lines that were printed."""
    *_, last = None, *_of_the_kernel([line for line in console if line.strip()])
    return last is not None and _REST.fullmatch(last) is not None


def _of_the_kernel(console: Sequence[str]) -> list[str | None]:
    # Each line without its stamp, or None for another's: the kernel's own have stamps where any
    # line has one, as a program can print the rest.
    parted = [_parted(line) for line in console]
    stamped = any(stamp for stamp, _ in parted)
    return [text if bool(stamp) == stamped else None for stamp, text in parted]


def _parted(line: str) -> tuple[str, str]:
    # A line's stamp, and what is behind it.
    stamp = _STAMP.match(line)
    end = stamp.end() if stamp else 0
    return line[:end], line[end:]


def _oops(said: Sequence[str]) -> str | None:
    deaths = [(at, found["what"]) for at, line in enumerate(said) if (found := _DEATH.match(line))]
    if not deaths:
        return None
    # The others follow from the first.
    at, what = deaths[0]
    before = said[max(0, at - _BEFORE) : at]
    cause = next((line for line in reversed(before) if _CAUSE.match(line)), what)
    place = _first_place(said[at:])
    return cause if place is None else f"{cause}, at {place}"


def _first_place(said: Iterable[str]) -> str | None:
    # A program's RIP comes behind the kernel's, where a system call led there.
    found = (_RIP.match(line) for line in said)
    return next((match["place"] for match in found if match), None)
