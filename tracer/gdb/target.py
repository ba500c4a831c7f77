"""The stopped guest as GDB sees it: registers, physical devices, breakpoints, going on.

Ref: QEMU docs/system/gdb.rst ("Examining physical memory"); GDB manual, "Packets".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tracer import mi
from tracer.errors import DebuggerError, InterceptError
from tracer.gdb.client import GdbClient
from tracer.target_description import RegisterLayout, describe, parse_chunk, request
from tracer.x86 import GPR, PAGE_SIZE

_NEEDED = (*GPR, "rip", "eflags", "cs", "ss", "ds", "es", "fs", "gs", "fs_base", "gs_base",
           "cr0", "cr2", "cr3", "cr4", "efer")  # fmt: skip
_STRAYS = 4
"""Stops in a row that may be somebody else's, see :attr:`tracer.mi.Stopped.stray`."""
_WIDE = 2 * PAGE_SIZE
_PHYSICAL = "Qqemu.PhyMemMode:1"
_VIRTUAL = "Qqemu.PhyMemMode:0"


@dataclass(frozen=True, slots=True)
class RegisterFile:
    """Hold every register of one vCPU as the stub sent them, by GDB's names."""

    values: Mapping[str, int]

    def __getitem__(self, name: str) -> int:
        return self.values[name]


class Target:
    """Drive one guest through one GDB."""

    def __init__(self, client: GdbClient) -> None:
        self.client = client
        self._layout = RegisterLayout("", ())
        self._rsp = self._cr3 = 0

    async def attach(self, socket: Path) -> None:
        """Connect to QEMU's stub and learn how it lays out registers.

        Raises DebuggerError when either side does not know those of an x86-64 CPU.
        """
        await self.client.command(f"target remote {socket}")
        await self.client.stopped()
        layout = self._layout = await self._describe()
        layout.require(_NEEDED)
        names = (await self.client.command("-data-list-register-names")).get("register-names")
        if not isinstance(names, list) or not {"rsp", "cr3"} <= set(names):
            raise DebuggerError(
                f"GDB {self.client.version} does not take the registers that QEMU describes "
                "(rsp, cr3): it must be built for x86-64, and with expat"
            )
        self._rsp, self._cr3 = names.index("rsp"), names.index("cr3")

    async def _describe(self) -> RegisterLayout:
        description = describe()
        annex = next(description)
        while True:
            text, more = b"", True
            while more:
                (answer,) = await self.client.packets([request(annex, len(text))])
                chunk = parse_chunk(annex, answer)
                text, more = text + chunk.data, chunk.more
            try:
                annex = description.send(text)
            except StopIteration as stop:
                layout: RegisterLayout = stop.value
                return layout

    async def registers(self) -> RegisterFile:
        """Return all registers of the vCPU that stopped."""
        (answer,) = await self.client.packets(["g"])
        return RegisterFile(self._layout.unpack(answer))

    async def register(self, name: str) -> int:
        """Return one integer register of the vCPU that stopped."""
        payload = await self.client.command(f"-data-evaluate-expression (long)${name}")
        value = payload.get("value")
        if not isinstance(value, str):
            raise DebuggerError(f"gdb does not know register {name}: {payload}")
        return int(value) & 0xFFFF_FFFF_FFFF_FFFF

    async def stack_and_tables(self) -> tuple[int, int]:
        """Return RSP and CR3 of the vCPU that stopped, in one command."""
        payload = await self.client.command(f"-data-list-register-values x {self._rsp} {self._cr3}")
        values = payload.get("register-values")
        if not isinstance(values, list) or len(values) != 2:
            raise DebuggerError(f"gdb does not show RSP and CR3: {payload}")
        stack, tables = (int(entry["value"], 16) for entry in values)
        return stack, tables

    async def read_physical(self, physical: int, width: int) -> int:
        """Read ``width`` bytes of a device at a physical address, once."""
        answer = await self._physical(f"m{physical:x},{width:x}")
        try:
            data = bytes.fromhex(answer)
        except ValueError:
            data = b""
        if len(data) != width:
            raise InterceptError(
                f"the device at physical {physical:#x} refused a {width}-byte read ({answer!r})"
            )
        return int.from_bytes(data, "little")

    async def write_physical(self, physical: int, width: int, value: int) -> None:
        """Write ``width`` bytes at a physical address, once."""
        data = value.to_bytes(width, "little").hex()
        answer = await self._physical(f"M{physical:x},{width:x}:{data}")
        if answer != "OK":
            raise InterceptError(
                f"the device at physical {physical:#x} refused a {width}-byte write ({answer!r})"
            )

    async def _physical(self, packet: str) -> str:
        # GDB's own reads are of linear addresses, so the mode is set for this packet alone.
        return (await self.client.packets([_PHYSICAL, packet, _VIRTUAL]))[1]

    async def flush_tlb(self, cr3: int) -> None:
        """Empty the TLB of the stopped vCPU by writing its own CR3 back.

        QEMU then drops global translations too. GDB knows CR3 only as a set of fields, which
        it does not assign as a whole.
        """
        value = cr3.to_bytes(8, "little").hex()
        (answer,) = await self.client.packets([f"P{self._layout.numbers['cr3']:x}={value}"])
        if answer != "OK":
            raise InterceptError(f"the TLB was not flushed: the stub answered {answer!r}")

    async def flush_all_tlbs(self) -> None:
        """Empty the TLB of every vCPU.

        QEMU does so when a watchpoint is wider than a page (cpu_watchpoint_insert).
        """
        answers = await self.client.packets([f"Z2,0,{_WIDE:x}", f"z2,0,{_WIDE:x}"])
        if answers != ["OK", "OK"]:
            raise InterceptError(f"the TLBs were not flushed: the stub answered {answers}")

    async def write_code(self, linear: int, code: bytes) -> None:
        """Write guest code at a linear address, so that QEMU notices."""
        await self.client.command(f"-data-write-memory-bytes {linear:#x} {code.hex()}")

    async def set_breakpoint(self, linear: int) -> int:
        """Break before the instruction at a linear address; return GDB's number."""
        payload = await self.client.command(f"-break-insert -h *{linear:#x}")
        return _number(payload, "bkpt")

    async def set_watch(self, linear: int) -> int:
        """Stop after each write that changes the quadword at a linear address."""
        payload = await self.client.command(f"-break-watch *(long*){linear:#x}")
        return _number(payload, "wpt")

    async def set_read_watch(self, linear: int) -> int:
        """Stop after each read of the byte at a linear address."""
        payload = await self.client.command(f"-break-watch -r *(char*){linear:#x}")
        return _number(payload, "hw-rwpt")

    async def delete_breakpoint(self, number: int) -> None:
        """Remove a breakpoint or watch."""
        await self.client.command(f"-break-delete {number}")

    async def hold_others(self, held: bool) -> None:
        """Let only the stopped vCPU run on a resume, or all of them."""
        await self.client.command(f"-gdb-set scheduler-locking {'on' if held else 'off'}")

    async def go(self, changes: Sequence[str] = ()) -> None:
        """Carry out assignments made by :func:`assign`, and go on."""
        await self.client.batch([*changes, "-exec-continue"])

    async def resume(self, changes: Sequence[str] = ()) -> mi.Stopped:
        """Carry out assignments made by :func:`assign`, go on, and wait for the next stop."""
        await self.go(changes)
        return await self.client.stopped()

    async def detach(self) -> None:
        """Remove every breakpoint and let the guest go on without a debugger."""
        await self.client.batch(["-break-delete", "-target-detach"])

    async def run_to(self, linear: int, changes: Sequence[str] = ()) -> None:
        """Carry out assignments and run on to a linear address where a stop is sure.

        Raises InterceptError when the vCPU does not come there.
        """
        stop = await self.resume(changes)
        for _ in range(_STRAYS):
            if stop.address == linear:
                return
            if not stop.stray:
                break
            stop = await self.resume()
        raise InterceptError(
            f"the vCPU went to {stop.address or 0:#x}, not to {linear:#x} ({stop.reason})"
        )

    async def break_at(self, linear: int) -> None:
        """Run the stopped vCPU to a linear address, with a breakpoint for this once."""
        await self.run_to(linear, [f"-break-insert -t -h *{linear:#x}"])

    async def step_once(self) -> int | None:
        """Run one instruction of the stopped vCPU; return the linear address it stops at."""
        await self.client.command("-exec-step-instruction")
        return (await self.client.stopped()).address

    async def step(self, origin: int) -> None:
        """Run one instruction, the one at linear address ``origin``."""
        for _ in range(_STRAYS):
            await self.client.command("-exec-step-instruction")
            stop = await self.client.stopped()
            # A REP instruction may well be where it was.
            if stop.reason == "end-stepping-range" or stop.address != origin:
                return


def assign(register: str, value: int) -> str:
    """Return the command that writes a register."""
    return f"-gdb-set ${register}={value:#x}"


def assign_xmm(number: int, value: int) -> str:
    """Return the command that writes the 128 bits of an XMM register."""
    low, high = value & 0xFFFF_FFFF_FFFF_FFFF, value >> 64
    return f"-gdb-set $xmm{number}.v2_int64={{{low:#x},{high:#x}}}"


def store(linear: int, data: bytes) -> str:
    """Return the command that writes guest memory at a linear address."""
    return f"-data-write-memory-bytes {linear:#x} {data.hex()}"


def _number(payload: mi.Payload, key: str) -> int:
    entry = payload.get(key)
    number = entry.get("number") if isinstance(entry, dict) else None
    if not isinstance(number, str):
        raise DebuggerError(f"gdb set a breakpoint without telling its number: {payload}")
    return int(number)
