"""Interception: a guest's MMIO accesses become stops, and are carried out.

``gate`` puts the fault stub in front of the guest's page-fault handler, ``poison`` marks the
translations that lead to traced devices, ``carrier`` performs accesses for the guest.
"""

__all__ = (
    "answer",
    "bench",
    "blame",
    "call",
    "carrier",
    "clock",
    "coverage",
    "encrypted_guest",
    "firmware",
    "gate",
    "ground",
    "guest_module",
    "interceptor",
    "interrupt_stack",
    "journal",
    "loads",
    "names",
    "padding",
    "poison",
    "recording",
    "rows",
    "sites",
    "standin",
    "stub",
    "system",
    "trap",
    "trust_domain",
    "view",
    "visit",
    "window",
)
