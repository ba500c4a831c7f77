"""The port to the QEMU that runs a guest, whoever started it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tracer.qemu.console import Console
from tracer.qemu.dialogue import Dialogue
from tracer.qemu.ending import Ending
from tracer.x86.paging import PhysicalMemory


class Ram(PhysicalMemory, Protocol):
    """Guest RAM, and where there is any: see :class:`tracer.intercept.ground.Memory`."""

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """Return the first and last physical address of each piece of RAM."""
        ...

    def holds(self, physical: int, size: int) -> bool:
        """Tell whether ``size`` bytes at a physical address are RAM, every one of them."""
        ...


@dataclass(frozen=True, slots=True)
class Kept:
    """Say that memory is at ``offset`` of an open file, which the process ``writer`` changes."""

    descriptor: int
    offset: int
    writer: int


class GuestMachine(Protocol):
    """Stand for one QEMU with its guest: vetrace's own, or somebody else's.

    ``on_exit`` is called once the guest is gone, however it went.
    """

    on_exit: Callable[[], None]

    @property
    def dialogue(self) -> Dialogue:
        """Return the dialogue with its monitor."""
        ...

    @property
    def console(self) -> Console | None:
        """Return the guest's console, None where it is somebody else's."""
        ...

    @property
    def memory(self) -> Ram:
        """Return the guest's RAM."""
        ...

    @property
    def version(self) -> str:
        """Return QEMU's version, in numbers."""
        ...

    @property
    def realtime(self) -> bool:
        """Tell whether the guest's clock is the host's."""
        ...

    @property
    def outcome(self) -> str:
        """Return in a word how the run has ended, where it has ended well."""
        ...

    @property
    def command_line(self) -> str:
        """Return the kernel's command line, empty where it is not known."""
        ...

    @property
    def size(self) -> int:
        """Return how many bytes of RAM the guest has."""
        ...

    @property
    def arguments(self) -> Sequence[str]:
        """Return the QEMU arguments that describe the machine, as far as they are known."""
        ...

    def kept(self, physical: int, size: int) -> Kept | None:
        """Return where a piece of RAM can be found once vetrace is gone, if it can."""
        ...

    def let_go(self) -> None:
        """Take note that the guest goes on without any trap."""
        ...

    @property
    def gdb_socket(self) -> Path:
        """Return the path of the socket where QEMU's GDB stub listens."""
        ...

    def forget_socket(self) -> None:
        """Take note that GDB is connected: nothing else will be."""
        ...

    async def log_accesses(self) -> None:
        """Have accesses to devices logged from here on, if that is asked for; the guest stands."""
        ...

    @property
    def log_size(self) -> int | None:
        """Return how many bytes of QEMU's log there are, None where nobody asked for one."""
        ...

    @property
    def map_changed(self) -> bool:
        """Tell whether the memory map may be another one than when this was asked last."""
        ...

    def woken(self) -> int | None:
        """Return where in QEMU's log the machine was reset to wake up, if it was since last asked.

        That is told once QEMU has answered anything.
        """
        ...

    def tick(self) -> float:
        """Return the guest's time in seconds, as of the last call, without waiting for QEMU."""
        ...

    async def time_ns(self) -> int | None:
        """Return the guest's time in nanoseconds, None when QEMU has never told it."""
        ...

    @property
    def last_line(self) -> str | None:
        """Return the end of the last line that the guest printed, None when that is not known."""
        ...

    async def ended(self) -> Ending:
        """Wait until vetrace has nothing to do with the guest any more; tell how it ended."""
        ...
