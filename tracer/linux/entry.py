"""From the first instruction of the firmware to the first function of the kernel.

A TDX guest is entered earlier: where the kernel asks its CPU whether it is one. QEMU's CPU has no
such leaf, and vetrace answers in its place.

Ref: Intel TDX Module Base Architecture Specification (348549), "CPUID Virtualization" (leaf 0x21);
Linux arch/x86/coco/tdx/tdx.c, `tdx_early_init`.
"""

from __future__ import annotations

from tracer.access.vcpu import SetRegister
from tracer.access.want import MakeChanges, MemoryMap, Register, Registers, StepAlone
from tracer.errors import GuestError, KernelImageError
from tracer.linux import kaslr, mapping
from tracer.linux.bzimage import is_elf
from tracer.linux.kaslr import Moved
from tracer.linux.kernel import Kernel
from tracer.linux.place import at, run_to
from tracer.x86.paging import PhysicalMemory

_TRIES = 16

_CPUID = b"\x0f\xa2"
_TDX_LEAF = 0x21
_TDX_NAME = {"rax": b"", "rbx": b"Inte", "rdx": b"lTDX", "rcx": b"    "}
"""Leaf 0x21 says in a guest of TDX that there is no leaf below it, and whose module it is."""
_MOST_STEPS = 400
"""Instructions from the start of `tdx_early_init` to its CPUID, many times over: some 40."""


async def follow_kaslr(kernel: Kernel, command_line: str, memory: PhysicalMemory) -> Moved:
    """Run the guest until its kernel has been unpacked; return how far it moved.

    A vmlinux does not move, nor does a kernel with ``nokaslr`` on its command line: at once then.
    Raises KernelImageError when the decompressor or the symbols are not as known.
    """
    if "nokaslr" in command_line.split():
        return Moved()
    image = kernel.path.read_bytes()
    if is_elf(image):
        return Moved()
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
    physical = entry - kernel.facts.entry_physical
    return Moved(kaslr.displacement(value, pointee), physical)


async def reach_entry(kernel: Kernel, moved: int) -> None:
    """Run the guest to where traps can be put in place: its own IDT is loaded."""
    symbols = kernel.symbols.moved(moved)
    entry = symbols.address_of(mapping.ENTRY)
    if entry is None:
        raise GuestError(f"{kernel.path} has no symbol {mapping.ENTRY}: is it Linux?")
    await run_to(entry)


async def reach_tdx_entry(kernel: Kernel, moved: int, memory: PhysicalMemory) -> None:
    """Run the guest to where it has been told that it is a guest of TDX, and done nothing yet.

    Its own IDT is loaded. Raises GuestError for a kernel that does not ask.
    """
    entry = kernel.symbols.moved(moved).address_of(mapping.TDX_ENTRY)
    if entry is None:
        raise GuestError(_no_tdx(kernel))
    await run_to(entry)
    await MemoryMap()  # tells where RAM is
    registers = await Registers()
    for _ in range(_MOST_STEPS):
        if registers["rax"] & 0xFFFF_FFFF == _TDX_LEAF and at(registers, memory, _CPUID):
            break
        await StepAlone()
        registers = await Registers()
    else:
        raise GuestError(_no_tdx(kernel))
    await StepAlone()
    told = {name: int.from_bytes(text, "little") for name, text in _TDX_NAME.items()}
    await MakeChanges([SetRegister(name, value) for name, value in told.items()])


def _no_tdx(kernel: Kernel) -> str:
    return (
        f"{kernel.path} does not ask whether it is a TDX guest (CONFIG_INTEL_TDX_GUEST): "
        "vetrace setup --guest tdx fetches a kernel that does"
    )
