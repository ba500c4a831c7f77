"""What GDB prints on its console for people, where MI has no command that says the same.

Ref: GDB remote.c (send_remote_packet, print_packet), top.c (print_gdb_version); texts of several
versions are in ``tests/data``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from tracer.errors import DebuggerError

_ANSWER = re.compile(r'^received: "(.*)"$', re.MULTILINE)
_BANNER = re.compile(r"GNU gdb\b.*?(?P<version>\d+(?:\.\d+)*)\S*$")


def packet_answers(console: str, packets: Sequence[str]) -> list[str]:
    """Return the stub's answers to ``maint packet`` commands, as they were printed.

    A byte that is no printable ASCII is printed as ``\\x0a``, so each answer is one line. Raises
    DebuggerError when there is not one for each of the packets.
    """
    answers = _ANSWER.findall(console)
    if len(answers) != len(packets):
        raise DebuggerError(
            f"GDB showed {len(answers)} answers to {len(packets)} packets "
            f"({', '.join(packets)[:20]}): its `maint packet` prints {console[-80:]!r}"
        )
    return answers


def gdb_version(banner: str) -> tuple[int, ...] | None:
    """Return the numbers of the version in ``show version``, None when that is not GDB's text.

    What a distribution puts behind them (``16.3-1.fc41``) is left out.
    """
    first, _, _ = banner.partition("\n")
    found = _BANNER.match(first.strip())
    return None if found is None else tuple(map(int, found["version"].split(".")))
