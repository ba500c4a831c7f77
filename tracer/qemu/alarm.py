"""The alarm of a machine that sleeps (ACPI S3), whose clock counts instructions.

No instruction is carried out while it sleeps, so its time stands still and the alarm would never
come. A guest that idles has its clock set to the next timer; one that sleeps is woken at once.

Ref: QEMU softmmu/icount-common.c (icount_start_warp_timer does nothing unless the machine runs),
hw/rtc/mc146818rtc.c (register B, bit 5: the alarm raises an interrupt).
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

_SELECT = "o /b 0x70 0x0b"
_READ = "i /b 0x71"
_VALUE = re.compile(r"= 0x([0-9a-f]+)")
_ALARM = 1 << 5


async def is_set(monitor: Callable[[str], Awaitable[str]]) -> bool:
    """Tell whether the CMOS clock of a machine that sleeps is to wake it.

    ``monitor`` carries out a command of QEMU's. The register that is selected by this is lost: a
    machine that wakes up is reset.
    """
    await monitor(_SELECT)
    found = _VALUE.search(await monitor(_READ))
    return found is not None and bool(int(found[1], 16) & _ALARM)
