"""Texts that GDB prints on its console for people, where MI has no command that says the same.

Ref: GDB remote.c (send_remote_packet, print_packet), top.c (print_gdb_version); GDB manual,
"Packets", "Stop Reply Packets"; texts of several versions are in ``tests/data``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from tracer.errors import DebuggerError, ProtocolError, TargetGone

_ANSWER = re.compile(r'^received: "(.*)"$', re.MULTILINE)
_REFUSED = re.compile(r"E(?:[0-9a-fA-F]{2}|\..*)")
_ENDED = re.compile(r"[WX][0-9a-fA-F]{2}.*")
_BYTES = re.compile(r"(?:[0-9a-fA-Fx]{2})+")
_BANNER = re.compile(r"GNU gdb\b.*?(?P<version>\d+(?:\.\d+)*)\S*$")


def packet_answers(console: str, packets: Sequence[str]) -> list[str]:
    """Return the stub's answers to ``maint packet`` commands, as they were printed.

    A byte that is no printable ASCII is printed as ``\\x0a``, so each answer is one line. Raises
    DebuggerError when there is not one for each of the packets, ProtocolError when one cannot be
    the answer to its packet, and TargetGone when it is that the guest has ended.
    """
    answers = _ANSWER.findall(console)
    if len(answers) != len(packets):
        raise DebuggerError(
            f"GDB showed {len(answers)} answers to {len(packets)} packets "
            f"({', '.join(packets)[:20]}): its `maint packet` prints {console[-80:]!r}"
        )
    for packet, answer in zip(packets, answers, strict=True):
        if _ENDED.fullmatch(answer):
            raise TargetGone
        if not _belongs(answer, packet):
            raise ProtocolError(packet, answer)
    return answers


def _belongs(answer: str, packet: str) -> bool:
    # The packet's first letter tells whether an answer can be one to it.
    if not answer or _REFUSED.fullmatch(answer):
        return True
    if packet.startswith("qXfer:"):
        return answer[0] in "ml"
    match packet[0]:
        case "m":
            width = int(packet.partition(",")[2], 16)
            return bool(_BYTES.fullmatch(answer)) and len(answer) == 2 * width
        case "g":
            return bool(_BYTES.fullmatch(answer))
        case "M" | "P" | "Z" | "z" | "Q":
            return answer == "OK"
    return True


def gdb_version(banner: str) -> tuple[int, ...] | None:
    """Return the numbers of the version in ``show version``, None when that is not GDB's text.

    What a distribution puts behind them (``16.3-1.fc41``) is left out.
    """
    first, _, _ = banner.partition("\n")
    found = _BANNER.match(first.strip())
    return None if found is None else tuple(map(int, found["version"].split(".")))
