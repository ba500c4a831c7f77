"""From the first instruction of the firmware to the first function of the kernel."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from tracer.errors import GuestError, KernelImageError
from tracer.gdb import mi
from tracer.gdb.target import Change, Target
from tracer.linux import kaslr, mapping
from tracer.linux.bzimage import is_elf
from tracer.linux.kernel import Kernel
from tracer.qemu.machine import Machine

Resume = Callable[[Sequence[Change]], Awaitable[mi.Stopped]]

_TRIES = 16


async def follow_kaslr(target: Target, machine: Machine, kernel: Kernel, resume: Resume) -> int:
    """Run the guest until its kernel has been unpacked; return how far it moved, in bytes.

    0 at once for a kernel that does not move: a vmlinux, or ``nokaslr`` on its command line.
    Raises KernelImageError when the decompressor or the symbols are not as known.
    """
    if "nokaslr" in machine.config.command_line.split():
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
        await run_to(target, resume, kaslr.LOAD_PHYSICAL + jumps.to_copy)
        place = await target.register("rbx")
        if await target.register("rax") == place + jumps.copy:
            break
    await run_to(target, resume, place + jumps.to_kernel)
    entry = await target.register("rax")
    await machine.memory_map()
    where = kaslr.pointer_physical(entry, kernel.facts.entry_physical, pointer)
    try:
        value = int.from_bytes(machine.memory.read(where, 8), "little")
    except LookupError as error:
        raise KernelImageError(f"{kernel.path}: no kernel found at physical {entry:#x}") from error
    return kaslr.displacement(value, pointee)


async def reach_entry(target: Target, kernel: Kernel, moved: int, resume: Resume) -> None:
    """Run the guest to where traps can be put in place: its own IDT is loaded."""
    symbols = kernel.symbols.moved(moved)
    for name in mapping.ENTRIES:
        entry = symbols.address_of(name)
        if entry is not None:
            await run_to(target, resume, entry)
            return
    raise GuestError(f"{kernel.path} has no symbol {mapping.ENTRIES[0]}: is it Linux?")


async def run_to(target: Target, resume: Resume, linear: int) -> None:
    """Run to a linear address. Raises GuestError when the guest stops elsewhere."""
    number = await target.set_breakpoint(linear)
    stop = await resume(())
    if stop.breakpoint != number:
        raise GuestError(f"the guest stopped before its kernel: {stop.reason or stop.payload}")
    await target.delete_breakpoint(number)
