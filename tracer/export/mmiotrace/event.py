"""The same log as ``trace-cmd report`` and ``perf script`` print it: a line for each ftrace event.

Ref: Linux, kernel/trace/trace_entries.h (``mmiotrace_rw``, ``mmiotrace_map`` and what they print),
include/linux/mmiotrace.h ``enum mm_io_opcode``; trace-cmd, lib/trace-cmd (events dropped).
"""

from __future__ import annotations

import re

# Before the time are command, PID, CPU, and flags where they are wanted.
_EVENT = re.compile(
    r".{0,80}\[\d+\](?:[ \t]+[^ \t:]{1,8})?[ \t]+(?P<time>\d{1,10}\.\d{1,9}):[ \t]+"
    r"(?:ftrace:)?(?P<kind>mmiotrace_rw|mmiotrace_map|print|tracing_mark_write):[ \t]*(?P<told>.*)",
    re.ASCII | re.DOTALL,
)
_NUMBER = r"(?:0x)?([0-9a-f]{1,16})"
_RW = re.compile(rf"{_NUMBER} {_NUMBER} {_NUMBER} (-?\d+) ([1-5]) ([0-8])", re.ASCII)
_MAP = re.compile(rf"{_NUMBER} {_NUMBER} {_NUMBER} (-?\d+) ([1-5])", re.ASCII)
_DROPPED = re.compile(r"(CPU:\d+) \[(?:(\d+) )?EVENTS DROPPED\]", re.ASCII)


def kernel_line(text: str) -> str | None:
    """Return an event as the kernel's own log has it, or None for any other line."""
    dropped = _DROPPED.fullmatch(text)
    if dropped is not None:
        return f"{dropped[1]} [LOST {dropped[2] + ' ' if dropped[2] else ''}EVENTS]"
    found = _EVENT.fullmatch(text)
    if found is None:
        return None
    time, told = found["time"], " ".join(found["told"].split())
    match found["kind"]:
        case "mmiotrace_rw":
            return _access(time, told)
        case "mmiotrace_map":
            return _mapping(time, told)
        case _:
            marker = re.sub(r"^(?:[\w.]+: )*tracing_mark_write: ", "", found["told"])
            return f"MARK {time} {marker}"


def _access(time: str, told: str) -> str | None:
    found = _RW.fullmatch(told)
    if found is None:
        return None
    physical, value, pc, number, opcode, width = found.groups()
    place = f"{time} {number} 0x{physical}"
    match opcode:
        case "1":  # MMIO_READ
            return f"R {width} {place} 0x{value} 0x{pc} 0"
        case "2":  # MMIO_WRITE
            return f"W {width} {place} 0x{value} 0x{pc} 0"
        case "5":  # MMIO_UNKNOWN_OP
            code = f"{int(value, 16) & 0xFFFFFF:06x}"
            return f"UNKNOWN {place} {code[:2]},{code[2:4]},{code[4:]} 0x{pc} 0"
        case _:
            return None


def _mapping(time: str, told: str) -> str | None:
    found = _MAP.fullmatch(told)
    if found is None:
        return None
    physical, linear, length, number, opcode = found.groups()
    match opcode:
        case "3":  # MMIO_PROBE
            return f"MAP {time} {number} 0x{physical} 0x{linear} 0x{length} 0x0 0"
        case "4":  # MMIO_UNPROBE
            return f"UNMAP {time} {number} 0x0 0"
        case _:
            return None
