"""Linux as it is installed on a disk: which kernel it is shows once its boot loader has started it.

No code of a boot loader or a decompressor has to be known: whatever they are, the kernel's own
first code goes on from the addresses that it was unpacked at, which map all RAM one to one, to
those that it is linked for, in the last 2 GiB. Nobody uses these before, and there it first reads
data: its GDT's descriptor (Linux arch/x86/kernel/head_64.S, startup_64). Its page tables map the
image by then, and nothing in it has run yet but code that is never left again. QEMU asks whether
an access is watched when a page is brought into the TLB, so that it costs firmware and boot loader
nothing (accel/tcg/cputlb.c, tlb_set_page_full).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from pathlib import Path

from tracer.access.space import AddressSpace
from tracer.access.stop import Stopped
from tracer.access.symbols import SymbolTable
from tracer.access.vcpu import RegisterFile
from tracer.access.want import DeleteBreakpoint, MemoryMap, Registers, Resume, WatchAccesses
from tracer.errors import GuestError, GuestHung, KernelImageError
from tracer.linux.entry import reach_entry
from tracer.linux.kaslr import ALIGNMENT, KERNEL_MAP
from tracer.linux.kernel import Facts, Kernel
from tracer.linux.origin import Booted
from tracer.linux.place import tables_of
from tracer.linux.resident import Resident, find_kernel
from tracer.linux.system import Linux
from tracer.x86.paging import PhysicalMemory

PLACES = range(KERNEL_MAP, KERNEL_MAP + (1 << 30))
"""Linear addresses of the kernel's image, with KASLR; without it these are half as many
(KERNEL_IMAGE_SIZE)."""

# Intel SDM vol. 3A, 2.5 (CR0.PG) and 2.2.1 (EFER.LMA).
_PAGING = 1 << 31
_LONG_MODE = 1 << 10

_BANNER = re.compile(rb"Linux version (\d+\.[^ \0\n]+) ")
_SEARCHED = range(1 << 20, 256 << 20)
"""Physical addresses at which a 32-bit kernel lies (CONFIG_PHYSICAL_START and what KASLR adds)."""
_COMMAND_LINE = 2048  # bytes (COMMAND_LINE_SIZE)
_PIECE, _OVERLAP = 1 << 20, 256  # bytes


class InstalledLinux(Linux):
    """Know one Linux guest whose kernel comes from a disk, and whose boot loader starts it.

    ``disk`` is the image of that disk. ``progress`` is called with a line of text before what takes
    long. With a ``file`` of the kernel, which is held to what is started, nothing else of it has to
    be in RAM.
    """

    patience = 60.0

    def __init__(
        self, disk: Path, progress: Callable[[str], None], file: Kernel | None = None
    ) -> None:
        super().__init__(None, Booted(""))
        self._disk = disk
        self._progress = progress
        self._file = file

    async def reach_entry(self, memory: PhysicalMemory) -> None:
        """Run firmware and boot loader to the kernel, learn what it is, and run that to its entry.

        Raises KernelImageError where it cannot be traced, GuestError where there is none.
        """
        registers = await self._entered(memory)
        space = tables_of(registers, memory)
        if self._file is None:
            self._progress("a kernel has been entered: reading its symbols in the guest's RAM")
            kernel, moved = self._found(space), 0
        else:
            kernel = self._file
            moved = self._moved(kernel, space)
        self.meet(kernel)
        self.names.move(moved)
        await reach_entry(kernel, moved)
        self.command_line = command_line_of(self.names.kernel, tables_of(await Registers(), memory))

    def _found(self, space: AddressSpace) -> Kernel:
        try:
            return kernel_of(self._disk, find_kernel(space.memory, space.paging))
        except KernelImageError as error:
            raise KernelImageError(
                f"{self._disk}: {error}; give its file: --kernel-file"
            ) from error

    def _moved(self, kernel: Kernel, space: AddressSpace) -> int:
        moved = moved_in(kernel, space)
        if moved is not None:
            return moved
        started = "another kernel"
        with contextlib.suppress(KernelImageError):
            started = f"Linux {find_kernel(space.memory, space.paging).release}"
        raise GuestError(
            f"{self._disk} starts {started}, and not {kernel.path} ({kernel.release}): leave "
            "--kernel-file out, and its symbols are read in the guest's RAM"
        )

    async def _entered(self, memory: PhysicalMemory) -> RegisterFile:
        # Runs to the kernel's first access to its own data.
        number = await WatchAccesses(PLACES.start, len(PLACES))
        ran = await Resume()
        await MemoryMap()  # tells where RAM is
        registers = await Registers()
        if not ran.stop.ended:
            await DeleteBreakpoint(number)
        try:
            stop = ran.in_time()
        except GuestHung:
            self._refuse_32_bits(registers, memory)
            raise
        if not stop.watched:
            self._refuse_32_bits(registers, memory)
            raise GuestError(self._why_not(stop))
        if not entered_by(registers):
            raise GuestError(
                f"{self._disk}: no 64-bit Linux was started, but something else that uses its "
                f"kernel's addresses, at {registers['rip']:#x}"
            )
        return registers

    def _why_not(self, stop: Stopped) -> str:
        if stop.ended:
            return f"{self._disk}: the guest ended before a 64-bit Linux kernel was entered"
        return (
            f"{self._disk}: the guest stopped before its kernel was entered "
            f"({stop.reason or stop.payload})"
        )

    def _refuse_32_bits(self, registers: RegisterFile, memory: PhysicalMemory) -> None:
        if not registers["cr0"] & _PAGING or registers["efer"] & _LONG_MODE:
            return
        release = release_in(memory)
        if release is not None:
            raise KernelImageError(
                f"{self._disk}: Linux {release}, which it starts, is a 32-bit kernel; vetrace "
                "traces 64-bit ones"
            )


def moved_in(kernel: Kernel, space: AddressSpace) -> int | None:
    """Return how far a kernel has moved, in bytes, None where it is not the one that was started.

    Its banner tells where it is, and whether it is that kernel.
    """
    text = kernel.facts.banner.encode("latin-1")
    for link in kernel.facts.banner_links:
        for moved in range(0, len(PLACES), ALIGNMENT):
            if space.read(link + moved, len(text)) == text:
                return moved
    return None


def entered_by(registers: RegisterFile) -> bool:
    """Tell whether a vCPU that has come to data at :data:`PLACES` is in a kernel's code there."""
    return bool(registers["efer"] & _LONG_MODE) and registers["rip"] in PLACES


def command_line_of(symbols: SymbolTable, space: AddressSpace) -> str:
    """Return the command line of a kernel at its entry, empty where it does not say where it is.

    ``symbols`` are where it has moved.

    Ref: Linux arch/x86/kernel/head64.c (copy_bootdata), init/main.c (boot_command_line).
    """
    where = symbols.address_of("boot_command_line")
    text = b"" if where is None else space.read(where, _COMMAND_LINE)
    return text.partition(b"\0")[0].decode("utf-8", "replace")


def release_in(memory: PhysicalMemory) -> str | None:
    """Return the release of the lowest kernel that is unpacked in RAM, None where there is none."""
    for start in range(_SEARCHED.start, _SEARCHED.stop, _PIECE):
        for size in (_PIECE + _OVERLAP, _PIECE):  # RAM may end here
            try:
                found = _BANNER.search(memory.read(start, size))
            except LookupError:
                continue
            if found is not None:
                return found[1].decode("latin-1")
            break
    return None


def kernel_of(disk: Path, found: Resident) -> Kernel:
    """Return the kernel that was found in RAM; ``disk`` is what it comes from.

    No file of it has been seen, so there is no hash and there are no modules of one.
    """
    banner = found.symbols.address_of("linux_banner")
    facts = Facts(
        release=found.release,
        banner=found.banner,
        banner_links=[] if banner is None else [banner],
        link_start=found.symbols.start,
        link_end=found.symbols.end,
        entry_physical=0,
        has_btf=bool(found.btf),
    )
    return Kernel(
        path=disk,
        sha256="",
        startable=False,
        facts=facts,
        symbols=found.symbols,
        modules=None,
        btf_file=None,
        btf=found.btf,
    )
