"""The code that all compiled sites share, and the few bytes of the stub that lead to it.

``source/common.S`` has the source. A kind of guest has its own image: with several vCPUs there is a
lock, and with linear addresses of 57 bits one more level to walk.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from tracer.compiled import layout
from tracer.compiled.image import IMAGES


@dataclass(frozen=True, slots=True)
class CommonCode:
    """Hold the bytes for :data:`layout.CODE`, and where thunks go to; offsets are in the block.

    At ``compare`` and ``other`` a thunk answers whether CR2 is its operand's own address, or at
    ``walk`` where that is no question. ``refuse`` is for a thunk that has touched nothing yet;
    ``ram`` looks up an operand in RAM. ``stacks`` copies the stack before it goes on to a thunk,
    ``deadline`` looks at the time, and ``behind`` just goes on. ``stopped`` is for a site of which
    each access is to go the slow way. In a monitor a thunk's ``origin`` is called for the operand's
    address, so nothing is compared, and a thunk ends at ``done``.
    """

    code: bytes
    fast: int
    refuse: int
    ram: int
    stacks: int
    deadline: int
    behind: int
    stopped: int
    compare: int = 0
    walk: int = 0
    other: int = 0
    done: int | None = None


def common_code(*, smp: bool, la57: bool, nested: bool = False) -> CommonCode:
    """Return the common code of a guest: of several vCPUs, with linear addresses of 57 bits.

    With ``nested`` traps it runs in the monitor.
    """
    code, labels = IMAGES[smp, la57, nested]
    return CommonCode(
        bytes.fromhex(code), **{name: layout.CODE + place for name, place in labels.items()}
    )


def entry(here: int, slow: int, fast: int) -> bytes:
    """Return what the stub runs first on a poisoned entry; ``here`` and the others are linear.

    RSP is at the error code, every register as interrupted. User code goes the slow way at once:
    under PTI its page tables do not have the window.
    """
    code = b"\xf6\x44\x24\x10\x03"  # test byte ptr [rsp + 16], 3
    code += b"\x0f\x85" + struct.pack("<i", slow - here - len(code) - 6)  # jnz slow
    return code + b"\xff\x25" + bytes(4) + struct.pack("<Q", fast)  # jmp [rip]
