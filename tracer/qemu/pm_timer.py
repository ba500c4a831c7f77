"""The ACPI power-management timer, which tells a stopped guest's time without its vCPUs.

It counts the virtual clock from 0, in 24 bits at 3.579545 MHz, so it is the same again every 4.69
seconds. Reading it changes nothing.

Ref: ACPI 6.4, 4.8.2.1 (24 bits suffice); QEMU hw/acpi/core.c (acpi_pm_tmr_get).
"""

from __future__ import annotations

FREQUENCY = 3_579_545
"""In Hz."""

PERIOD = 1 << 24
"""After so many ticks it begins anew."""

_SECOND = 10**9


def earliest(ticks: int, since_ns: int) -> int:
    """Return the first time in nanoseconds, not before another one, at which it shows ``ticks``."""
    before = since_ns * FREQUENCY // _SECOND
    count = before + (ticks - before) % PERIOD
    return max(since_ns, -(-count * _SECOND // FREQUENCY))
