"""The gate of vector 14 in two views, and what the guest means when it writes to it."""

from __future__ import annotations

import pytest

from tracer.x86.idt import Gate, guests_view, pack_gate, planted, unpack_gate

CODE = 0x10
OWN = Gate(0xFFFF_FFFF_82F5_007E, CODE << 16 | 0x8E << 40, 0)
NEXT = Gate(0xFFFF_FFFF_81A0_0B00, CODE << 16 | 0x8E << 40, 0)
DOOR, OTHER_DOOR = 0xFFFF_FFFF_81A0_240B, 0xFFFF_FFFF_81A0_244B


def test_gate() -> None:
    # offset 0xffffffff81a00b40, selector 0x10, IST 3, interrupt gate, present
    data = bytes.fromhex("400b1000038ea081ffffffff00000000")
    gate = unpack_gate(data)
    assert gate.handler == 0xFFFF_FFFF_81A0_0B40
    assert (gate.stack, gate.selector, gate.present, gate.usable) == (3, 0x10, True, True)
    assert pack_gate(gate) == data
    moved = Gate(0x1234_5678_9ABC_DEF0, gate.rest, gate.reserved)
    assert unpack_gate(pack_gate(moved)) == moved
    assert not unpack_gate(bytes(16)).present


@pytest.mark.parametrize(
    "text",
    [
        "00000000000000000000000000000000",
        "400b1000000ea081ffffffff00000000",  # not present
        "400b1000008ca081ffffffff00000000",  # a call gate's type
        "400b0000008ea081ffffffff00000000",  # no code segment
        "400b1000008ea081ffff0f0000000000",  # not canonical
    ],
)
def test_gates_that_lead_nowhere(text: str) -> None:
    gate = unpack_gate(bytes.fromhex(text))
    assert not gate.usable
    # Ours does, whatever the guest's is.
    ours = planted(gate, DOOR, 8)
    assert ours.usable and (ours.handler, ours.selector, ours.stack) == (DOOR, 8, 0)


def test_ours_is_as_the_guests_but_for_the_way() -> None:
    own = unpack_gate(bytes.fromhex("400b100003eea081ffffffff00000000"))  # IST 3, DPL 3
    assert planted(own, DOOR, 8) == Gate(DOOR, own.rest, 0)
    trap = unpack_gate(bytes.fromhex("400b1000008fa081ffffffff00000000"))
    on_our_stack = planted(trap, DOOR, 8, 7)
    assert (on_our_stack.stack, on_our_stack.selector) == (7, 0x10)
    assert on_our_stack.rest >> 40 & 0x1F == 0xE  # a trap gate would leave interrupts on


def there(own: Gate, door: int = DOOR) -> bytes:
    return pack_gate(planted(own, door, CODE))


def write(memory: bytes, at: int, data: bytes) -> tuple[bytes, range]:
    return memory[:at] + data + memory[at + len(data) :], range(at, at + len(data))


KNOWN = {
    DOOR: (pack_gate(OWN), there(OWN)),
    OTHER_DOOR: (pack_gate(NEXT), there(NEXT, OTHER_DOOR)),
}


@pytest.mark.parametrize(
    "pieces", [(8, 8), (2, 2, 1, 1, 2, 4, 4), (2, 4, 2, 4, 4), (1,) * 16, (16,)]
)
@pytest.mark.parametrize("told", [True, False])
def test_a_gate_rewritten_in_pieces(pieces: tuple[int, ...], told: bool) -> None:
    # The new handler shares bits 31:16 with the stub, and those of the old one are different.
    own, memory, at = pack_gate(OWN), there(OWN), 0
    for size in pieces:
        now, written = write(memory, at, pack_gate(NEXT)[at : at + size])
        own = guests_view(own, memory, now, written if told else None, KNOWN)
        # The stores that follow the first one are foreseen: they find the guest's own gate.
        memory, at = own, at + size
    if told or pieces in ((8, 8), (16,)):
        assert own == pack_gate(NEXT)


@pytest.mark.parametrize(("at", "data"), [(0, bytes(16)), (8, bytes(8)), (0, bytes(8)), (5, b"\0")])
def test_zeros(at: int, data: bytes) -> None:
    now, written = write(there(OWN), at, data)
    meant = guests_view(pack_gate(OWN), there(OWN), now, written, KNOWN)
    assert meant == write(pack_gate(OWN), at, data)[0]


def test_a_saved_gate_is_put_back() -> None:
    # Saved behind one door, put back where the way leads through another.
    saved = there(OWN)
    for now in (saved, saved[:8] + there(NEXT, OTHER_DOOR)[8:]):
        meant = guests_view(pack_gate(NEXT), there(NEXT, OTHER_DOOR), now, range(8), KNOWN)
        assert meant == pack_gate(OWN)


def test_a_gate_that_was_read_is_put_back_changed() -> None:
    now, written = write(there(OWN), 4, b"\x02")  # an interrupt stack
    meant = unpack_gate(guests_view(pack_gate(OWN), there(OWN), now, written, KNOWN))
    assert meant == Gate(OWN.handler, OWN.rest | 2 << 32, 0)
    whole = guests_view(pack_gate(OWN), there(OWN), now, range(16), KNOWN)
    assert unpack_gate(whole) == meant
