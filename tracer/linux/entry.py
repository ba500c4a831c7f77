"""From the first instruction of the firmware to the first function of the kernel."""

from __future__ import annotations

from tracer.access.want import DeleteBreakpoint, MemoryMap, Register, Resume, SetBreakpoint
from tracer.errors import GuestError, KernelImageError
from tracer.linux import kaslr, mapping
from tracer.linux.bzimage import is_elf
from tracer.linux.kernel import Kernel
from tracer.x86.paging import PhysicalMemory

_TRIES = 16


async def follow_kaslr(kernel: Kernel, command_line: str, memory: PhysicalMemory) -> int:
    """Run the guest until its kernel has been unpacked; return how far it moved, in bytes.

    0 at once for a kernel that does not move: a vmlinux, or ``nokaslr`` on its command line.
    Raises KernelImageError when the decompressor or the symbols are not as known.
    """
    if "nokaslr" in command_line.split():
        return 0
    image = kernel.path.read_bytes()
    if is_elf(image):
        return 0
    pointer = kernel.symbols.address_of(kaslr.POINTER)
    pointee = kernel.symbols.address_of(kaslr.POINTEE)
    if pointer is None or pointee is None:
        raise KernelImageError(
            f"{kernel.path}: without the symbols {kaslr.POINTER} and {kaslr.POINTEE} KASLR cannot "
            "be followed; boot with nokaslr"
        )
    jumps = kaslr.find_jumps(image)
    place = -1
    for _ in range(_TRIES):
        # Something else may run at that address first: the copy's place must fit the jump.
        await run_to(kaslr.LOAD_PHYSICAL + jumps.to_copy)
        place = await Register("rbx")
        if await Register("rax") == place + jumps.copy:
            break
    await run_to(place + jumps.to_kernel)
    entry = await Register("rax")
    await MemoryMap()
    where = kaslr.pointer_physical(entry, kernel.facts.entry_physical, pointer)
    try:
        value = int.from_bytes(memory.read(where, 8), "little")
    except LookupError as error:
        raise KernelImageError(f"{kernel.path}: no kernel found at physical {entry:#x}") from error
    return kaslr.displacement(value, pointee)


async def reach_entry(kernel: Kernel, moved: int) -> None:
    """Run the guest to where traps can be put in place: its own IDT is loaded."""
    symbols = kernel.symbols.moved(moved)
    entry = symbols.address_of(mapping.ENTRY)
    if entry is None:
        raise GuestError(f"{kernel.path} has no symbol {mapping.ENTRY}: is it Linux?")
    await run_to(entry)


async def run_to(linear: int) -> None:
    """Run to a linear address. Raises GuestError when the guest stops elsewhere."""
    number = await SetBreakpoint(linear)
    stop = (await Resume()).in_time()
    if stop.breakpoint != number:
        raise GuestError(f"the guest stopped before its kernel: {stop.reason or stop.payload}")
    await DeleteBreakpoint(number)
