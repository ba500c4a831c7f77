"""The message of an interrupt, as its row has it."""

from __future__ import annotations

import pytest
from input_row import row

from tracer.compiled.inputs import Input, given
from tracer.compiled.layout import SLOT_SIZE
from tracer.compiled.message import Message, came_of_message, message_of, note_message
from tracer.compiled.ring import raws


@pytest.mark.parametrize(
    "message",
    [
        None, Message(0xFEE0_1004, 0x23), Message(0xFEE0_0000, 0), Message(None, 0x24),
        Message(0xFEEF_F00C, None), Message(None, None), Message(0xFEE0_1000, 0xFFFF_FFFF),
    ],
    ids=str,
)  # fmt: skip
def test_a_row_has_the_message_that_was_noted_and_all_else_as_it_was(
    message: Message | None,
) -> None:
    plain = row(Input.IRQ, 0x23, 0x23, width=1, rax=5)
    # Whatever a guest has written there is nothing.
    forged = bytearray(plain * 2)
    note_message(forged, SLOT_SIZE, Message(0xFEE0_2000, 0x99))
    note_message(forged, SLOT_SIZE, message)
    first, second = raws(bytes(forged))
    assert message_of(first) is None
    assert message_of(second) == message
    assert came_of_message(second.alias) is (message is not None)
    assert given(second, Input.IRQ) == given(first, Input.IRQ)
    assert second.gpr == first.gpr
