"""RAM of a guest in somebody else's QEMU: its shared file, or the memory of its process.

Code must not be written this way: QEMU would not notice that a translated block went stale.

Ref: QEMU qapi/machine.json (query-memdev), qapi/qom.json (MemoryBackendFileProperties); HMP
``gpa2hva``; proc(5), ``/proc/PID/mem``, which takes the rights of ptrace(2).
"""

from __future__ import annotations

import os
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from tracer.errors import GuestError, QemuError
from tracer.qemu.dialogue import Dialogue
from tracer.qemu.flat_view import FlatRange
from tracer.qemu.packet_ram import PacketMemory

_HOST = re.compile(r"Host virtual address for 0x[0-9a-f]+ \([^)]*\) is 0x([0-9a-f]+)")


@dataclass(frozen=True, slots=True)
class Store:
    """Say where the bytes of a backend are: in an open file, from ``start`` on."""

    descriptor: int
    start: int


@dataclass(frozen=True, slots=True)
class _Piece:
    # Physical ``start`` to ``end`` (inclusive) is at ``offset`` of a file.
    start: int
    end: int
    descriptor: int
    offset: int


class ForeignMemory:
    """Read and write a guest's RAM; a :class:`tracer.x86.paging.PhysicalMemory`.

    ``stores`` has the backends of RAM, by the names that QEMU's memory map has for them. ``before``
    is told what is at a physical address before it is written.
    """

    def __init__(self, stores: Mapping[str, Store]) -> None:
        self._stores = stores
        self._pieces: list[_Piece] = []
        self._starts: list[int] = []
        self.before: Callable[[int, bytes], None] | None = None

    def lay_out(self, ranges: Iterable[FlatRange]) -> None:
        """Learn where RAM lies in the physical address space."""
        found = [
            _Piece(item.start, item.end, store.descriptor, store.start + item.offset)
            for item in ranges
            if item.kind == "ram" and (store := self._stores.get(item.name)) is not None
        ]
        self._pieces = sorted(found, key=lambda piece: piece.start)
        self._starts = [piece.start for piece in self._pieces]

    def read(self, physical: int, size: int) -> bytes:
        """Return ``size`` bytes at a physical address; LookupError when they are not all RAM."""
        piece, offset = self._place(physical, size)
        try:
            data = os.pread(piece.descriptor, size, offset)
        except OSError as error:
            raise QemuError(f"the guest's RAM cannot be read any more: {error.strerror}") from error
        if len(data) != size:
            raise QemuError("the guest's RAM cannot be read any more: QEMU has ended")
        return data

    def write(self, physical: int, data: bytes) -> None:
        """Write bytes at a physical address; LookupError when they are not all RAM."""
        piece, offset = self._place(physical, len(data))
        if self.before is not None:
            self.before(physical, self.read(physical, len(data)))
        try:
            written = os.pwrite(piece.descriptor, data, offset)
        except OSError as error:
            raise QemuError(
                f"the guest's RAM cannot be written any more: {error.strerror}"
            ) from error
        if written != len(data):
            raise QemuError("the guest's RAM cannot be written any more: QEMU has ended")

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """Return the first and last physical address of each piece of RAM."""
        return [(piece.start, piece.end) for piece in self._pieces]

    def holds(self, physical: int, size: int) -> bool:
        """Tell whether ``size`` bytes at a physical address are RAM, every one of them."""
        end = physical + size
        while physical < end:
            piece = self._piece(physical)
            if piece is None:
                return False
            physical = piece.end + 1
        return True

    @property
    def descriptors(self) -> set[int]:
        """Return its files."""
        return {store.descriptor for store in self._stores.values()}

    def close(self) -> None:
        """Close its files; safe more than once."""
        for descriptor in self.descriptors:
            os.close(descriptor)
        self._stores = {}
        self._pieces, self._starts = [], []

    def _place(self, physical: int, size: int) -> tuple[_Piece, int]:
        piece = self._piece(physical)
        if piece is None or physical + size - 1 > piece.end:
            raise LookupError(f"no RAM at physical {physical:#x}")
        return piece, piece.offset + physical - piece.start

    def _piece(self, physical: int) -> _Piece | None:
        index = bisect_right(self._starts, physical) - 1
        if index < 0 or physical > self._pieces[index].end:
            return None
        return self._pieces[index]


async def open_ram(
    dialogue: Dialogue, ranges: Sequence[FlatRange], pid: int | None
) -> ForeignMemory | PacketMemory:
    """Return the RAM of a running QEMU, whose process is ``pid`` if that is known.

    It is that of packets where it can be opened neither way. Raises GuestError where QEMU does not
    tell where it is.
    """
    told = await dialogue.execute("query-memdev")
    backends = (
        [item for item in told if isinstance(item, Mapping)] if isinstance(told, list) else []
    )
    named = {item.name: item for item in reversed(ranges)}
    there = {name: named[name] for item in backends if (name := str(item.get("id"))) in named}
    if not there:
        raise GuestError("QEMU does not tell where the guest's RAM is (query-memdev)")
    stores: dict[str, Store] = {}
    process: int | None = None
    try:
        for name, piece in there.items():
            descriptor = await _shared_file(dialogue, name)
            if descriptor is not None:
                stores[name] = Store(descriptor, 0)
                continue
            process = _process_memory(pid) if process is None else process
            if process is None:
                break
            stores[name] = Store(process, await _host_address(dialogue, piece))
    except BaseException:
        for descriptor in {store.descriptor for store in stores.values()}:
            os.close(descriptor)
        raise
    memory: ForeignMemory | PacketMemory = ForeignMemory(stores)
    if process is None and len(stores) < len(there):
        memory.close()
        memory = PacketMemory(there)
    memory.lay_out(ranges)
    return memory


async def _shared_file(dialogue: Dialogue, name: str) -> int | None:
    # Opens the file of a backend that others may share; None where there is none.
    path = f"/objects/{name}"
    try:
        if await dialogue.execute("qom-get", {"path": path, "property": "share"}) is not True:
            return None
        file = await dialogue.execute("qom-get", {"path": path, "property": "mem-path"})
        return os.open(str(file), os.O_RDWR | os.O_CLOEXEC)
    except (QemuError, OSError):
        # A memfd has no name, and neither has what QEMU makes in a folder.
        return None


async def _host_address(dialogue: Dialogue, piece: FlatRange) -> int:
    told = _HOST.match(await dialogue.monitor(f"gpa2hva {piece.start:#x}"))
    if told is None:
        raise GuestError(f"QEMU does not tell where it has physical {piece.start:#x} (gpa2hva)")
    return int(told[1], 16) - piece.offset


def _process_memory(pid: int | None) -> int | None:
    if pid is None:
        return None
    try:
        return os.open(f"/proc/{pid}/mem", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
