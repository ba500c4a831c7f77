"""Why a vCPU stopped, in the stub's own words: stop replies of the remote protocol.

Ref: GDB manual, "Stop Reply Packets"; QEMU gdbstub (gdb_vm_state_change, gdb_append_thread_id).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tracer.errors import DebuggerError, TargetGone

SIGTRAP = 5
"""The signal of a breakpoint, a watchpoint, a single step."""

SIGQUIT = 3
"""The signal of a machine that has shut down."""

_REPLY = re.compile(r"T(?P<signal>[0-9a-f]{2})(?P<pairs>(?:[^:;]+:[^;]*;)*)")
_THREAD = re.compile(r"(?:p[0-9a-f]+\.)?(?P<number>[0-9a-f]+)")


@dataclass(frozen=True, slots=True)
class StopReply:
    """Hold one stop: the signal, and the vCPU that it is of.

    vCPUs count from 0, as QEMU numbers them; the protocol's threads count from 1.
    """

    signal: int
    vcpu: int


def parse_stop_reply(text: str) -> StopReply:
    """Return the stop that the stub tells of.

    Raises TargetGone when it tells of its end, DebuggerError for anything else.
    """
    if text[:1] in ("W", "X"):
        raise TargetGone
    found = _REPLY.fullmatch(text)
    if found is None:
        raise DebuggerError(f"QEMU's GDB stub answered {text[:40]!r} when it was told to run")
    pairs = dict(pair.split(":", 1) for pair in found["pairs"].split(";") if pair)
    thread = _THREAD.fullmatch(pairs.get("thread", ""))
    if thread is None:
        raise DebuggerError(f"QEMU's GDB stub does not say which vCPU stopped: {text[:40]!r}")
    return StopReply(signal=int(found["signal"], 16), vcpu=int(thread["number"], 16) - 1)
