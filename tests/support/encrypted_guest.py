"""A guest of SEV-ES for playbooks: what its kernel faults on, and what it calls for."""

from __future__ import annotations

import struct
from dataclasses import replace

from calling import ASKING, CALLER, OUTER, Calling, gate_to
from playbook import Step
from ram import POISON
from scene import (
    CODE,
    HANDLER,
    IDT_AT,
    READ,
    STACK,
    STATE,
    Names,
)

from tracer.access.vcpu import SetMemory, SetRegister
from tracer.access.want import VcpuStates, WriteCode
from tracer.confidential.ghcb import GHCB_STAND_IN, OFFSETS, SHARED_BUFFER, VALID_BITMAP, VMGEXIT
from tracer.confidential.handler import CURRENT_SEV, PROFILES
from tracer.intercept.below.encrypted_guest import EncryptedGuest
from tracer.intercept.below.firmware import Intercepted
from tracer.intercept.entry.spill import cr2_at, error_at
from tracer.intercept.entry.stub import CALLED
from tracer.x86.tss import stack_offset

GHCB = 0x26_0000
IDT_29 = IDT_AT + 29 * 16
TASK, TASK_AT = 0xFFFF_FE00_0000_3000, 0x27_0000
TOP = STACK - 0x200
"""The interrupt stack for #VC begins here, downwards."""
NUMBER = 5
VC = HANDLER + 0xC0
MMIO_READ, MMIO_WRITE = 0x8000_0001, 0x8000_0002


class Encrypted(Calling):
    """A scene whose guest is one of SEV-ES: its device is mapped as any guest's, at AT."""

    def __init__(self, *, ist: int = NUMBER) -> None:
        super().__init__()
        self.gate_of_vc(ist)
        self.ram.map(TASK, TASK_AT)
        self.ram.write(TASK_AT + stack_offset(NUMBER), struct.pack("<Q", TOP))
        self.plant(VMGEXIT, GHCB_STAND_IN)
        self.guest = self.interceptor.firmware = EncryptedGuest(
            self.interceptor,
            self.view,
            Names(),  # type: ignore[arg-type]
            self.journal,
            PROFILES[CURRENT_SEV],
        )
        self.ist = ist

    def gate_of_vc(self, ist: int) -> None:
        self.ram.write(IDT_29, gate_to(VC, ist))

    def faults(
        self, code: str, linear: int, error: int = READ, *, stack: int = OUTER, rip: int = CODE,
        before: tuple[Step, ...] = (), **registers: int,
    ) -> tuple[int, ...]:  # fmt: skip
        """Let an instruction come upon poison; return the frame that its #VC has, from RSP up."""
        self.moment += 1
        self.fault(code, linear, error, stack=stack, rip=rip, tsc=self.moment, **registers)
        steps: list[Step] = [*before]
        if not self.entered:
            steps.append((WriteCode, self.write_code))
        if self.ist:
            state = replace(STATE, task=TASK, task_selector=0x40)
            steps.append((VcpuStates(), (state, state)))
        self.entered = True
        done = self.play(*steps, stack=stack)
        return self.raised(done, stack)

    def raised(self, done: Intercepted, stack: int) -> tuple[int, ...]:
        assert done.changes[-1] == SetRegister("rip", self.stub.switching)
        for change in done.changes[:-1]:
            assert isinstance(change, SetMemory)
            self.write(change.linear, change.data)
        assert self.word(self.stub.raised) == VC
        there = self.word(error_at(stack))
        return there, *struct.unpack("<6Q", self.space.read(there, 48))

    def page(self, buffer: bytes = b"", **fields: int) -> None:
        """Fill in the GHCB; the fields that are given are valid."""
        page = bytearray(4096)
        bitmap = 0
        for name, value in fields.items():
            struct.pack_into("<Q", page, OFFSETS[name], value)
            bitmap |= 1 << OFFSETS[name] // 8
        page[VALID_BITMAP : VALID_BITMAP + 16] = bitmap.to_bytes(16, "little")
        page[SHARED_BUFFER : SHARED_BUFFER + len(buffer)] = buffer
        self.ram.write(GHCB, bytes(page))

    def field(self, name: str) -> int:
        """A field of the GHCB as the host left it."""
        return int.from_bytes(self.ram.read(GHCB + OFFSETS[name], 8), "little")

    def calls(self, *steps: Step, msr: int = GHCB, stack: int = OUTER) -> dict[str, int]:
        """Let the kernel call; return the registers that it finds, and ``msr``."""
        self.moment += 1
        place = self.fault(
            VMGEXIT.hex(), msr, CALLED, stack=stack - ASKING, rip=CALLER, tsc=self.moment,
            rflags=0x46,
        )  # fmt: skip
        done = self.play(*steps, stack=place)
        found = {"msr": msr}
        rest = []
        for change in done.changes:
            if isinstance(change, SetMemory) and change.linear == cr2_at(place):
                found["msr"] = int.from_bytes(change.data, "little")
            elif change != SetRegister("rip", self.stub.telling or 0):
                rest.append(change)
        after = self.after(replace(done, changes=tuple(rest)), place)
        assert not after.others
        return after.registers | found

    def asks(
        self, *steps: Step, physical: int, width: int = 4, write: int | None = None,
        stack: int = OUTER,
    ) -> int:  # fmt: skip
        """Let the handler ask for an access; return what the buffer has then."""
        self.page(
            sw_exit_code=MMIO_READ if write is None else MMIO_WRITE,
            sw_exit_info_1=physical | POISON,  # it has looked at its page tables
            sw_exit_info_2=width,
            sw_scratch=GHCB + SHARED_BUFFER,
            buffer=b"" if write is None else write.to_bytes(width, "little"),
        )
        assert self.calls(*steps, stack=stack)["rip"] == CALLER + 4
        return int.from_bytes(self.ram.read(GHCB + SHARED_BUFFER, width), "little")
