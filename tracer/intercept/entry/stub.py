"""The guest code that vetrace places: a page-fault handler in front of the guest's own.

A gate of vector 14 points at one of the stub's *doors*, and each of the guest's own gates has a
door of its own. A fault without RSVD in its error code is the guest's own: its CR2 is noted, and
it goes on to the guest's handler, without a stop, or, through a door that is *shut*, into the stub
as well. A fault on a poisoned entry has its registers spilled to the stack, as a kernel's own entry
code does: see :mod:`tracer.intercept.entry.spill`.

Then the stub reads its *bell*, a quadword on which GDB has a hardware breakpoint for reads, and
the guest stops at ``stop``. (QEMU throws away all translated code at every stop for an execution
breakpoint, gdbstub.c in gdb_vm_state_change, but not at this kind.) vetrace changes what it must
in the spill and lets the vCPU go on: CR2 gets back what was noted, the registers are loaded, and
the guest's own IRETQ, at ``leave``, goes back to the interrupted code.

The note is the address register of a machine-check bank. Each vCPU has its own, QEMU keeps there
whatever is written (target/i386, helper_wrmsr), an operating system looks at it only beside a
status that is never valid, and no page table is needed to reach it: the stub's own page is not
writable, and under PTI no data of the kernel is mapped when user space faults.

Before that it may send the vCPU to one of ``loads`` and ``stores``: they make one access at the
address in the first slot, with the value in the second, and ring again, at ``done``. The
``departures`` store and go back at once. ``inputs`` and ``outputs`` access the I/O port in DX, with
the value in RAX and then in the second slot, and ring at ``done`` too. From any other place, moving
RIP to ``spill`` reads the counter, and to ``noting``, CR2 is noted by the time RIP is at ``noted``.
At ``waiting`` the vCPU goes round RCX times, two instructions each, and rings again, at ``stop``.

In a confidential guest vector 6 has a door as well. An instruction that the guest's firmware, or
host, is to answer is none to QEMU, which raises #UD: from the kernel it goes to ``calling``, and
spills like a fault, with an error code of its own, :data:`CALLED`. All others go on to the guest's
handler, without a stop: WARN and BUG are made of #UD. A guest whose calls are about what an MSR
holds has that in the place of CR2, and from ``stop`` moving RIP to ``telling`` gives the MSR what
is there by then. From ``stop`` moving RIP to ``raising`` leaves for a handler of the guest's that
takes no error code, the one at ``raised``, in place of IRETQ; moving it to ``switching`` does so
with RSP where the slot of the error code says: :func:`tracer.intercept.entry.spill.pack_frame`
makes what is there. And a vCPU that asks to sleep goes back to one of ``halts``, on the lowest part
of its spill, which holds another frame then: :func:`tracer.intercept.entry.spill.pack_return`.

With compiled sites a fault on poison goes to their common code first, in the window, with nothing
pushed yet; that ends at an IRETQ of its own, or at ``spill`` as if nothing had been. They may come
``late``: in ``ways`` are the addresses of two quadwords, which say where a fault of the kernel's on
poison goes, and where a call goes, to code in the window or to ``spill`` and ``calling``.

The test is of bit 3 alone because TCG reports reserved-bit faults with P clear.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

from tracer.compiled.common import entry
from tracer.compiled.module import TDCALL_ERROR
from tracer.compiled.monitor import of_guest
from tracer.intercept.entry.door import (
    DOOR_PLACE,
    DOOR_SIZE,
    DOORS,
    NOTE,
    NOTE_MSR,
    call_door,
    fault_door,
    jump_far,
    shut_door,
)
from tracer.intercept.entry.spill import CONTROL_SIZE, cr2_at

_PUSHES = b"\x50\x51\x52\x53\x55\x56\x57" + b"".join(
    bytes([0x41, 0x50 + number]) for number in range(8)
)  # push rax, rcx, rdx, rbx, rbp, rsi, rdi, r8 ... r15
_POPS = b"".join(bytes([0x41, 0x5F - number]) for number in range(8)) + (
    b"\x5f\x5e\x5d\x5b\x5a\x59\x58"
)  # pop r15 ... r8, rdi, rsi, rbp, rbx, rdx, rcx, rax
_CONTROLS = (
    b"\x0f\x20\xe0\x50"  # mov rax, cr4; push rax
    b"\x0f\x20\xd8\x50"  # mov rax, cr3; push rax
    b"\x0f\x20\xd0\x50"  # mov rax, cr2; push rax
    b"\x0f\x20\xc0\x50"  # mov rax, cr0; push rax
)
_CONTROLS_NESTED = (
    b"\x48\x89\xe0"  # mov rax, rsp
    b"\x48\x25\x00\xf0\xff\xff"  # and rax, -4096
) + b"".join(
    b"\xff\xb0" + struct.pack("<i", of_guest(name))  # push [rax + name]
    for name in ("cr4", "cr3", "fault", "cr0")
)
_COUNTER = (
    b"\x0f\x31"  # rdtsc
    b"\x48\xc1\xe2\x20"  # shl rdx, 32
    b"\x48\x09\xd0"  # or rax, rdx
    b"\x50"  # push rax
)


def _into_cr2(msr: int) -> bytes:
    return (
        b"\xb9" + struct.pack("<I", msr) + b"\x0f\x32"  # mov ecx, msr; rdmsr
        b"\x48\xc1\xe2\x20"  # shl rdx, 32
        b"\x48\x09\xd0"  # or rax, rdx
        b"\x0f\x22\xd0"  # mov cr2, rax
    )


_GIVE_BACK = _into_cr2(NOTE_MSR)

_FETCH = (
    b"\x48\x8b\x0c\x24"  # mov rcx, [rsp]: the address
    b"\x48\x8b\x44\x24\x08"  # mov rax, [rsp + 8]: the value
)
_FORGET = (
    b"\x0f\x01\x39"  # invlpg [rcx]: the translation is for this access alone
    b"\x0f\x01\x79\x07"  # invlpg [rcx + 7]: and so is that of its last byte
)
_KEEP = b"\x48\x89\x44\x24\x08"  # mov [rsp + 8], rax
_LOAD_CODE = {
    1: b"\x8a\x01",  # mov al, [rcx]
    2: b"\x66\x8b\x01",  # mov ax, [rcx]
    4: b"\x8b\x01",  # mov eax, [rcx]
    8: b"\x48\x8b\x01",  # mov rax, [rcx]
}
_STORE_CODE = {
    1: b"\x88\x01",  # mov [rcx], al
    2: b"\x66\x89\x01",  # mov [rcx], ax
    4: b"\x89\x01",  # mov [rcx], eax
    8: b"\x48\x89\x01",  # mov [rcx], rax
}
_IN_CODE = {
    1: b"\xec",  # in al, dx
    2: b"\x66\xed",  # in ax, dx
    4: b"\xed",  # in eax, dx
}
_OUT_CODE = {
    1: b"\xee",  # out dx, al
    2: b"\x66\xef",  # out dx, ax
    4: b"\xef",  # out dx, eax
}
_RING = b"\x48\x8b\x05"  # mov rax, [rip + bell]
_RING_SIZE = len(_RING) + 4


CALLED = TDCALL_ERROR
"""The error code of a spill for a call of the guest's."""


@dataclass(frozen=True, slots=True)
class Fast:
    """Say where compiled sites are: ``linear`` is where their code is entered.

    ``span`` are the linear addresses among which all of their code lies.
    """

    linear: int
    span: range


@dataclass(frozen=True, slots=True)
class Nested:
    """Say where a monitor goes on behind a nested fault, physical addresses.

    At ``done`` what is on the stack becomes the guest's, at ``run`` the guest goes on. ``span`` are
    the addresses of the monitor's code.
    """

    done: int
    run: int
    span: range


@dataclass(frozen=True, slots=True)
class Stub:
    """Hold the stub's bytes and the linear addresses within it.

    ``base`` is the address of the first byte; ``doors`` are shut, see :meth:`door`. A fault on
    poison goes to ``entry``, which is ``spill`` unless there is a ``fast`` way. ``halts`` are by
    whether interrupts are let in meanwhile, ``asleep`` is where they lie. There is a way for
    ``telling`` where calls are about an MSR.
    """

    code: bytes
    base: int
    notes: bool
    fast: Fast | None
    entry: int
    spill: int
    stop: int
    stop_behind: int
    leave: int
    loads: dict[int, int]
    stores: dict[int, int]
    departures: dict[int, int]
    inputs: dict[int, int]
    outputs: dict[int, int]
    done: int
    noting: int
    noted: int
    waiting: int
    calling: int
    called: int
    ways: tuple[int, int]
    telling: int | None
    raising: int
    switching: int
    raised: int
    halts: dict[bool, int]
    asleep: range
    bell: int
    doors: range
    monitor: range = range(0)

    @property
    def rings(self) -> int:
        """Return where a vCPU that stands at ``stop`` rings once more."""
        return self.stop - _RING_SIZE

    def covers(self, linear: int) -> bool:
        """Tell whether a linear address lies in the stub, or in the code of compiled sites."""
        if self.fast is not None and linear in self.fast.span:
            return True
        if linear in self.asleep:
            return False  # that is the guest's own sleep
        return self.base <= linear < self.base + len(self.code)

    def leads_to_sites(self, linear: int) -> bool:
        """Tell whether a vCPU at a linear address is among compiled sites, or may go there.

        Who stands at ``stop`` goes back to the interrupted code.
        """
        if self.fast is None:
            return False
        return linear in self.fast.span or self.entry <= linear < self.base + len(self.code)

    def departs(self, linear: int) -> bool:
        """Tell whether a vCPU at a linear address is to store a value on its way back."""
        return min(self.departures.values()) <= linear < min(self.inputs.values())

    def door(self, linear: int, handler: int | None) -> bytes:
        """Return the code of a door at a linear address to a guest's page-fault handler.

        Without a handler it is shut.
        """
        if handler is None:
            return shut_door(linear, self.spill)
        return fault_door(linear, handler, self.entry, notes=self.notes)

    def call_door(self, linear: int, handler: int, instruction: bytes) -> bytes:
        """Return the code of a door at a linear address to a guest's handler of vector 6.

        The ``instruction``, 4 bytes long, rings.
        """
        return call_door(linear, handler, self.called, instruction)


def assemble(
    base: int,
    *,
    notes: bool = True,
    fast: Fast | None = None,
    late: bool = False,
    msr: int | None = None,
    nested: Nested | None = None,
) -> Stub:
    """Return the stub for linear address ``base``.

    ``notes`` says that the CPU has the machine-check bank in which CR2 is noted. With ``fast``
    a fault on poison goes to compiled sites first, which may come ``late``. Calls of the guest's
    are about what the ``msr`` holds, if any, in CPUs that note CR2. In a monitor, ``nested`` tells
    where it goes on.
    """
    code = bytearray()
    rings: list[int] = []

    def here() -> int:
        return base + len(code)

    def ring() -> int:
        code.extend(_RING + bytes(4))
        rings.append(len(code))
        return here()

    spill = here()
    code += _PUSHES + (_CONTROLS if nested is None else _CONTROLS_NESTED) + _COUNTER
    stop = ring()
    resume = len(code)
    drop = b"\x48\x83\xc4" + bytes([CONTROL_SIZE])  # add rsp, the control registers
    stop_behind = here() + len(drop)
    behind_bell = drop + (_GIVE_BACK if notes else b"")
    code += behind_bell + _POPS + b"\x48\x83\xc4\x08"  # add rsp, the error code
    leave = here() if nested is None else nested.run
    code += b"\x48\xcf" if nested is None else jump_far(nested.done)  # iretq
    loads: dict[int, int] = {}
    stores: dict[int, int] = {}
    jumps: list[int] = []
    for table, entries in ((_LOAD_CODE, loads), (_STORE_CODE, stores)):
        for width, access in table.items():
            entries[width] = here()
            code += _FETCH + _FORGET + access + b"\xe9" + bytes(4)  # jmp finish
            jumps.append(len(code))
    for jump in jumps:
        struct.pack_into("<i", code, jump - 4, len(code) - jump)
    code += _FORGET
    keep = len(code)
    code += _KEEP
    done = ring()
    code += b"\xe9" + struct.pack("<i", resume - len(code) - 5)  # jmp resume
    departures: dict[int, int] = {}
    for width, access in _STORE_CODE.items():
        departures[width] = here()
        code += _FETCH + access
        code += b"\xe9" + struct.pack("<i", resume - len(code) - 5)  # jmp resume
    inputs: dict[int, int] = {}
    outputs: dict[int, int] = {}
    for table, entries in ((_IN_CODE, inputs), (_OUT_CODE, outputs)):
        for width, access in table.items():
            entries[width] = here()
            code += access
            code += b"\xe9" + struct.pack("<i", keep - len(code) - 5)  # jmp keep
    first = spill
    if nested is None and (fast is not None or late):
        first = here()
        code += entry(first, spill, spill if fast is None else fast.linear)
    fault_way = here() - 8
    noting = here()
    code += NOTE
    noted = here()
    code += b"\xf4"  # hlt: nobody comes here
    waiting = here()
    code += b"\x48\xff\xc9\x75\xfb"  # dec rcx; jnz waiting
    code += b"\xe9" + struct.pack("<i", stop - _RING_SIZE - here() - 5)  # jmp to the ring
    calling = here()
    code += b"\x68" + struct.pack("<i", CALLED)  # push the error code
    if msr is not None:
        # push rax; push rcx; push rdx ... pop rdx; pop rcx; pop rax
        code += b"\x50\x51\x52" + _into_cr2(msr) + b"\x5a\x59\x58"
    code += b"\xe9" + struct.pack("<i", spill - here() - 5)  # jmp spill
    called = here()
    code += jump_far(calling)
    call_way = here() - 8
    telling = None
    if msr is not None:
        telling = here()
        code += b"\x48\x8b\x44\x24" + bytes([cr2_at(0)])  # mov rax, [rsp + its slot]
        code += b"\x48\x89\xc2\x48\xc1\xea\x20"  # mov rdx, rax; shr rdx, 32
        code += b"\xb9" + struct.pack("<I", msr) + b"\x0f\x30"  # mov ecx, msr; wrmsr
        code += b"\xe9" + struct.pack("<i", resume - len(code) - 5)  # jmp resume
    raising = here()
    code += behind_bell + _POPS + b"\x48\x83\xc4\x08"  # add rsp, the error code
    code += b"\xff\x25" + bytes(4)  # jmp [rip + raised]
    leaves = [len(code)]
    switching = here()
    code += behind_bell + _POPS + b"\x5c"  # pop rsp
    code += b"\xff\x25" + bytes(4)  # jmp [rip + raised]
    leaves.append(len(code))
    halts = {False: here() + 1, True: here()}
    code += b"\xfb\xf4\x48\xcf"  # sti; hlt; iretq
    asleep = range(halts[True], here())
    code += bytes(-here() % 8)
    raised = here()
    for jump in leaves:
        struct.pack_into("<i", code, jump - 4, len(code) - jump)
    code += bytes(8)
    bell = here()
    for end in rings:
        struct.pack_into("<i", code, end - 4, bell - base - end)
    code += bytes(8) + bytes(-(here() + 8) % DOOR_SIZE)
    door = here() + DOOR_PLACE
    doors = range(door, door + DOORS * DOOR_SIZE, DOOR_SIZE)
    code += bytes(DOORS * DOOR_SIZE)
    stub = Stub(
        code=bytes(code),
        base=base,
        notes=notes,
        fast=fast,
        entry=first,
        spill=spill,
        stop=stop,
        stop_behind=stop_behind,
        leave=leave,
        loads=loads,
        stores=stores,
        departures=departures,
        inputs=inputs,
        outputs=outputs,
        done=done,
        noting=noting,
        noted=noted,
        waiting=waiting,
        calling=calling,
        called=called,
        ways=(fault_way, call_way),
        telling=telling,
        raising=raising,
        switching=switching,
        raised=raised,
        halts=halts,
        asleep=asleep,
        bell=bell,
        doors=doors,
        monitor=nested.span if nested else range(0),
    )
    for door in doors:
        shut = stub.door(door, None)
        code[door - base : door - base + len(shut)] = shut
    return replace(stub, code=bytes(code))
