"""The monitor that a guest runs inside: its bytes, and what lies in RAM for it.

``source/monitor.S`` is a hypervisor of AMD's kind (SVM), which QEMU emulates for any CPU model.
What it is for, and what it changes for the guest: docs/monitor.md.

Ref: AMD64 Architecture Programmer's Manual vol. 2, chapter 15.
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from dataclasses import dataclass

from tracer.compiled import flagging, layout, module
from tracer.compiled.diary import Current
from tracer.compiled.flagging import FLAGS_SIZE
from tracer.compiled.inputs import INPUT_FIELDS, Input
from tracer.compiled.layout import CODE_SIZE, RING
from tracer.compiled.monitor_image import IMAGES
from tracer.x86 import vmcb
from tracer.x86.legacy_paging import MARKS
from tracer.x86.paging import LARGE, PRESENT, TABLE_ENTRIES, WRITABLE
from tracer.x86.state import COMMUNICATION_VECTOR, GPR, CpuState
from tracer.x86.vmcb import Entered

PLACE = 0x2C000
"""Offset in the block of the code, which runs at its physical address."""
_WORDS_PLACE = 0x800

_PAGE = 4096
_HOST, _STATE = _PAGE, 2 * _PAGE
PER_VCPU = 3 * _PAGE
"""Bytes of RAM for each vCPU."""

_STATE_FIELDS = {
    "GDT": 0x80, "IDT": 0x90, "NOTHING": 0xA0, "OWNER": 0xB0, "OWN": 0xB8, "OWN_SIZE": 0xC0,
    "LENGTH": 0xC8, "BASE": 0xD0, "LEAF": 0xD8, "PLACES": 0xE0, "SCRATCH": 0x100, "STUB": 0x200,
    "STUB_SIZE": 0x208, "THREAD": 0x210, "CODE": 0x218, "CODE_SIZE": 0x220, "ASKED": 0x228,
    "OPEN": 0x230, "SCE": 0x238, "FAULT": 0x240, "ALIAS": 0x248, "CR4": 0x250,
    "TABLES": 0x258, "WORD": 0x260, "WORD_AT": 0x268, "ASKING": 0x270, "DECIDED": 0x278,
    "CURRENT": 0x280, "LEAF_NUMBER": 0x288,
    "GHCB": 0x300, "DEPTH": 0x308, "GIVES": 0x310, "COUNT": 0x318, "SAVED": 0x320, "FRAME": 0x350,
    "PENDING": 0x400, "PARTS": 0x900,
}  # fmt: skip
"""Offsets in a vCPU's page of registers, behind the sixteen. ``OWN`` and ``STUB`` are code whose
CPUID and RDTSC are vetrace's own. ``OPEN`` is 1 while an interrupt may come to the monitor, 2 while
an SMI may, ``SCE`` what EFER had of that while the guest's interrupts are held up. ``FAULT`` is the
physical address at which the guest has left by a nested fault, and ``ALIAS`` where the window has
it. ``PENDING`` are the ``DEPTH`` instructions that have raised #VC, the last one innermost: each is
of a record's size. While one is carried out, ``GHCB`` is the page that asks for it, which is told
the registers in ``GIVES`` then, and ``SAVED`` has the handler's own; ``COUNT`` is of the elements
of a string that are left, and ``FRAME`` what goes to the handler's stack. ``PARTS`` stands for the
fields of such a page, from RAX on, where a leaf is asked for without one, a register at a time:
``LEAF_NUMBER`` is its number, above that bit 32, and 0 where there is none. ``CR4`` are bits of the
guest's that the monitor has as well. ``WORD`` is the linear address that lies at ``WORD_AT`` by
``TABLES``. ``ASKING`` is 1 while somebody is asked about the input under way, ``DECIDED`` what
:mod:`~tracer.compiled.flagging` has for what was decided, 0 until then. ``CURRENT`` is the thread
that has left by a nested fault."""
_PENDING_COUNT = 5
_PARTS_SIZE = 0x208  # up to what says which fields are valid
assert _STATE_FIELDS["PENDING"] + _PENDING_COUNT * layout.SLOT_SIZE <= _STATE_FIELDS["PARTS"]
assert _STATE_FIELDS["PARTS"] + _PARTS_SIZE <= _PAGE - 0x400  # the stack

RECORD_PLACE = _STATE + _STATE_FIELDS["SCRATCH"]
"""Offset in the pages of a vCPU of the record that it makes of what somebody is asked about."""
DECIDED = _STATE + _STATE_FIELDS["DECIDED"]
"""Offset there of what was decided about it."""
ASKED = _STATE + _STATE_FIELDS["ASKED"]
"""Offset there of a word that is not 0 where a handler of the guest's has asked for it."""

_WORDS = (
    "NESTED", "UNKNOWN", "CLOSED", "DOMAIN", "EARLY", "MANAGED", "FAST", "PORTS", "GHCB_MSR",
    "TELLER", "LOOK", "LOOK_AT", "FULL", "FULL_AT", "ASK", "ASK_AT", "CRYSTAL",
)  # fmt: skip
"""How many records were not made, the exit code that it does not know, and 1 where none is to be
made any more; 1 where instructions raise #VE, and the first quadword of the gate of #VE while it
leads to a handler that knows of ports alone; how many SMIs firmware has had; where nested faults
enter the common code; 1 where ports are recorded; where instructions raise #VC, the number of the
MSR that tells where the GHCB is; the linear address of the VMMCALL by which errands are told; a
word that is read where a device may have moved, with nested traps, and its linear address; one
that is read where the ring has no room, and its linear address, 0 where nobody waits for that; one
that is read where somebody is to be asked, and its linear address; how many Hz the crystal has that
a trust domain is told of, and its time-stamp counter with it, 0 where it is told of none."""

# Offsets of the shared pages, behind those of the vCPUs.
_ROOT5, _ROOT, _FRAMES, _GATES, _SEGMENTS = 0, _PAGE, 2 * _PAGE, 3 * _PAGE, 4 * _PAGE
_PORTS = 5 * _PAGE
_MSRS = _PORTS + vmcb.PORT_MAP_SIZE
_FLAGS = _MSRS + vmcb.MSR_MAP_SIZE
_SHARED = _FLAGS + FLAGS_SIZE
_WINDOW = _SHARED
_PAIR = _WINDOW + _PAGE
_NESTED = _PAIR + 3 * _PAGE
NESTED_PAGES = 96
"""Pages that nested tables have room in."""
WINDOW_BASE = 0xFFFF_8780_0000_0000
"""The linear address from which on the monitor has a window of its own, to all memory.

Breakpoints and watches are by linear address, in the guest as well: Linux leaves this one to
hypervisors (Documentation/arch/x86/x86_64/mm.rst).
"""
_WINDOW_SLOT = WINDOW_BASE >> 39 & 511
PAIR = WINDOW_BASE - (1 << 39)
"""The linear address at which a monitor sees two pages beside each other, whichever."""
_PAIR_SLOT = _WINDOW_SLOT - 1
MAPS = _PORTS
"""Offset in the shared pages of the maps of ports and MSRs for which the guest leaves."""
_CODE_SEGMENT = 0x00AF_9B00_0000_FFFF
CODE_SEGMENT = _CODE_SEGMENT.to_bytes(8, "little")
"""The descriptor of a segment of 64-bit code."""
_GATES_COUNT = 256
_GATE_SIZE = 16
_ENTRY_SIZE = 8
_CONFIGURATION = range(0xCFC, 0xD00)
"""The ports by which PCI configuration is accessed (PCI Local Bus 3.0, 3.2.2.3.2)."""
_OWN_MSRS = 0xC000_0080, 0xC001_0114, 0xC001_0117
"""EFER, VM_CR and VM_HSAVE_PA (AMD APM vol. 2, 15.30): what they hold is the monitor's own."""
_MASK = (1 << 64) - 1


def thread_of(current: Current) -> tuple[int, bytes]:
    """Return the words by which records tell the thread that is ``current``, to be written.

    Their offset is in what :meth:`MonitorCode.state` tells.
    """
    words = current.place, current.code.start, len(current.code)
    return _STATE_FIELDS["THREAD"], struct.pack("<3Q", *(word & _MASK for word in words))


def monitor_size(vcpus: int, *, nested: bool = False) -> int:
    """Return how many bytes of RAM the monitor of a guest takes beside the block's own.

    With ``nested`` traps it has a window of its own, and nested tables.
    """
    return vcpus * PER_VCPU + (_NESTED + NESTED_PAGES * _PAGE if nested else _SHARED)


def constants(*, stacks: bool) -> str:
    """Return the assembler's symbols that ``source/monitor.S`` uses."""
    symbols = {
        "DATA": -PLACE,
        "STACKS": int(stacks),
        "RING": RING,
        "LONGEST": 15,
        "CODE_SIZE": CODE_SIZE,
        "STATE": _STATE,
        "HOST": _HOST,
        "STACK_TOP": _PAGE,
        "SLOT_SHIFT": layout.SLOT_SIZE.bit_length() - 1,
        "PENDING_COUNT": _PENDING_COUNT,
        "VC": COMMUNICATION_VECTOR,
        "DIARY": layout.DIARY,
        "DIARY_SLOTS": layout.DIARY_SLOTS,
        "DIARY_SHIFT": layout.DIARY_ENTRY.size.bit_length() - 1,
        **{f"D_{name}": layout.diary_word(name) for name in ("HEAD", "LIMIT", "LOCK")},
        **{f"D_{name}": offset for name, offset in layout.DIARY_FIELDS.items()},
        **module.raising(),
        **flagging.symbols(_FLAGS - _PORTS),
        **{f"E_{name}": 8 * at for at, name in enumerate(module.VE_FIELDS)},
        **{name: mark.bit_length() - 1 for name, mark in MARKS.items()},
        **{f"S_{name}": offset for name, offset in _STATE_FIELDS.items()},
        **{f"M_{name}": word(name) for name in _WORDS},
        **{f"R_{name}": offset for name, offset in INPUT_FIELDS.items()},
        "R_GPR": layout.RECORD_FIELDS["GPR"],
        **{f"K_{kind.name}": kind.value for kind in Input},
    }
    return layout.constants() + "".join(f".set {name}, {v}\n" for name, v in symbols.items())


def guest_constants() -> str:
    """Return the symbols by which ``source/common.S`` knows of the guest in the monitor."""
    symbols = {
        "GUEST_CR3": of_guest("cr3"),
        "GUEST_CR4": of_guest("cr4"),
        "GUEST_ALIAS": _STATE_FIELDS["ALIAS"],
    }
    return "".join(f".set {name}, {value}\n" for name, value in symbols.items())


def word(name: str) -> int:
    """Return the offset in the block of a word of the monitor's."""
    return _WORDS_PLACE + 8 * _WORDS.index(name)


@dataclass(frozen=True, slots=True)
class MonitorCode:
    """Lay out the monitor of one guest: ``block`` is the physical address of the block.

    ``place`` is that of what lies behind it, ``own`` and ``stub`` are the linear addresses of
    vetrace's own code.
    """

    block: int
    place: int
    vcpus: int
    own: range
    stub: range
    stacks: bool
    nested: bool = False

    @property
    def window(self) -> int:
        """Return the physical address of the table that its own window has, with nested traps."""
        return self._shared + _WINDOW

    @property
    def pair(self) -> int:
        """Return the physical address of the table whose first two entries are for :data:`PAIR`."""
        return self._shared + _PAIR + 2 * _PAGE

    def pair_tables(self) -> bytes:
        """Return the three tables that lead to :data:`PAIR`, empty as yet; the last is `pair`."""
        present = PRESENT | WRITABLE
        page = bytearray(3 * _PAGE)
        for number in range(2):
            below = self._shared + _PAIR + (number + 1) * _PAGE
            struct.pack_into("<Q", page, number * _PAGE, below | present)
        return bytes(page)

    @property
    def tables(self) -> int:
        """Return the physical address of the nested tables."""
        return self._shared + _NESTED

    @property
    def run(self) -> int:
        """Return the physical address at which a vCPU goes on in the guest, RAX = :meth:`vmcb`."""
        return self.label("onward")

    @property
    def done(self) -> int:
        """Return the physical address at which a nested fault is done with."""
        return self.label("done")

    @property
    def start(self) -> int:
        """Return the physical address at which a vCPU enters, with RAX = :meth:`vmcb`."""
        return self.label("start")

    def label(self, name: str) -> int:
        """Return the address of a label of the code, linear and physical."""
        return self.block + PLACE + IMAGES[self.stacks][1][name]

    @property
    def flags(self) -> int:
        """Return the physical address of the pages of inputs that somebody is asked about."""
        return self._shared + _FLAGS

    def state(self, vcpu: int) -> int:
        """Return the physical address of a vCPU's page of registers."""
        return self.vmcb(vcpu) + _STATE

    @property
    def span(self) -> range:
        """Return the addresses of the code, linear and physical."""
        start = self.block + PLACE
        return range(start, start + len(bytes.fromhex(IMAGES[self.stacks][0])))

    @property
    def code(self) -> bytes:
        """Return the bytes for :data:`PLACE` of the block."""
        return bytes.fromhex(IMAGES[self.stacks][0])

    def vmcb(self, vcpu: int) -> int:
        """Return the physical address of the VMCB of a vCPU."""
        return self.place + vcpu * PER_VCPU

    def root(self, levels: int) -> int:
        """Return CR3 of the monitor, whose tables have that many levels."""
        return self._shared + (_ROOT5 if levels == 5 else _ROOT)

    @property
    def low_entry(self) -> bytes:
        """Return an entry of a root table that leads to all memory, as :meth:`root` has it."""
        return (self._shared + _FRAMES | PRESENT | WRITABLE).to_bytes(8, "little")

    @property
    def _shared(self) -> int:
        return self.place + self.vcpus * PER_VCPU

    def shared(self, ports: bool, msrs: bool, free: Collection[int], code: int) -> bytes:
        """Return the pages that all vCPUs have in common, for :meth:`root` and behind.

        ``ports`` and ``msrs`` tell whether these are wanted; the MSRs ``free`` are left alone.
        ``code`` is the selector of the kernel's code.
        """
        base = self._shared
        present = PRESENT | WRITABLE
        page = bytearray(_SHARED)
        for slot in (0, TABLE_ENTRIES - 1):
            struct.pack_into("<Q", page, _ROOT5 + 8 * slot, base + _ROOT | present)
        struct.pack_into("<Q", page, _ROOT, base + _FRAMES | present)
        window = base + (_WINDOW if self.nested else _FRAMES) | present
        struct.pack_into("<Q", page, _ROOT + 8 * _WINDOW_SLOT, window)
        if self.nested:
            struct.pack_into("<Q", page, _ROOT + 8 * _PAIR_SLOT, base + _PAIR | present)
        frames = [number << 30 | LARGE | present for number in range(TABLE_ENTRIES)]
        struct.pack_into(f"<{TABLE_ENTRIES}Q", page, _FRAMES, *frames)
        entries = self.label("gates")
        for vector in range(_GATES_COUNT):
            entry = entries + _ENTRY_SIZE * vector
            struct.pack_into(
                "<HHHHI", page, _GATES + _GATE_SIZE * vector,
                entry & 0xFFFF, code, 0x8E00, entry >> 16 & 0xFFFF, entry >> 32,
            )  # fmt: skip
        struct.pack_into("<Q", page, _SEGMENTS + (code & ~7), _CODE_SEGMENT)
        left = vmcb.ALL_PORTS if ports else _CONFIGURATION if self.nested else range(0)
        page[_PORTS:_MSRS] = vmcb.port_map(left)
        page[_MSRS:_FLAGS] = vmcb.msr_map(_OWN_MSRS, free, others=msrs)
        return bytes(page)

    def of_vcpu(
        self,
        vcpu: int,
        entered: Entered,
        intercepts: int,
        current: Current | None = None,
        *,
        dr7: bool = False,
    ) -> bytes:
        """Return the pages of a vCPU that enters, for its :meth:`vmcb`.

        Records tell the thread that is ``current``. It leaves for ``dr7``, too, if that is so.
        """
        state = bytearray(_PAGE)
        struct.pack_into("<16Q", state, 0, *(entered.registers[name] for name in GPR))
        shared, fields = self._shared, _STATE_FIELDS
        struct.pack_into("<HQ", state, fields["GDT"], 0x7FF, shared + _SEGMENTS)
        limit = _GATE_SIZE * _GATES_COUNT - 1
        struct.pack_into("<HQ", state, fields["IDT"], limit, shared + _GATES)
        struct.pack_into("<Q", state, fields["OWNER"], ~vcpu & _MASK)
        struct.pack_into("<QQ", state, fields["OWN"], self.own.start, len(self.own))
        struct.pack_into("<QQ", state, fields["STUB"], self.stub.start, len(self.stub))
        if current is not None:
            offset, words = thread_of(current)
            state[offset : offset + len(words)] = words
        ports, msrs = shared + _PORTS, shared + _MSRS
        nested = self.tables if self.nested else None
        block = vmcb.control_block(entered, intercepts, ports, msrs, nested, dr7=dr7)
        return block + bytes(_PAGE) + state


def going_on(cpu: CpuState) -> list[tuple[int, bytes]]:
    """Return what to write where in the pages of a vCPU, so that its guest goes on as told."""
    named = dict(zip(GPR, cpu.gpr, strict=True))
    words = {"rip": cpu.rip, "rsp": named["rsp"], "rax": named["rax"], "eflags": cpu.rflags}
    return [
        (_STATE, struct.pack("<16Q", *cpu.gpr)),
        *((vmcb.REGISTERS[name], struct.pack("<Q", value)) for name, value in words.items()),
    ]


def vcpu_inside(rsp: int, cr3: int, gdt: int, idt: int, vcpus: int) -> int | None:
    """Return the number of a vCPU that is in the monitor, by its registers; None for the guest's.

    ``gdt`` and ``idt`` are the linear addresses of these tables. The stack begins at the end of
    what a vCPU has of its own.
    """
    shared = idt - _GATES
    if gdt != shared + _SEGMENTS or cr3 not in (shared + _ROOT, shared + _ROOT5):
        return None
    vcpu, rest = divmod(rsp - 1 - (shared - vcpus * PER_VCPU), PER_VCPU)
    return vcpu if rest >= _STATE and vcpu in range(vcpus) else None


def of_guest(name: str) -> int:
    """Return where a vCPU's own page has a word of its guest's, from the page's beginning.

    That is one of ``cr0``, ``cr3``, ``cr4``, ``fault``, the physical address of a nested fault, and
    ``current``, the thread that came upon it.
    """
    if name in ("fault", "current"):
        return _STATE_FIELDS[name.upper()]
    return vmcb.REGISTERS[name] - _STATE


def vmcb_at(stack: int) -> int:
    """Return the physical address of the VMCB of a vCPU whose own stack is at that linear one."""
    return (stack & -_PAGE) - _STATE
