"""What turns a guest's MMIO accesses into stops, and carries them out: the edge of interception.

``gate`` puts the fault stub in front of the guest's page-fault handler, ``poison`` marks the
translations that lead to traced devices, ``carrier`` performs accesses for the guest.
"""

__all__ = (
    "answer",
    "blame",
    "carrier",
    "clock",
    "coverage",
    "gate",
    "ground",
    "guest_module",
    "interceptor",
    "interrupt_stack",
    "journal",
    "loads",
    "names",
    "poison",
    "recording",
    "standin",
    "stub",
    "system",
    "trap",
    "view",
)
