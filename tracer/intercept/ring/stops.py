"""The accesses to which a guest with compiled sites makes stops although it need not."""

from __future__ import annotations

import struct
from collections.abc import Iterable

from tracer.access.decision import Interest, Origin
from tracer.compiled import layout
from tracer.compiled.layout import LONGEST, STOP_PLACES, WIDE, control_field
from tracer.compiled.sites import SiteTable
from tracer.intercept.ring.block import Block


class Stops:
    """Keep what the block says of which accesses go the slow way."""

    def __init__(self, block: Block, table: SiteTable) -> None:
        self._block = block
        self._table = table
        self._stops = bytes(STOP_PLACES)
        self._wides = bytes(16 * WIDE), range(0)
        self._interests: tuple[Interest, ...] = ()
        self._origins: list[Origin] = []

    def holds(self, origin: Origin) -> bool:
        """Tell whether a site that comes from there is to have its accesses go the slow way."""
        return any(interest.may_come_from(origin) for interest in self._interests)

    def know(self, origin: Origin) -> None:
        """Take where the accesses of the table's next site come from."""
        self._origins.append(origin)

    def of(self, interests: tuple[Interest, ...]) -> bool:
        """Send the accesses of sites that concern somebody the slow way, of later ones as well.

        It tells whether that is done, under the conditions of :meth:`at`.
        """
        if interests != self._interests:
            if not self._block.idle:
                return False
            self._interests = interests
            held = (number for number, each in enumerate(self._origins) if self.holds(each))
            for offset, data in self._table.hold(held):
                self._block.write(offset, data)
        return True

    def at(self, wanted: Iterable[range], setup: range = range(0)) -> bool:
        """Send the accesses to these physical addresses the slow way; tell whether that is done.

        Those to ``setup``, which lies in whole pages, go there if they are writes. Every vCPU
        stands; it cannot be done while one is on the fast way. Where a place is wanted,
        so are those at which an access begins that reaches it. The largest ranges take the rest of
        their pages with them, others the addresses that are alike in their low bits.
        """
        parts = sorted(self._block.window.pieces(wanted), key=len, reverse=True)
        wide = [part for part in parts[:WIDE] if len(part) >= layout.PAGE]
        words = b"".join(map(self._wide, wide)).ljust(16 * WIDE, b"\0")
        if (words, setup) != self._wides:
            if not self._block.idle:
                return False
            self._wides = words, setup
            self._block.write(control_field("WIDE0"), words)
            seen = next(self._block.window.pieces([setup]), range(0))
            self._block.write(control_field("SETUP"), self._wide(seen))
            for offset, data in self._table.forget():
                self._block.write(offset, data)
        stops = bytearray(STOP_PLACES)
        for part in parts[len(wide) :]:
            first = part.start - (LONGEST - 1)
            size = min(part.stop - first, STOP_PLACES)
            at = first % STOP_PLACES
            head = min(size, STOP_PLACES - at)
            stops[at : at + head] = b"\1" * head
            stops[: size - head] = b"\1" * (size - head)
        if stops != self._stops:
            self._stops = bytes(stops)
            self._block.write(layout.STOPS, self._stops)
        return True

    def also(self, physical: int) -> None:
        """Send the accesses to one more physical address the slow way, until :meth:`at` is called.

        The guest may run: an access that is under way is not meant.
        """
        for part in self._block.window.pieces([range(physical, physical + 1)]):
            at = part.start % STOP_PLACES
            if not self._stops[at]:
                self._stops = self._stops[:at] + b"\1" + self._stops[at + 1 :]
                self._block.write(layout.STOPS + at, b"\1")

    def _wide(self, part: range) -> bytes:
        start, end = part.start & -layout.PAGE, part.stop + layout.PAGE - 1 & -layout.PAGE
        return struct.pack("<2Q", self._block.window.place(start), end - start)
