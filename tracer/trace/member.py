"""The types of the members of trace records, beside those of :mod:`tracer.trace.wire`."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

LAST = (1 << 63) - 1
"""The largest number of things, and the latest time in nanoseconds."""

Count = Annotated[int, msgspec.Meta(ge=0, le=LAST)]
"""A number of things, or of nanoseconds."""

Width = Annotated[int, msgspec.Meta(ge=0, le=1 << 16)]
"""Bytes of one access; 0 where they are not known, only the :data:`Extent` that they lie in."""

Extent = Annotated[int, msgspec.Meta(ge=1, le=1 << 16)]
"""Bytes within which accesses were made that are not known one by one."""

Space = Literal["memory", "port", "config", "irq", "msi", "msr", "cpuid", "tsc"]
"""The target of an access: device memory, an I/O port, PCI configuration space, an interrupt, the
message that it came of, a model-specific register, a leaf of CPUID, the time-stamp counter. All but
memory are *inputs*."""

Via = Literal["emulated", "stepped", "compiled", "guest", "monitor"]
"""How an access was carried out: by the emulator, by the vCPU in a native step or at a compiled
site, for a confidential guest, whose kernel decoded the instruction and asked its host, or by the
monitor that a guest runs in."""

Vcpu = Annotated[int, msgspec.Meta(ge=0, lt=1 << 16)]
