"""A vCPU as it enters its monitor."""

from __future__ import annotations

from tracer.x86.segment import Segment
from tracer.x86.state import GPR
from tracer.x86.vmcb import Entered

SEGMENTS = {
    "es": Segment(0, 0, 0, 0),
    "cs": Segment(0x10, 0, 0xFFFFFFFF, 0x00AF9B00),
    "ss": Segment(0x18, 0, 0xFFFFFFFF, 0x00C09300),
    "ds": Segment(0, 0, 0, 0),
    "fs": Segment(0x23, 0, 0xFFFFF, 0x00CFF300),
    "gs": Segment(0, 0xFFFF8880_00000000, 0, 0),
}
REGISTERS = {name: 0x100 + number for number, name in enumerate(GPR)} | {
    "rip": 0xFFFFFFFF_81000000, "eflags": 0x46, "cr0": 0x80050033, "cr2": 0x1234, "cr3": 0x2A10000,
    "cr4": 0xA0, "efer": 0xD01,
}  # fmt: skip
ENTERED = Entered(REGISTERS, SEGMENTS, (0xFFFF_0000, 0x7F), (0xFFFF_1000, 0xFFF), 0xFFFF0FF0, 0x400)
