"""How a guest ended, told from what its kernel printed and from how the run ended.

Ref: Linux, arch/x86/kernel/dumpstack.c (`Oops`, `RIP:`), arch/x86/kernel/traps.c (general
protection), mm/kasan/report.c, kernel/panic.c (`WARNING:`, `Kernel panic`), kernel/watchdog.c,
kernel/hung_task.c, kernel/rcu/tree_stall.h, lib/ubsan.c.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "kasan", "gpf", "oops", "soft lockup", "hard lockup", "stall", "hung task", "panic", "ubsan",
    "corruption", "hang", "failed", "warning", "script failed", "probe failed",
    "unfinished", "clean",
]  # fmt: skip
"""How a guest ended, in a word or two."""

_KINDS: tuple[tuple[Kind, re.Pattern[str]], ...] = (
    ("kasan", re.compile(r"BUG: (?:KASAN|KFENCE): ")),
    ("gpf", re.compile(r"general protection fault")),
    (
        "oops",
        re.compile(
            r"\bOops: |BUG: unable to handle|BUG: kernel NULL pointer|kernel BUG at |"
            r"invalid opcode: |divide error: |double fault: |stack segment: |PANIC: "
        ),
    ),
    ("soft lockup", re.compile(r"BUG: soft lockup")),
    ("hard lockup", re.compile(r"hard LOCKUP")),
    ("stall", re.compile(r"rcu: INFO: \S+ .*stall|INFO: rcu_\S+ .*stall")),
    ("hung task", re.compile(r"INFO: task .* blocked for more than")),
    ("panic", re.compile(r"Kernel panic - not syncing")),
    ("ubsan", re.compile(r"UBSAN: ")),
    ("corruption", re.compile(r"list_(?:add|del) corruption|BUG: Bad page|slab .*corrupt")),
)
"""A kernel prints these of each kind of end, the gravest first."""

_WARNING = re.compile(r"WARNING: CPU: ")
_FAILED = re.compile(
    r"vetrace-guest: (?:disk|network) .*(?:none|unreachable)$|vetrace-guest: module .* failed$"
)
_DRIVER = re.compile(r"probe .*failed|[Rr]emoving after probe failure|failed with error -\d+")
_GUEST = "vetrace-guest: "
_DONE = "vetrace-guest: done", "vetrace-guest: script status 0"
_SCRIPT = re.compile(r"vetrace-guest: script status [1-9]")

_STAMP = re.compile(r"^\[ *\d+\.\d+\](?:\[ *[TC]\d+\])? ")
_RIP = re.compile(r"RIP: [0-9a-f]{4}:(?P<site>\S+)(?P<module> \[\w+\])?")
_HEX = re.compile(r"0x[0-9a-f]+\Z")
_KASAN = re.compile(r"BUG: (?:KASAN|KFENCE): [\w-]+(?: \w+)? in (?P<site>\S+)")
_PANIC = re.compile(r"not syncing: (?P<site>.*)")
_STANDS = re.compile(r"vcpu0 is in (?P<site>.*)")
_HUNG = re.compile(r"had not ended after")


@dataclass(frozen=True, slots=True)
class Ending:
    """Say how a guest ended: ``site`` is the place in its code, ``line`` the first that tells.

    Either is empty where nothing tells.
    """

    kind: Kind
    site: str = ""
    line: str = ""


def ending(console: str, said: str, status: int) -> Ending:
    """Return how a guest ended.

    ``console`` is what it printed, ``said`` what vetrace had on standard error, ``status`` its
    exit status.
    """
    lines = [_STAMP.sub("", line.strip()) for line in console.splitlines()]
    for kind, pattern in _KINDS:
        found = next((n for n, line in enumerate(lines) if pattern.search(line)), None)
        if found is not None:
            return Ending(kind, _site(kind, lines[found:]), lines[found])
    complaint = _complaint(said)
    if _HUNG.search(said):
        stands = _STANDS.search(said)
        return Ending("hang", stands["site"] if stands else "", complaint)
    script = next((line for line in lines if _SCRIPT.match(line)), "")
    if script:
        return Ending("script failed", "", script)
    if status:
        return Ending("failed", "", complaint)
    for number, line in enumerate(lines):
        if _WARNING.search(line):
            return Ending("warning", _site("warning", lines[number:]), line)
    driver = next((line for line in lines if _DRIVER.search(line)), "")
    failed = next((line for line in lines if _FAILED.search(line)), "")
    if failed or driver:
        return Ending("probe failed", "", driver or failed)
    begun = [line for line in lines if line.startswith(_GUEST)]
    if begun and begun[-1] not in _DONE:
        return Ending("unfinished", "", begun[-1])
    return Ending("clean")


# The last line that vetrace said as a matter of its own.
def _complaint(said: str) -> str:
    told = [line for line in said.splitlines() if line.startswith("vetrace: ")]
    return told[-1].removeprefix("vetrace: ") if told else ""


# The place that a report names, which comes before the next one begins.
def _site(kind: Kind, lines: Sequence[str]) -> str:
    if kind == "kasan":
        told = _KASAN.search(lines[0])
        if told is not None:
            return _short(told["site"])
    if kind == "panic":
        told = _PANIC.search(lines[0])
        return told["site"] if told else ""
    for line in lines:
        told = _RIP.search(line)
        if told is not None:
            return _short(told["site"]) + (told["module"] or "")
    return ""


# A size behind the offset is left out: `nvme_pci_enable+0x55/0x3a0`.
def _short(site: str) -> str:
    return site.partition("/")[0]
