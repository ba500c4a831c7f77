"""The metadata of a TD that it may read and write itself: TDG.VM.RD and TDG.VM.WR.

Ref: intel/tdx-module, include/tdx_api_defs.h `md_field_id_t` (what the bits of an identifier
mean), src/common/metadata_handlers/metadata_generic.c `md_check_as_single_element_id`,
include/auto_gen/tdr_tdcs_fields_lookup.c (identifiers, and what a guest may do with each),
metadata_td.c `md_td_write_element` (the order of checks, and TD_CTLS with REDUCE_VE and LOCK).
"""

from __future__ import annotations

from dataclasses import dataclass

from tracer.confidential.tdx_state import TdxState
from tracer.confidential.tdx_status import Status

NO_FIELD = (1 << 64) - 1
"""In place of an identifier: ask for the first one, and be told that there is no further one."""

SEPT_VE_DISABLE = 1 << 28
"""ATTRIBUTES: private pages that are not accepted raise no #VE; Linux insists on it."""

NOTIFY_ENABLES = 0x9110_0003_0000_0010
TD_CTLS = 0x9110_0003_0000_0017
ENUM_TOPOLOGY, VIRT_CPUID2, REDUCE_VE = 1 << 1, 1 << 2, 1 << 3
LOCK = 1 << 63
"""TD_CTLS. REDUCE_VE turns the two before it on; LOCK keeps everything as it is."""

_PENDING_VE_DISABLE = 1 << 0


_FORBIDDEN = (
    # Reserved bits, and the counts of a sequence: bits 31:24, 46:34, 49:47, 55 and 62.
    0xFF << 24 | 0x1FFF << 34 | 7 << 47 | 1 << 55 | 1 << 62
)


def _key(identifier: int) -> int:
    return identifier >> 32 & 0x3F00_0000 | identifier & 0xFF_FFFF


@dataclass(frozen=True, slots=True)
class Field:
    """Describe a field: what a guest may read of it and write in it, as masks.

    Identifiers say more than the field: its size, and which bits are ignored. ``key`` has what
    tells fields apart.
    """

    identifier: int
    name: str
    readable: int
    writable: int = 0

    @property
    def key(self) -> int:
        """Return the class and the field code of the identifier."""
        return _key(self.identifier)


_ALL, _BYTE, _WORD, _LONG = (1 << 64) - 1, 0xFF, 0xFFFF, 0xFFFF_FFFF

FIELDS = {
    field.key: field
    for field in (
        Field(0x9010_0002_0000_0001, "NUM_VCPUS", _LONG),
        Field(0x9010_0001_0000_0005, "NUM_L2_VMS", _WORD),
        Field(0x1110_0003_0000_0000, "ATTRIBUTES", _ALL),
        Field(0x1110_0002_0000_0002, "MAX_VCPUS", _LONG),
        Field(0x1110_0000_0000_0003, "GPAW", _BYTE),
        Field(0x1110_0003_0000_0004, "EPTP", 0),
        Field(0x1110_0003_0000_000A, "TSC_OFFSET", 0),
        Field(NOTIFY_ENABLES, "NOTIFY_ENABLES", 1, 1),
        Field(0x9110_0003_0000_0016, "CONFIG_FLAGS", _ALL),
        Field(TD_CTLS, "TD_CTLS", _ALL,
              _PENDING_VE_DISABLE | ENUM_TOPOLOGY | VIRT_CPUID2 | REDUCE_VE | LOCK),
        Field(0x9110_0000_0000_0019, "TOPOLOGY_ENUM_CONFIGURED", _BYTE),
    )
}  # fmt: skip
"""The fields that are kept, by class and code, in the order in which one follows the other."""


def find(identifier: int) -> Field | Status:
    """Return the field that an identifier names, or what the module says instead."""
    if identifier & _FORBIDDEN or (field := FIELDS.get(_key(identifier))) is None:
        return Status.TDX_METADATA_FIELD_ID_INCORRECT
    return field


def following(identifier: int | None) -> int:
    """Return the next field that a guest may read; None asks for the first."""
    keys = [field for field in FIELDS.values() if field.readable]
    if identifier is None:
        return keys[0].identifier
    later = [field.identifier for field in keys if field.key > _key(identifier)]
    return later[0] if later else NO_FIELD


def written(field: Field, old: int, value: int, mask: int) -> int | Status:
    """Return a field's new value, or why the module refuses to write it."""
    bits = field.writable & mask
    if bits == 0:
        return Status.TDX_METADATA_FIELD_NOT_WRITABLE
    if (old ^ value) & mask & ~field.writable:
        return Status.TDX_METADATA_FIELD_VALUE_NOT_VALID
    new = old & ~bits | value & bits
    return _controls(old, new) if field.identifier == TD_CTLS else new


def _controls(old: int, new: int) -> int | Status:
    # CONFIG_FLAGS.FLEXIBLE_PENDING_VE is 0: whether a private page raises #VE is settled.
    if (old & LOCK and new != old) or (old ^ new) & _PENDING_VE_DISABLE:
        return Status.TDX_METADATA_FIELD_VALUE_NOT_VALID
    return new | ENUM_TOPOLOGY | VIRT_CPUID2 if new & REDUCE_VE else new


def is_none(identifier: int) -> bool:
    """Return whether an identifier asks for the first field, whatever its context."""
    return identifier | 7 << 52 == NO_FIELD


def held(state: TdxState, identifier: int) -> int:
    """Return what a field holds: what the guest wrote, or what it was made with."""
    wide = int(state.gpaw == 52)
    made = {
        "NUM_VCPUS": state.vcpus, "MAX_VCPUS": state.vcpus, "ATTRIBUTES": SEPT_VE_DISABLE,
        "GPAW": wide, "CONFIG_FLAGS": wide, "TOPOLOGY_ENUM_CONFIGURED": 1,
    }  # fmt: skip
    field = FIELDS[_key(identifier)]
    return dict(state.fields).get(field.identifier, made.get(field.name, 0))
