"""The message that an interrupt came of, in the row of that interrupt.

The monitor leaves its words 0: no vCPU takes part in a message. Who takes the row writes them, by
what the guest has told its sources of messages.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from tracer.compiled.layout import RECORD_FIELDS
from tracer.compiled.ring import Raw

_SENT, _HAS_ADDRESS, _HAS_DATA = 1 << 63, 1 << 62, 1 << 61
_LOW = (1 << 32) - 1
_WORDS = struct.Struct("<Q")
_DATA = struct.Struct("<I")
_DATA_AT = 4
"""Offset in ``READ`` of the data, behind the vector."""


@dataclass(frozen=True, slots=True)
class Message:
    """Hold what a message-signalled interrupt wrote, 4 bytes of ``data``, and where.

    ``address`` is physical, and below 4 GiB, as each of an x86 is. Either is None where nobody
    knows it.
    """

    address: int | None
    data: int | None


def note_message(rows: bytearray, at: int, message: Message | None) -> None:
    """Write into the row of an interrupt, from byte ``at`` on, which message it came of, if any."""
    word = data = 0
    if message is not None:
        word = _SENT
        if message.address is not None:
            word |= _HAS_ADDRESS | message.address & _LOW
        if message.data is not None:
            word |= _HAS_DATA
            data = message.data & _LOW
    _WORDS.pack_into(rows, at + RECORD_FIELDS["ALIAS"], word)
    _DATA.pack_into(rows, at + RECORD_FIELDS["READ"] + _DATA_AT, data)


def came_of_message(alias: int) -> bool:
    """Tell whether the interrupt of a row came of a message, by the row's ``alias``."""
    return bool(alias & _SENT)


def message_of(raw: Raw) -> Message | None:
    """Return the message that the interrupt of a row came of, None where none is known."""
    if not came_of_message(raw.alias):
        return None
    (data,) = _DATA.unpack_from(raw.read, _DATA_AT)
    return Message(
        raw.alias & _LOW if raw.alias & _HAS_ADDRESS else None,
        data if raw.alias & _HAS_DATA else None,
    )
