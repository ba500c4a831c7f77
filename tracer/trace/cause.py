"""What sent the interrupts of a guest, by what it has told whoever may send any.

A vCPU is told a vector alone. Whose that is follows from what the guest has written before: entries
of MSI-X tables, MSI capabilities, redirection entries of the I/O APIC
(:mod:`tracer.trace.messages`), the local vector table and the interrupt command register of each
local APIC, by memory or by MSRs, and the two PICs. Of several that hold a vector those count that
can send it to this vCPU now: not what is masked, nor what is for others.

Ref: Intel SDM vol. 3A, 10.5.1 (local vector table), 10.6 (interrupt command register),
10.12 (x2APIC); Intel 8259A, initialization command words; QEMU hw/intc/i8259.c (pic_ioport_write),
hw/intc/apic.c (apic_accept_pic_intr).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from tracer.compiled.message import Message
from tracer.trace.member import Space
from tracer.trace.messages import Holder, Messages, tells
from tracer.x86.bus import Direction

UNKNOWN: Final = "unknown"
"""The cause of an interrupt of a vector that nobody is known to send."""
PIC: Final = "pic"
IPI: Final = "ipi"
SELF_IPI: Final = "self-ipi"
"""Causes of an interrupt that another vCPU has sent, and of one that a vCPU sends itself."""

LAPIC: Final = "lapic"
"""The region of the local APIC."""
_LOCAL: Final = {
    0x2F0: "lapic cmci",
    0x320: "lapic timer",
    0x330: "lapic thermal",
    0x340: "lapic performance counter",
    0x350: "lapic lint0",
    0x360: "lapic lint1",
    0x370: "lapic error",
}
"""The entries of the local vector table, by offset."""
_LINTS = 0x350, 0x360
_ID, _LDR, _DFR, _ICR, _ICR_HIGH, _SELF = 0x20, 0xD0, 0xE0, 0x300, 0x310, 0x3F0
_FOLLOWED = frozenset({*_LOCAL, _ID, _LDR, _DFR, _ICR, _ICR_HIGH})
_X2APIC = range(0x800, 0x840)
"""MSRs of the local APIC: one for each 16 bytes of its registers."""
_MASKED = 1 << 16
_ALL = 0xFF


def is_message(cause: str) -> bool:
    """Tell whether a cause, one name, sends messages: a device or a pin of the I/O APIC."""
    return cause not in (UNKNOWN, PIC, IPI, SELF_IPI) and not cause.startswith("lapic ")


class _Sender(NamedTuple):
    # Names what may have sent an interrupt, and the message that it sends, if it does.
    name: str
    message: Message | None = None


# Any of them may have sent an interrupt: returns that in which all agree, if each sends messages.
def _agreed(messages: Collection[Message | None]) -> Message | None:
    sent = [each for each in messages if each is not None]
    if not sent or len(sent) < len(messages):
        return None
    addresses, data = {each.address for each in sent}, {each.data for each in sent}
    return Message(
        addresses.pop() if len(addresses) == 1 else None, data.pop() if len(data) == 1 else None
    )


PICS: Final = {0x20: 0, 0x21: 0, 0xA0: 1, 0xA1: 1}
"""The ports of the PICs, each with the number of its PIC."""


@dataclass(frozen=True, slots=True)
class _Pic:
    # One PIC: its first vector, None before it is told, its mask, and the word that comes next.
    first: int | None = None
    mask: int = _ALL
    due: int = 0
    single: bool = False
    fourth: bool = False

    def written(self, second_port: bool, value: int) -> _Pic:
        if not second_port:
            if not value & 0x10:
                return self  # a command
            return replace(self, mask=0, due=2, single=bool(value & 2), fourth=bool(value & 1))
        match self.due:
            case 0:
                return replace(self, mask=value)
            case 2:
                due = 3 if not self.single else 4 if self.fourth else 0
                return replace(self, first=value & 0xF8, due=due)
            case 3:
                return replace(self, due=4 if self.fourth else 0)
            case _:
                return replace(self, due=0)

    def holds(self, vector: int) -> bool:
        return self.first is not None and self.first <= vector < self.first + 8

    def sends(self, vector: int) -> bool:
        return self.first is not None and not self.mask >> (vector - self.first) & 1


class Causes:
    """Follow what a guest tells its sources of interrupts, and say what sent one."""

    def __init__(self) -> None:
        self._messages = Messages()
        # Registers of local APICs by vCPU and offset; those of x2APIC are wider.
        self._local: dict[tuple[int, int], int] = {}
        self._wide: set[int] = set()
        self._vcpus: set[int] = set()
        self._pics = (_Pic(), _Pic())
        # Vectors that were sent to a vCPU and have not come yet, and by whom each was sent last.
        self._due: dict[tuple[int, int], str] = {}
        self._sent: dict[int, str] = {}
        self._known: dict[tuple[int, int], tuple[str, Message | None]] = {}

    def copy(self) -> Causes:
        """Return what has followed the same."""
        made = Causes()
        made._messages = self._messages.copy()
        made._local, made._wide = dict(self._local), set(self._wide)
        made._vcpus, made._pics = set(self._vcpus), self._pics
        made._due, made._sent = dict(self._due), dict(self._sent)
        made._known = dict(self._known)
        return made

    @staticmethod
    def follows(space: Space, place: int, region: str | None, direction: Direction) -> bool:
        """Tell whether an access may say something of interrupts.

        ``place`` is the port or the index of the MSR; in memory the offset in the region.
        """
        match space:
            case "memory":
                if region is None:
                    return False
                if region == LAPIC:
                    return place in _FOLLOWED and (direction == "write" or place == _ID)
                return direction == "write" and tells(region)
            case "config":
                return direction == "write"
            case "port":
                return direction == "write" and place in PICS
            case "msr":
                return place in _X2APIC
            case _:
                return False

    def note(
        self,
        vcpu: int,
        space: Space,
        place: int,
        region: str | None,
        direction: Direction,
        width: int,
        value: int,
    ) -> None:
        """Take notice of an access that :meth:`follows`; ``place`` is as there.

        In configuration space it is the address there.
        """
        self._vcpus.add(vcpu)
        match space:
            case "msr":
                if vcpu not in self._wide:
                    self._wide.add(vcpu)
                    self._known.clear()
                self._apic(vcpu, 16 * (place - _X2APIC.start), direction, value)
            case "port":
                pics = list(self._pics)
                number = PICS[place]
                pics[number] = pics[number].written(bool(place & 1), value & 0xFF)
                self._pics = pics[0], pics[1]
                self._known.clear()
            case _ if region == LAPIC:
                self._apic(vcpu, place, direction, value)
            case _:
                self._messages.note(region or "", place, width, value)
                self._known.clear()

    def cause(self, vcpu: int, vector: int) -> str:
        """Return what sent an interrupt that a vCPU takes: one name, or several joined by ``or``.

        It is :data:`UNKNOWN` where nobody is known to.
        """
        told, _ = self.expected(vcpu, vector)
        self._due.pop((vcpu, vector), None)
        return told

    def expected(self, vcpu: int, vector: int) -> tuple[str, Message | None]:
        """Return what :meth:`cause` would, and the message that such an interrupt comes of.

        There is none where its cause may be something that sends no message. Of a message that may
        be one of several, that is known in which all of these agree.
        """
        self._vcpus.add(vcpu)
        sent = self._due.get((vcpu, vector))
        key = vcpu, vector
        if sent is None and key in self._known:
            return self._known[key]
        able, others = list[_Sender](), list[_Sender]()
        for can, sender in self._holders(vcpu, vector):
            (able if can else others).append(sender)
        if sent is not None:
            able.append(_Sender(sent))
        found = able or self._before(vcpu, vector, others) or [self._last(vector)]
        names = {sender.name for sender in found}
        told = " or ".join(sorted(names)), _agreed([sender.message for sender in found])
        if sent is None and UNKNOWN not in names:
            self._known[key] = told
        return told

    # Who cannot send a vector now may have sent it while its message was another one.
    def _before(self, vcpu: int, vector: int, others: list[_Sender]) -> list[_Sender]:
        former = self._messages.former(vector)
        if former is None or self._reaches(vcpu, *former.destination) is False:
            return others
        told = _Sender(former.name, former.message(vector))
        return [told if other.name == former.name else other for other in others]

    def _last(self, vector: int) -> _Sender:
        former = self._messages.former(vector)
        if former is not None:
            return _Sender(former.name, former.message(vector))
        return _Sender(self._sent.get(vector, UNKNOWN))

    # Who holds a vector, each behind whether it can send it to a vCPU now.
    def _holders(self, vcpu: int, vector: int) -> Iterator[tuple[bool, _Sender]]:
        for each in self._messages.holders:
            if each.holds(vector):
                reaches = self._reaches(vcpu, *each.destination) is not False
                can = reaches and not each.masked
                yield can, _Sender(each.name, each.message(vector))
        for offset, name in _LOCAL.items():
            entry = self._local.get((vcpu, offset))
            if entry is None or entry & 0xFF != vector:
                continue
            if offset not in _LINTS or not entry >> 8 & 7:
                yield not entry & _MASKED, _Sender(name)
        for pic in self._pics:
            if pic.holds(vector):
                yield pic.sends(vector) and self._hears_pics(vcpu), _Sender(PIC)

    # Firmware opens the first vCPU's pin for the PICs.
    def _hears_pics(self, vcpu: int) -> bool:
        entry = self._local.get((vcpu, _LINTS[0]), 0 if vcpu == 0 else _MASKED)
        return not entry & _MASKED or self._messages.external

    def reaches(self, vcpu: int, address: int) -> bool | None:
        """Tell whether a message to a physical address is for a vCPU; None where nobody knows."""
        holder = Holder("", address, 0)
        return self._reaches(vcpu, *holder.destination)

    # None where nobody knows.
    def _reaches(self, vcpu: int, destination: int, logical: bool) -> bool | None:
        wide = vcpu in self._wide
        if not logical:
            if destination == (_ALL << 24 | 0xFF_FFFF if wide else _ALL):
                return True
            number = self._local.get((vcpu, _ID))
            if number is None:
                return None
            return destination == (number if wide else number >> 24)
        mine = self._local.get((vcpu, _LDR))
        if mine is None:
            return None
        if wide:
            return mine >> 16 == destination >> 16 and bool(mine & destination & 0xFFFF)
        mine >>= 24
        if self._local.get((vcpu, _DFR), _ALL << 24) >> 28 == 0:
            return mine >> 4 == destination >> 4 and bool(mine & destination & 0xF)
        return bool(mine & destination)

    def _apic(self, vcpu: int, offset: int, direction: Direction, value: int) -> None:
        if direction == "write" and offset == _SELF:
            self._send(vcpu, value & 0xFF, {vcpu})
            return
        if direction == "write" and offset == _ICR:
            self._command(vcpu, value)
            return
        if self._local.get((vcpu, offset)) != value:
            self._local[vcpu, offset] = value
            self._known.clear()

    def _command(self, vcpu: int, value: int) -> None:
        if value >> 8 & 7 > 1:  # neither fixed nor lowest priority: no vector
            return
        wide = vcpu in self._wide
        high = value >> 32 if wide else self._local.get((vcpu, _ICR_HIGH), 0) >> 24
        match value >> 18 & 3:
            case 1:
                to = {vcpu}
            case 2:
                to = set(self._vcpus)
            case 3:
                to = self._vcpus - {vcpu}
            case _:
                logical = bool(value & 1 << 11)
                to = {v for v in self._vcpus if self._reaches(v, high, logical) is not False}
        self._send(vcpu, value & 0xFF, to)

    def _send(self, vcpu: int, vector: int, to: set[int]) -> None:
        name = SELF_IPI if to == {vcpu} else IPI
        self._sent[vector] = name
        self._due.update(dict.fromkeys([(each, vector) for each in to], name))
