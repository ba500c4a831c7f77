"""The TDX module as guest code: its bytes, and what it has in the block.

In a guest of TDX that vetrace plays the module of, the kernel's own #VE handler decodes each access
to a device and asks for it by a TDCALL. ``source/module.S`` has the code which two gates of the
guest lead to: it makes a page fault on a shared leaf a #VE, answers TDG.VP.VEINFO.GET and the
hypercalls for MMIO, HLT and MapGPA, and leaves records in the ring of compiled sites. All else goes
to the stub.

What is known of a #VE lies here, where vetrace and the guest code find it alike: an access may go
one part of its way by a stop, and the other without.

Ref: Intel TDX Guest-Host-Communication Interface 1.5, 2.4.1, 3.7 and 3.8; Intel TDX Module 1.5 ABI,
TDG.VP.VEINFO.GET.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from tracer.compiled import layout
from tracer.compiled.layout import CODE_SIZE, LARGEST_ADDRESS_BITS, RECORD_FIELDS, SLOT_SIZE
from tracer.compiled.module_image import CODE, LABELS
from tracer.x86.state import VIRTUALIZATION_VECTOR


class Kind(IntEnum):
    """Say what a record of the guest code's tells of, in place of the number of a site."""

    MMIO = 0xFFFF_FF01  # an access that the guest's kernel has decoded, and asked for
    TOUCH = 0xFFFF_FF02  # RAM that was reached through a shared leaf, the first time
    TDCALL = 0xFFFF_FF03  # a hypercall that is none for an access


MMIO_FIELDS = {
    "VALUE": 224, "GPA": 232, "WIDTH": 240, "DIRECTION": 248, "MASK": 250, "RIP": 200, "CODE": 208,
}  # fmt: skip
"""Offsets in a record of the guest code's, in place of ``OTHER`` and ``WRITTEN``. ``VALUE`` to
``MASK`` are R15, R14, R12, R13 and RCX as the guest gave them for an access, which has its answer
in ``READ``; the last two have 2 bytes. A touch has the leaf entry in ``VALUE``, and in ``WIDTH``
how many bytes that maps. ``CODE`` are the :data:`CODE_SIZE` bytes at ``RIP``, zeros from a page
that is not mapped."""

TDCALL_ERROR = 0x100
"""The stub finds this in place of an error code where a TDCALL stopped: no page fault has it."""

VCPUS = 256
FAULT_COUNT = 64
"""Faults that are handled at one time, by all handlers of the guest together."""

VE_SIZE = 64
VE_FIELDS = "REASON", "QUALIFICATION", "GLA", "GPA", "LENGTH", "ASKED"
"""What a vCPU has of its #VE: what TDG.VP.VEINFO.GET gives, and which instruction, from 1 on, the
module carries out for it at the moment."""
EPT_VIOLATION = 48
REASONS = {"CPUID": 10, "HLT": 12, "IO": 30, "RDMSR": 31, "WRMSR": 32}
"""The exit reasons of instructions that raise #VE (Intel SDM vol. 3D, appendix C)."""
_TAG = RECORD_FIELDS["SEQUENCE"]
"""Offset of what an instruction that has raised #VE is told from others by, in its entry of
:data:`FAULTS`, which is a record of the monitor's else: the port, MSR or leaf, and the reason. An
entry is none of the ring's: it has no number there."""
STACK = 0x8000
"""Bytes of a kernel's stack, at most: a hypercall is as near to the frame of its #VE."""

_WORDS = (
    "SHARED", "ADDRESS", "TOP", "BEHIND", "HALT", "THREAD",
)  # fmt: skip
_COUNTERS = layout.MODULE_DATA + 0x100
_COUNTED = "FAULTS", "FETCHED", "RAISED", "KEPT", "ANSWERED", "UNASKED"
KEYS = layout.MODULE_DATA + 0x400
VES = layout.MODULE_DATA + 0x1000
FAULTS = VES + VCPUS * VE_SIZE
assert FAULTS + FAULT_COUNT * SLOT_SIZE <= layout.THUNKS


@dataclass(frozen=True, slots=True)
class ModuleCode:
    """Hold the bytes for :data:`layout.MODULE`, and where gates lead to; offsets are in the block.

    ``fault`` is entered as the common code is, ``tdcall`` at #UD, without an error code.
    """

    code: bytes
    fault: int
    tdcall: int


def module_code() -> ModuleCode:
    """Return the code: it is the same for every guest."""
    places = {name: layout.MODULE + place for name, place in LABELS.items()}
    return ModuleCode(bytes.fromhex(CODE), **places)


@dataclass(frozen=True, slots=True)
class ModuleControl:
    """Hold what the module's code has to know of the guest, beside :class:`layout.Control`.

    ``shared_bit`` is the bit of an address that is shared with the host, ``marks`` what vetrace
    poisons a leaf by. ``ram`` are ranges of physical addresses. The linear addresses are those of
    who is asked about a leaf without the shared bit (``behind``), and of what makes a vCPU sleep
    and goes back to the frame on the stack (``halt``). ``levels`` are those of the guest's page
    tables. ``thread`` is where the kernel's current thread is, relative to GS, 0 where records do
    not tell it.
    """

    shared_bit: int
    marks: int
    levels: int
    behind: int
    halt: int
    ram: Sequence[range]
    thread: int = 0

    def pack(self) -> bytes:
        """Return the bytes for :data:`layout.MODULE_DATA`. Raises ValueError: too many ranges."""
        address = (1 << LARGEST_ADDRESS_BITS) - 4096
        words = {
            "SHARED": self.shared_bit,
            "ADDRESS": address & ~self.marks & ~self.shared_bit,
            "TOP": 12 + 9 * (self.levels - 1),
            "BEHIND": self.behind,
            "HALT": self.halt,
            "THREAD": self.thread,
        }
        head = b"".join(words.get(name, 0).to_bytes(8, "little") for name in _WORDS)
        return head.ljust(layout.RAM - layout.MODULE_DATA, b"\0") + layout.pack_ram(self.ram)


def counter(name: str) -> int:
    """Return the offset in the block of a counter.

    ``FAULTS`` made #VE, and #VE that were ``FETCHED``; of the monitor's, ``RAISED`` for an
    instruction, or ``KEPT`` from that; and instructions ``ANSWERED``.
    """
    return _COUNTERS + 8 * _COUNTED.index(name)


def raising() -> dict[str, int]:
    """Return the assembler's symbols of #VE, which the monitor's code has in common."""
    return {
        "VE": VIRTUALIZATION_VECTOR,
        "VE_SHIFT": VE_SIZE.bit_length() - 1,
        "KEYS": KEYS,
        "VES": VES,
        "FAULTS": FAULTS,
        "FAULT_COUNT": FAULT_COUNT,
        "R_TAG": _TAG,
        **{f"VE_{name}": reason for name, reason in REASONS.items()},
        **{f"N_{name}": counter(name) for name in _COUNTED},
    }


def constants() -> str:
    """Return the assembler's symbols that ``source/module.S`` uses."""
    symbols = {
        "TDCALL": TDCALL_ERROR,
        "CODE_SIZE": CODE_SIZE,
        "STACK": STACK,
        "EPT_VIOLATION": EPT_VIOLATION,
        "VEINFO_GET": 3,
        "REQUEST_MMIO": 48,
        "HLT": 12,
        "MAP_GPA": 0x10001,
        "EXPOSED": 0xFC00,  # R10 to R15
        "EXPOSABLE": 0xFFCC,  # and RDX, RBX, RSI, RDI, R8, R9
        # A record has this of its fault: all from LINEAR on that is not asked later.
        "R_KEPT": MMIO_FIELDS["VALUE"] - RECORD_FIELDS["LINEAR"],
        **{f"M_{name}": layout.MODULE_DATA + 8 * at for at, name in enumerate(_WORDS)},
        **raising(),
        **{f"V_{name}": 8 * at for at, name in enumerate(VE_FIELDS)},
        **{f"R_{name}": offset for name, offset in MMIO_FIELDS.items()},
        **{f"K_{kind.name}": kind.value for kind in Kind},
    }
    words = "".join(f".set {name}, {value}\n" for name, value in symbols.items())
    return layout.constants(layout.MODULE) + words
