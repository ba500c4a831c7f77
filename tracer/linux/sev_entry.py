"""How a kernel comes to take itself for an SEV-ES guest: what it asks, answered in QEMU's place.

It asks its CPU before it has page tables of its own, in `sme_enable`, by CPUID and by an MSR. From
there on it sets the C-bit in its page tables, where all RAM is a second time. It speaks to its host
by the MSR of the GHCB, which QEMU does not keep, so that another MSR is put into its code; and it
agrees with its host on a protocol before its IDT takes more than #VC, which is answered here.

Ref: Linux arch/x86/mm/mem_encrypt_identity.c `sme_enable` (arch/x86/boot/startup/sme.c from 6.16
on), arch/x86/kernel/head_64.S, arch/x86/kernel/head64.c `early_setup_idt`, arch/x86/kernel/sev.c
`setup_ghcb`, arch/x86/kernel/sev-shared.c; AMD APM vol. 3, E.4.17 (CPUID 8000001F); vol. 2,
15.34.10 (SEV_STATUS).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

from tracer.access.space import AddressSpace
from tracer.access.symbols import SymbolTable
from tracer.access.vcpu import RegisterFile, SetRegister
from tracer.access.want import (
    DeleteBreakpoint,
    MakeChanges,
    MemoryMap,
    Registers,
    Resume,
    SetBreakpoint,
    StepAlone,
    WriteCode,
)
from tracer.confidential import sev_host
from tracer.confidential.ghcb import GHCB_MSR, GHCB_STAND_IN, VMGEXIT
from tracer.confidential.kind import C_BIT, Kind
from tracer.confidential.sev_state import SevState
from tracer.confidential.support import SME_ENABLE, setup_command
from tracer.errors import GuestError
from tracer.linux import mapping
from tracer.linux.kaslr import Moved
from tracer.linux.kernel import Kernel
from tracer.linux.place import at, ended_early, run_to, tables_of
from tracer.x86.paging import PhysicalMemory

_CPUID, _RDMSR, _WRMSR = b"\x0f\xa2", b"\x0f\x32", b"\x0f\x30"
_NOPS = b"\x90" * (len(VMGEXIT) - len(_RDMSR))
_HIGHEST_LEAF, _ENCRYPTION_LEAF = 0x8000_0000, 0x8000_001F
_SEV, _SEV_ES = 1 << 1, 1 << 3
"""EAX of the encryption leaf has these bits."""
_ADDRESS_BITS_LOST = 1
"""Memory encryption takes so many physical address bits, by EBX of that leaf."""
_SEV_STATUS = 0xC001_0131
_ENABLED = 1 << 0 | 1 << 1
"""SEV_STATUS has these bits: SEV and SEV-ES are on."""
_MOST_STEPS = 2000
"""Instructions of `sme_enable`, many times over: some 80."""
_LOADS = re.compile(rb"[\xb8-\xbf]" + re.escape(struct.pack("<I", GHCB_MSR)))
"""MOV r32, imm32 of the MSR's number."""
_INT = (1 << 32) - 1


async def reach_sev_entry(kernel: Kernel, moved: Moved, memory: PhysicalMemory) -> None:
    """Run the guest to where traps can be put in place, having told it that it is one of SEV-ES.

    Raises GuestError for a kernel that does not ask.
    """
    symbols = kernel.symbols.moved(moved.linear)
    asks = next((a for name in SME_ENABLE if (a := symbols.address_of(name)) is not None), None)
    entry = symbols.address_of(mapping.ENTRY)
    if asks is None or entry is None:
        raise GuestError(_no_sev(kernel))
    await run_to(asks - moved.mapped)
    await MemoryMap()  # tells where RAM is
    await _tell(kernel, memory)
    space = tables_of(await Registers(), memory)
    parts = list(_code(symbols, moved.mapped, space))
    await _replace_msr(kernel, parts)
    await _agree(entry, parts, moved.mapped)


async def _tell(kernel: Kernel, memory: PhysicalMemory) -> None:
    # Answers what the function asks, up to where it returns to.
    registers = await Registers()
    behind = tables_of(registers, memory).word(registers["rsp"])
    told = False
    for _ in range(_MOST_STEPS):
        if registers["rip"] == behind:
            break
        leaf, msr = registers["rax"] & _INT, registers["rcx"] & _INT
        answer: dict[str, int] = {}
        if at(registers, memory, _CPUID) and leaf == _HIGHEST_LEAF:
            answer = {"rax": _ENCRYPTION_LEAF}
        elif at(registers, memory, _CPUID) and leaf == _ENCRYPTION_LEAF:
            answer = {"rax": _SEV | _SEV_ES, "rbx": C_BIT | _ADDRESS_BITS_LOST << 6}
        elif at(registers, memory, _RDMSR) and msr == _SEV_STATUS:
            answer, told = {"rax": _ENABLED, "rdx": 0}, True
        await StepAlone()
        await MakeChanges([SetRegister(name, value) for name, value in answer.items()])
        registers = await Registers()
    if not told:
        raise GuestError(_no_sev(kernel))


def _code(symbols: SymbolTable, mapped: int, space: AddressSpace) -> Iterator[tuple[int, bytes]]:
    # Yields the kernel's code with the addresses that it has now, by the decompressor's tables.
    for first, last in mapping.TEXT:
        start, stop = symbols.address_of(first), symbols.address_of(last)
        if start is not None and stop is not None:
            yield start - mapped, space.read(start - mapped, stop - start)


async def _replace_msr(kernel: Kernel, parts: list[tuple[int, bytes]]) -> None:
    places = [start + found.start() + 1 for start, code in parts for found in _LOADS.finditer(code)]
    if not places:
        raise GuestError(
            f"{kernel.path}: nothing of its code names the MSR of the GHCB ({GHCB_MSR:#x}): is it "
            "built with CONFIG_AMD_MEM_ENCRYPT?"
        )
    for place in places:
        await WriteCode(place, struct.pack("<I", GHCB_STAND_IN))


async def _agree(entry: int, parts: list[tuple[int, bytes]], mapped: int) -> None:
    # Runs to the entry. VMGEXIT raises #UD, for which there is no gate yet: each has a breakpoint.
    found = (
        start + mapped + match.start()
        for start, code in parts
        for match in re.finditer(re.escape(VMGEXIT), code)
    )
    numbers = [await SetBreakpoint(linear) for linear in (entry, *found)]
    while True:
        stop = (await Resume()).in_time()
        if stop.breakpoint == numbers[0]:
            break
        if stop.breakpoint not in numbers or stop.address is None:
            raise ended_early(stop)
        await _answer(stop.address)
    for number in numbers:
        await DeleteBreakpoint(number)


async def _answer(linear: int) -> None:
    # The vCPU stands before a VMGEXIT at a linear address, and has no way to its MSRs but its own.
    before = await Registers()
    number = [SetRegister("rcx", GHCB_STAND_IN)]
    await WriteCode(linear, _RDMSR + _NOPS)
    read = await _stepped(number)
    value = (read["rdx"] & _INT) << 32 | read["rax"] & _INT
    done = sev_host.msr(SevState(), 0, value)
    if done.event.request is not None:
        raise GuestError(f"the guest gave up before its kernel was entered: {done.event.name}")
    answer = done.changes["msr"]
    await WriteCode(linear, _WRMSR + _NOPS)
    halves = [SetRegister("rax", answer & _INT), SetRegister("rdx", answer >> 32)]
    await _stepped([*number, *halves, SetRegister("rip", linear)])
    await WriteCode(linear, VMGEXIT)
    back = [SetRegister(name, before[name]) for name in ("rax", "rcx", "rdx")]
    await MakeChanges([*back, SetRegister("rip", linear + len(VMGEXIT))])


async def _stepped(changes: list[SetRegister]) -> RegisterFile:
    await MakeChanges(changes)
    await StepAlone()
    return await Registers()


def _no_sev(kernel: Kernel) -> str:
    return (
        f"{kernel.path} does not ask whether it is an SEV-ES guest (CONFIG_AMD_MEM_ENCRYPT): "
        f"{setup_command(Kind.SEV_ES)} fetches a kernel that does"
    )
