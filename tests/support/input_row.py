"""A record of the monitor's as it lies in the ring."""

from __future__ import annotations

import struct

from tracer.compiled.inputs import INPUT_FIELDS, Input
from tracer.compiled.layout import CODE_SIZE, RECORD_FIELDS, SLOT_SIZE
from tracer.x86.state import GPR

KERNEL, PROGRAM = 0, 3


def row(
    kind: Input | int, address: int, *values: int, write: bool = False, width: int = 0,
    rip: int = 0x1000, cpl: int = KERNEL, mode: int = 64, raised: bool = False, cr3: int = 0x5000,
    following: int = 0x1002, vcpu: int = 0, tsc: int = 7, code: str = "", **registers: int,
) -> bytes:  # fmt: skip
    """Return one record; ``values`` are four of 4 bytes for CPUID, one for all else.

    ``code`` is a program's, in hex.
    """
    data = bytearray(SLOT_SIZE)

    def put(place: int, form: str, *words: int | bytes) -> None:
        struct.pack_into("<" + form, data, place, *words)

    put(RECORD_FIELDS["TSC"], "Q", tsc)
    put(INPUT_FIELDS["ADDRESS"], "Q", address)
    put(RECORD_FIELDS["SITE"], "IH", kind, vcpu)
    put(RECORD_FIELDS["THREAD"], "I", registers.pop("thread", 0))
    put(INPUT_FIELDS["CPL"], "I", cpl)
    put(RECORD_FIELDS["RFLAGS"], "Q", registers.pop("rflags", 2))
    put(RECORD_FIELDS["GPR"], "16Q", *(registers.get(name, 0) for name in GPR))
    four = kind == Input.CPUID
    put(INPUT_FIELDS["VALUE"], "4I" if four else "Q", *(values or (0,) * (4 if four else 1)))
    put(INPUT_FIELDS["RIP"], "QQ", rip, following)
    wide = width or {Input.PORT: 1, Input.CPUID: 4}.get(Input(kind), 8)
    put(INPUT_FIELDS["MANNER"], "4B", wide, write, mode, raised)
    put(INPUT_FIELDS["CR3"], "Q", cr3)
    put(INPUT_FIELDS["CODE"], f"{CODE_SIZE}s", bytes.fromhex(code))
    return bytes(data)
