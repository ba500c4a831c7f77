"""A real guest held before its accesses: looked at, changed, let go."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from vetrace_run import DEADLINE, read_trace

from tracer.access.decision import Inject, Pending
from tracer.access.region import Choice, Region
from tracer.check import witness
from tracer.errors import UsageError
from tracer.launch.plan import Plan
from tracer.launch.start import header, launch
from tracer.linux.wrapper import NOP, SITE_SIZE
from tracer.session.control import Control
from tracer.session.course import Halt
from tracer.trace.reader import TraceReader
from tracer.trace.record import Intercept, Record, UserRecord
from tracer.trace.writer import TraceWriter

pytestmark = pytest.mark.qemu

KERNEL_MAP = 0xFFFF_FFFF_8000_0000  # of physical 0 (Linux Documentation/arch/x86/x86_64/mm.rst)
CAP_HIGH, CC, CSTS = 0x4, 0x14, 0x1C  # NVM Express Base Specification 1.4, 3.1


@dataclass(slots=True)
class Guest:
    """A guest under control, its console, and what was recorded of it."""

    control: Control
    folder: Path
    wanted: Callable[[Pending, bool], str | None] = lambda pending, answered: None
    console: bytearray = field(default_factory=bytearray)
    records: list[Record] = field(default_factory=list)

    def stop_at(self, region: str, offset: int, direction: str, *, answered: bool = False) -> None:
        def wanted(pending: Pending, now: bool) -> str | None:
            place = pending.transfer.region
            found = (
                place is not None
                and (place.name, pending.transfer.physical - place.base) == (region, offset)
                and pending.transfer.direction == direction
                and now == answered
            )
            return f"{direction} {region}+{offset:#x}" if found else None

        self.wanted = wanted

    def never_stop(self) -> None:
        self.wanted = lambda pending, answered: None

    async def go(self) -> Halt:
        self.control.resume()
        halt = await self.control.wait()
        assert halt is not None, self.control.outcome
        return halt

    async def step(self) -> Halt:
        self.control.step()
        halt = await self.control.wait()
        assert halt is not None, self.control.outcome
        return halt

    async def finish(self) -> str:
        self.never_stop()
        if self.control.state == "stopped":
            self.control.resume()
        assert await self.control.wait() is None
        return self.console.decode(errors="replace")

    def region(self, name: str) -> Region:
        return next(r for r in self.control.session.view.regions.regions if r.name == name)

    def site(self, function: str) -> bytes:
        """The bytes at a function's entry that are ftrace's, behind ENDBR64 where it has one."""
        session = self.control.session
        linear = session.names.symbols.address_of(function)
        assert linear is not None
        code = session.machine.memory.read(linear - KERNEL_MAP, 16)
        return code.removeprefix(b"\xf3\x0f\x1e\xfa")[:SITE_SIZE]

    def did(self) -> list[str]:
        return [record.text for record in self.records if isinstance(record, UserRecord)]


@asynccontextmanager
async def held(folder: Path, append: str = "", **plan: object) -> AsyncIterator[Guest]:
    console = bytearray()
    words = f"loglevel=7 {append}".strip()
    chosen = Plan(append=words, qemu_log=folder / "qemu.log", **plan)  # type: ignore[arg-type]
    async with launch(chosen, console.extend) as session:
        await session.reach_entry()
        with TraceWriter(folder / "trace.vtrace", header(session)) as writer:
            guest = Guest(Control(session, lambda *args: guest.wanted(*args)), folder)
            guest.console = console
            session.scribes.append(writer.append)
            session.subscribers.append(guest.records.append)
            await session.trap()
            session.mark("kernel entry", (folder / "qemu.log").stat().st_size)
            halt = await guest.control.start()
            assert halt.reason == "kernel entry"
            try:
                yield guest
            finally:
                await guest.control.close()


def run(test: Awaitable[None]) -> None:
    async def whole() -> None:
        await asyncio.wait_for(test, DEADLINE)

    asyncio.run(whole())


def test_the_driver_sees_the_values_that_it_is_given(tmp_path: Path) -> None:
    async def play() -> None:
        async with held(tmp_path) as guest:
            control = guest.control
            # A read of CSTS is left out.
            guest.stop_at("nvme", CSTS, "read")
            halt = await guest.go()
            with pytest.raises(UsageError, match="does not fit the 4 bytes"):
                await control.skip(1 << 32)
            behind = await control.skip(1)
            assert behind is not None and behind.reason == "completed"
            assert halt.pending is not None and halt.pending.insn is not None
            assert behind.cpu.rip == halt.cpu.rip + len(halt.pending.insn.code)
            # Devices are reached by hand, before and behind an access.
            physical = guest.region("nvme").base
            guest.stop_at("nvme", CC, "write")
            await guest.go()
            assert await control.peek(physical + CC, 4) == 0x460001  # the firmware's doing
            await guest.step()
            assert await control.peek(physical + CC, 4) == 0
            await control.poke(physical + CSTS, 4, 0)
            assert await control.peek(guest.region("lapic").base + 0x20, 4) == 0
            with pytest.raises(UsageError, match="no device answers"):
                await control.peek(0x1000, 4)
            # The device has answered, and the driver reads something else.
            guest.stop_at("nvme", CAP_HIGH, "read", answered=True)
            halt = await guest.go()
            assert halt.answered and halt.pending is not None
            cap = halt.pending.transfer.value
            assert cap is not None and not cap >> 16 & 0xF  # MPSMIN: 4 KiB
            control.give(cap | 4 << 16)
            text = await guest.finish()
            assert "Minimum device page size 65536 too large for host (4096)" in text
            assert "vetrace-guest: done" in text
            assert control.outcome == "poweroff", control.error
            assert guest.did() == [
                "skip 0x1", f"peek nvme+{CC:#x}", f"peek nvme+{CC:#x}",
                f"poke nvme+{CSTS:#x} 0x0", "peek lapic+0x20",
                f"set value {cap | 4 << 16:#x}",
            ]  # fmt: skip

    run(play())
    records = read_trace(tmp_path / "trace.vtrace").records
    touched = [
        access
        for record in records
        if isinstance(record, Intercept)
        for access in record.accesses
        if access.device is not None or access.skipped
    ]
    assert [access.skipped for access in touched] == [True, False]
    # QEMU saw what the trace says that the devices saw.
    with TraceReader(tmp_path / "trace.vtrace") as trace, (tmp_path / "qemu.log").open("rb") as log:
        comparison = witness.compare(trace, log)
    assert comparison.agrees, comparison.differences


def test_changed_registers_start_the_instruction_over(tmp_path: Path) -> None:
    async def play() -> None:
        async with held(tmp_path) as guest:
            control = guest.control
            guest.stop_at("nvme", CSTS, "read")
            halt = await guest.go()
            assert halt.pending is not None and halt.pending.insn is not None
            guest.never_stop()
            # Another address within the device: VS in place of CSTS.
            register = halt.cpu.gpr.index(halt.pending.transfer.linear)
            name = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi")[register]
            await control.set_register(name, halt.pending.transfer.linear - CSTS + 8)
            assert control.pending().transfer.physical == guest.region("nvme").base + 8
            # And another instruction, which reaches no device.
            end = halt.cpu.rip + len(halt.pending.insn.code)
            await control.set_register("rip", end)
            assert control.halt is not None and control.halt.reason == "completed"
            assert control.halt.cpu.rip == end
            with pytest.raises(UsageError, match="no access waits"):
                control.pending()
            with pytest.raises(UsageError, match=r"\$cr0 cannot be set"):
                await control.set_register("cr0", 0)
            await control.set_register("rax", 1)  # CSTS.RDY, as if read
            halt = await guest.step()
            assert (await control.registers())["rip"] == halt.cpu.rip
            # The call chain of where it stands.
            assert any("nvme" in (control.symbol(f.rip) or "") for f in control.unwind().frames)
            # Any exception at all.
            await control.inject("gp", Inject(13, 0))
            assert control.halt is not None and control.halt.reason == "fault"
            assert (control.symbol(control.halt.cpu.rip) or "").startswith("asm_exc_general")
            control.resume()
            while b"end trace" not in guest.console:
                await asyncio.sleep(0.2)
            assert b"general protection fault" in guest.console

    run(play())


@pytest.mark.parametrize("vcpus", [1, 2])
def test_a_guest_is_interrupted_again_and_again_and_let_go(tmp_path: Path, vcpus: int) -> None:
    async def play() -> None:
        more = {"realtime": True, "extra": ("-smp", "2")} if vcpus > 1 else {}
        async with held(tmp_path, **more) as guest:
            control = guest.control
            for moment in range(20):
                control.resume()
                with pytest.raises(UsageError, match="the guest is running"):
                    control.resume()
                await asyncio.sleep(0.013 * moment)
                await control.interrupt()
                halt = await control.wait()
                assert halt is not None, repr(control.error)
                assert halt.text == "interrupted"
                assert await control.registers()
            everything = len(guest.records)
            await control.choose(Choice(bypassed=("*",)), "trace off")
            control.resume()
            await asyncio.sleep(0.3)
            await control.interrupt()
            await control.wait()
            of_devices = [r for r in guest.records[everything:] if isinstance(r, Intercept)]
            assert len(of_devices) <= vcpus  # those that they stood before
            with pytest.raises(UsageError, match="no region is called flux"):
                await control.choose(Choice(("flux",)), "trace flux")
            await control.choose(Choice(), "trace on")
            await guest.step()
            assert guest.site("vmf_insert_pfn_prot") != NOP
            await control.detach()
            recorded = len(guest.records)
            assert control.state == "detached"
            with pytest.raises(UsageError, match="runs on without vetrace"):
                control.step()
            assert "vetrace-guest: done" in await guest.finish()
            assert control.outcome == "poweroff", control.error
            # The filter is out of the function, and ftrace's five bytes are as in any other.
            assert guest.site("vmf_insert_pfn_prot") == NOP
            # The accesses that they stood before.
            assert len(guest.records) <= recorded + vcpus

    run(play())


# A microvm has no power-management timer that could be read in its place.
@pytest.mark.parametrize(
    "extra", [(), ("-machine", "microvm,acpi=on,pcie=on")], ids=["q35", "microvm"]
)
def test_a_stop_of_a_guest_that_idles_tells_its_own_time(
    tmp_path: Path, extra: tuple[str, ...]
) -> None:
    async def play() -> None:
        arguments = "rdinit=/bin/busybox -- sleep 1000000"
        async with held(
            tmp_path, choice=Choice(("lapic",)), append=arguments, extra=extra
        ) as guest:
            control = guest.control
            control.resume()
            while b"Run /bin/busybox as init" not in guest.console:
                await asyncio.sleep(0.1)
            idled = 0
            for _ in range(8):
                await asyncio.sleep(0.2)
                await control.interrupt()
                halt = await control.wait()
                assert halt is not None
                made = [r.time_ns for r in guest.records if isinstance(r, Intercept)]
                told = float(re.findall(rb"^\[ *(\d+\.\d+)\]", guest.console, re.MULTILINE)[-1])
                assert halt.time_ns >= max(made[-1], told * 1e9 - 1000)
                idled = max(idled, halt.time_ns - made[-1])
                # Where it is a vCPU that tells the time, nothing was before the stop.
                stepped = await guest.step()
                assert stepped.time_ns >= halt.time_ns
                control.resume()
            assert idled > 0
            await control.interrupt()
            await control.wait()

    run(play())
