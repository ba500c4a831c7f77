"""Interception: a guest's MMIO accesses become stops, and are carried out.

By what they are about, the modules are

* the way into a stop: ``entry``;
* the mappings that lead there: ``coverage`` and ``poison``;
* one stop: ``interceptor`` completes the access of a ``fault``; ``answer`` says who answers it,
  ``carrier`` makes it, ``native_step`` and ``port`` have the vCPU do it, a ``recording`` does it
  by ``standin``; ``delivery`` raises exceptions; ``oversight`` asks first, ``ledger`` records;
* accesses without a stop, and inputs: ``ring``;
* what is below a confidential guest: ``below``;
* what a device's queues are told: ``queue``;
* what all of them stand on: ``view``, ``names``, ``clock``, ``journal``, ``ground``, the ports
  ``trap`` and ``system``, ``call`` for breakpoints on functions, and ``blame``.
"""

__all__ = (
    "below",
    "blame",
    "call",
    "carrier",
    "clock",
    "coverage",
    "entry",
    "fault",
    "ground",
    "interceptor",
    "journal",
    "names",
    "poison",
    "queue",
    "recording",
    "ring",
    "standin",
    "system",
    "trap",
    "view",
)
