"""The stopped guest: registers, physical devices, breakpoints, going on.

Two ways lead to QEMU's stub. Through GDB's own commands the guest goes on to whatever stops it
next. By packet, of which GDB knows nothing, everything is done that belongs to one stop: registers
are changed, devices are reached, and the stopped vCPU runs *alone* for a few instructions. GDB
looks around wherever it knows of a stop (the byte at RIP; after a step 64 bytes at RSP), and a
device would answer. What GDB has cached of the stop does no harm: it goes on from where the vCPU
really stands, and at the next stop reads everything anew.

Ref: QEMU docs/system/gdb.rst ("Examining physical memory"); GDB manual, "Packets".
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tracer.access.stop import Stopped
from tracer.access.vcpu import Change, RegisterFile, SetMemory, SetRegister
from tracer.errors import DebuggerError, InterceptError, TargetGone
from tracer.gdb import mi
from tracer.gdb.client import GdbClient
from tracer.gdb.description import RegisterLayout, describe, parse_chunk, parse_register, request
from tracer.gdb.stop_reply import SIGQUIT, SIGTRAP, parse_stop_reply
from tracer.x86.state import GPR, PAGE_SIZE

_NEEDED = (*GPR, "rip", "eflags", "cs", "ss", "ds", "es", "fs", "gs", "fs_base", "gs_base",
           "cr0", "cr2", "cr3", "cr4", "efer")  # fmt: skip
_STRAYS = 4
"""Stops in a row that may be somebody else's, see :attr:`tracer.access.stop.Stopped.stray`."""
_WIDE = 2 * PAGE_SIZE
_PHYSICAL = "Qqemu.PhyMemMode:1"
_VIRTUAL = "Qqemu.PhyMemMode:0"


class Target:
    """Drive one guest through one GDB. ``vcpu`` is the one that stopped last, counted from 0."""

    def __init__(self, client: GdbClient) -> None:
        self.client = client
        self.vcpu = 0
        self._layout = RegisterLayout("", ())
        self._rsp = self._cr3 = 0
        self._ranges: dict[int, tuple[int, int]] = {}

    async def attach(self, socket: Path) -> None:
        """Connect to QEMU's stub and learn how it lays out registers.

        Raises DebuggerError when either side does not know those of an x86-64 CPU.
        """
        await self.client.command(f"target remote {socket}")
        await self.stopped()
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
        """Return one register of the vCPU that stopped."""
        (answer,) = await self.client.packets([self._layout.read(name)])
        return parse_register(answer)

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

        QEMU then drops global translations too.
        """
        await self.change([SetRegister("cr3", cr3)])

    async def flush_all_tlbs(self) -> None:
        """Empty the TLB of every vCPU.

        QEMU does so when a watchpoint is wider than a page (cpu_watchpoint_insert).
        """
        await self._agreed(f"Z2,0,{_WIDE:x}", f"z2,0,{_WIDE:x}")

    async def read_code(self, linear: int, size: int) -> bytes:
        """Return guest code at a linear address."""
        payload = await self.client.command(f"-data-read-memory-bytes {linear:#x} {size}")
        blocks = payload.get("memory")
        block = blocks[0] if isinstance(blocks, list) and len(blocks) == 1 else {}
        data = bytes.fromhex(str(block.get("contents", "")))
        if len(data) != size:
            raise DebuggerError(f"gdb does not show {size} bytes of code at linear {linear:#x}")
        return data

    async def write_code(self, linear: int, code: bytes) -> None:
        """Write guest code at a linear address, so that QEMU notices."""
        await self.client.command(f"-data-write-memory-bytes {linear:#x} {code.hex()}")

    async def set_breakpoint(self, linear: int) -> int:
        """Break before the instruction at a linear address; return GDB's number."""
        payload = await self.client.command(f"-break-insert -h *{linear:#x}")
        return _number(payload, "bkpt")

    async def watch_stores(self, linear: int, size: int = 8) -> int:
        """Stop after the next store to ``size`` bytes at a linear address; return GDB's number.

        GDB tells nothing of a store that leaves what is watched as it knows it. So the caller has
        something at random there now, and puts what is to be there in its place afterwards, in a
        way of which GDB knows nothing. Once GDB has told of a store it knows the value.
        """
        payload = await self.client.command(f"-break-watch *(char(*)[{size}]){linear:#x}")
        return _number(payload, "wpt")

    async def set_read_watch(self, linear: int) -> int:
        """Stop after each read of the byte at a linear address."""
        payload = await self.client.command(f"-break-watch -r *(char*){linear:#x}")
        return _number(payload, "hw-rwpt")

    async def watch_accesses(self, linear: int, size: int) -> int:
        """Stop behind each access to data in so many bytes from a linear address on.

        GDB knows of the first byte alone, as it would read all that it watches. QEMU tells it where
        what is watched begins, and not what was accessed (gdbstub.c, gdb_vm_state_change).
        """
        payload = await self.client.command(f"-break-watch -a *(char*){linear:#x}")
        await self._agreed(f"Z4,{linear:x},{size:x}")
        number = _number(payload, "hw-awpt")
        self._ranges[number] = linear, size
        return number

    async def delete_breakpoint(self, number: int) -> None:
        """Remove a breakpoint or watch."""
        if number in self._ranges:
            linear, size = self._ranges.pop(number)
            await self._agreed(f"z4,{linear:x},{size:x}")
        await self.client.command(f"-break-delete {number}")

    async def select(self, vcpu: int) -> None:
        """Have registers be those of this vCPU, of a guest that stands."""
        await self.client.command(f"-thread-select {vcpu + 1}")
        self.vcpu = vcpu

    async def change(self, changes: Sequence[Change]) -> None:
        """Make changes to the stopped vCPU and to what it sees. Raises InterceptError."""
        _check(changes, await self.client.packets(self._packets(changes)))

    async def go(self, changes: Sequence[Change] = ()) -> None:
        """Make changes, and let the guest go on."""
        packets = self._packets(changes)
        _check(changes, await self.client.packets(packets, "-exec-continue"))

    async def stopped(self) -> Stopped:
        """Wait until the guest stops."""
        stop = await self.client.stopped()
        self.vcpu = stop.vcpu
        return stop

    async def stand(self) -> None:
        """Take in every stop of a guest that QEMU's monitor has stopped, or that stood already."""
        await self.client.settle()

    async def resume(self, changes: Sequence[Change] = ()) -> Stopped:
        """Make changes, let the guest go on, and wait for the next stop."""
        await self.go(changes)
        return await self.stopped()

    async def detach(self) -> None:
        """Remove every breakpoint and let the guest go on without a debugger."""
        await self.client.batch(["-break-delete", "-target-detach"])

    async def run_alone(self, linear: int, changes: Sequence[Change] = ()) -> None:
        """Make changes and run the stopped vCPU to a linear address where a stop is sure.

        The others stand meanwhile. Raises InterceptError when the vCPU does not come there.
        """
        rip = await self._alone("c", changes)
        for _ in range(_STRAYS):
            if rip == linear:
                return
            # A late stop, of a moment that has passed.
            rip = await self._alone("c")
        raise InterceptError(f"vCPU {self.vcpu} went to {rip:#x}, not to {linear:#x}")

    async def break_alone(
        self, linear: int, changes: Sequence[Change] = (), rip: int | None = None
    ) -> None:
        """Do the same with a breakpoint at the linear address, where RIP is ``rip``, for once."""
        place = f"1,{linear:x},1"
        await self._agreed(f"Z{place}")
        await self.run_alone(linear if rip is None else rip, changes)
        await self._agreed(f"z{place}")

    async def step_alone(self) -> int:
        """Run one instruction of the stopped vCPU; return the linear address it stops at."""
        return await self._alone("s")

    async def _alone(self, action: str, changes: Sequence[Change] = ()) -> int:
        # Makes changes and runs; returns RIP at the stop.
        thread = f"p1.{self.vcpu + 1:x}"
        for _ in range(_STRAYS):
            packets = [*self._packets(changes), f"vCont;{action}:{thread}"]
            packets += [f"Hg{thread}", self._layout.read("rip")]
            *made, run, _, rip = await self.client.packets(packets)
            _check(changes, made)
            reply = parse_stop_reply(run)
            if reply.signal == SIGQUIT:
                raise TargetGone
            if reply.vcpu == self.vcpu and reply.signal == SIGTRAP:
                return parse_register(rip)
            # Another vCPU had stopped at the same moment as this one.
            changes = ()
        raise InterceptError(f"vCPU {self.vcpu} does not run: QEMU's GDB stub answers {run}")

    async def _agreed(self, *packets: str) -> None:
        answers = await self.client.packets(packets)
        if answers != ["OK"] * len(packets):
            raise InterceptError(f"QEMU's GDB stub answered {answers} to {packets}")

    def _packets(self, changes: Sequence[Change]) -> list[str]:
        return [
            f"M{change.linear:x},{len(change.data):x}:{change.data.hex()}"
            if isinstance(change, SetMemory)
            else self._layout.write(change.name, change.value)
            for change in changes
        ]


def _check(changes: Sequence[Change], answers: Sequence[str]) -> None:
    for change, answer in zip(changes, answers, strict=True):
        if answer != "OK":
            what = change.name if isinstance(change, SetRegister) else f"linear {change.linear:#x}"
            raise InterceptError(f"QEMU's GDB stub did not write {what}: {answer!r}")


def _number(payload: mi.Payload, key: str) -> int:
    entry = payload.get(key)
    number = entry.get("number") if isinstance(entry, dict) else None
    if not isinstance(number, str):
        raise DebuggerError(f"gdb set a breakpoint without telling its number: {payload}")
    return int(number)
