"""RAM of a guest in a QEMU whose memory cannot be opened: by packets to its GDB stub.

Before the guest stands it is read from a copy of a moment, which QEMU's monitor makes. A packet has
2 KiB at most (QEMU gdbstub.c, MAX_PACKET_LENGTH); what was read is known until anything else is
asked of GDB.

Ref: QEMU docs/system/gdb.rst ("Examining physical memory"); qapi/machine.json (pmemsave),
qapi/misc.json (add-fd).
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from tracer.errors import GuestError, QemuError
from tracer.qemu.dialogue import Dialogue
from tracer.qemu.flat_view import FlatRange

Exchange = Callable[[Sequence[str]], Sequence[str]]
"""Sends packets and returns the answers, without anything else happening meanwhile."""

_MOST = 2048
_LINE = 256
"""Bytes that are read at once: more costs, and what is near is wanted next."""
_PHYSICAL, _VIRTUAL = "Qqemu.PhyMemMode:1", "Qqemu.PhyMemMode:0"


class PacketMemory:
    """Read and write a guest's RAM; a :class:`tracer.x86.paging.PhysicalMemory`.

    ``names`` are those that QEMU's memory map has for its backends. ``before`` is told what is at a
    physical address before it is written.
    """

    descriptors: tuple[int, ...] = ()
    """It has no files."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = names
        self._ranges: list[tuple[int, int]] = []
        self._copies: dict[int, mmap.mmap] = {}
        self._exchange: Exchange | None = None
        self._moment: Callable[[], int] = lambda: 0
        self._known: dict[int, bytes] = {}
        self._known_at = -1
        self.before: Callable[[int, bytes], None] | None = None

    def lay_out(self, ranges: Iterable[FlatRange]) -> None:
        """Learn where RAM lies in the physical address space."""
        self._ranges = sorted(
            (item.start, item.end)
            for item in ranges
            if item.kind == "ram" and item.name in self._names
        )

    async def copy(self, dialogue: Dialogue) -> None:
        """Have QEMU copy all RAM as it is now: it is read from there until :meth:`connect`."""
        for start, end in self._ranges:
            descriptor = os.memfd_create("vetrace-copy")
            try:
                dialogue.send(descriptor)
                added = await dialogue.execute("add-fd")
                told = added if isinstance(added, Mapping) else {}
                file = f"/proc/self/fd/{told.get('fd')}"
                where = {"val": start, "size": end + 1 - start, "filename": file}
                await dialogue.execute("pmemsave", where)
                await dialogue.execute("remove-fd", {"fdset-id": told.get("fdset-id")})
                self._copies[start] = mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)
            except (QemuError, ValueError, OSError) as error:
                why = f"QEMU does not copy the guest's RAM (pmemsave): {error}"
                raise GuestError(why) from error
            finally:
                os.close(descriptor)

    def connect(self, exchange: Exchange, moment: Callable[[], int]) -> None:
        """Read and write by packets from here on; the guest stands whenever that is done.

        ``moment`` counts what is asked of GDB, packets of this among it.
        """
        for copy in self._copies.values():
            copy.close()
        self._copies, self._known = {}, {}
        self._exchange, self._moment = exchange, moment

    def read(self, physical: int, size: int) -> bytes:
        """Return ``size`` bytes at a physical address; LookupError when they are not all RAM."""
        start, end = self._range(physical, size)
        if self._exchange is None:
            copy = self._copies.get(start)
            if copy is None:
                raise QemuError("the guest's RAM cannot be read yet")
            return copy[physical - start : physical - start + size]
        first = max(start, physical & -_LINE)
        last = min(end, (physical + size - 1) | (_LINE - 1))
        self._fetch(first, last)
        data = b"".join(self._known[at] for at in range(first & -_LINE, last + 1, _LINE))
        return data[physical - first : physical - first + size]

    def write(self, physical: int, data: bytes) -> None:
        """Write bytes at a physical address; LookupError when they are not all RAM."""
        self._range(physical, len(data))
        if self.before is not None:
            self.before(physical, self.read(physical, len(data)))
        pieces = [
            f"M{physical + at:x},{len(data[at : at + _MOST]):x}:{data[at : at + _MOST].hex()}"
            for at in range(0, len(data), _MOST)
        ]
        self._known = {}
        if any(answer != "OK" for answer in self._asked(pieces)):
            raise QemuError("the guest's RAM cannot be written any more")

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """Return the first and last physical address of each piece of RAM."""
        return self._ranges

    def holds(self, physical: int, size: int) -> bool:
        """Tell whether ``size`` bytes at a physical address are RAM, every one of them."""
        end = physical + size
        while physical < end:
            last = next((last for first, last in self._ranges if first <= physical <= last), None)
            if last is None:
                return False
            physical = last + 1
        return True

    def close(self) -> None:
        """Forget all; safe more than once."""
        self.connect(lambda packets: [], lambda: 0)

    def _range(self, physical: int, size: int) -> tuple[int, int]:
        for start, end in self._ranges:
            if start <= physical and physical + size - 1 <= end:
                return start, end
        raise LookupError(f"no RAM at physical {physical:#x}")

    def _fetch(self, first: int, last: int) -> None:
        # Has all lines from one address to another known: in packets of as many as are missing.
        if self._known_at != self._moment():
            self._known = {}
        wanted = [
            at for at in range(first & -_LINE, last + 1, _LINE) if at not in self._known
        ]  # each begins within one line of RAM, which begins and ends with pages
        runs: list[tuple[int, int]] = []
        for at in wanted:
            begin, size = runs[-1] if runs else (at, 0)
            if size and begin + size == at and size < _MOST:
                runs[-1] = begin, size + _LINE
            else:
                runs.append((at, _LINE))
        answers = self._asked([f"m{at:x},{size:x}" for at, size in runs]) if runs else []
        for (at, size), answer in zip(runs, answers, strict=True):
            try:
                data = bytes.fromhex(answer)
            except ValueError:
                data = b""
            if len(data) != size:
                raise QemuError(f"the guest's RAM cannot be read any more: {answer!r}")
            for offset in range(0, size, _LINE):
                self._known[at + offset] = data[offset : offset + _LINE]

    def _asked(self, packets: Sequence[str]) -> Sequence[str]:
        if self._exchange is None:
            raise QemuError("the guest's RAM cannot be reached yet")
        _, *answers, _ = self._exchange([_PHYSICAL, *packets, _VIRTUAL])
        self._known_at = self._moment()
        return answers
