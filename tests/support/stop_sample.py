"""A guest stopped before an access: an NVMe controller's registers beside a stack in RAM."""

from __future__ import annotations

from dataclasses import replace

from ram import PAGING, POISON, Ram

from tracer.access.decision import Pending
from tracer.access.execution import CarryOut, foretell
from tracer.access.region import Region, RegionMap
from tracer.access.space import AddressSpace
from tracer.access.transfer import Transfer
from tracer.errors import EmulationError
from tracer.x86.bus import Direction, PortAccess
from tracer.x86.decode import decode
from tracer.x86.paging import PRESENT, WRITABLE
from tracer.x86.state import GPR, CpuState, Segments

DEVICE = 0xFEBF_0000
LINEAR = 0xFFFF_C900_0000_4000
STACK = 0xFFFF_C900_0001_0000
RIP = 0xFFFF_FFFF_81A3_B2C0
NVME = Region("nvme", DEVICE, DEVICE + 0x3FFF, DEVICE, "nvme", "nvme")
ANSWER = 0x8877_6655_4433_2211
"""What the device answers, and what RAM holds: its low bytes."""
_NX, _GLOBAL = 1 << 63, 1 << 8


def space() -> AddressSpace:
    """Two pages of the device at LINEAR, poisoned, and two of RAM around STACK."""
    ram = Ram()
    flags = PRESENT | WRITABLE | _GLOBAL | 0x70
    for page in range(2):
        ram.map(LINEAR + 0x1000 * page, DEVICE + 0x1000 * page | POISON | _NX, flags)
    ram.map(STACK, 0x20_0000)
    ram.map(STACK - 0x1000, 0x21_0000)
    regions = RegionMap([NVME], [(DEVICE, DEVICE + 0x3FFF)], [(0, 0x3F_FFFF)])
    return AddressSpace(ram, PAGING, regions)


def state(**registers: int) -> CpuState:
    """RSI and RBX point to the device, RSP to the stack."""
    known = {
        "rax": 0x1111_2222_3333_4444, "rcx": 3, "rbx": LINEAR, "rsi": LINEAR + 0x1C,
        "rsp": STACK,
    } | registers  # fmt: skip
    return CpuState(
        gpr=tuple(known.get(name, 0) for name in GPR),
        rip=RIP,
        rflags=0x246,
        segments=Segments(gs_base=0xFFFF_C900_0000_0000),
        xmm=tuple(range(16)),
    )


def stop(code: str, cpu: CpuState | None = None, index: int = 0) -> Pending:
    """The device access number ``index`` of an instruction; those before it are made."""
    cpu = cpu or state()
    at = space()
    insn = decode(bytes.fromhex(code), cpu.rip, cpu.mode)
    foretold = foretell(insn, cpu, at)
    execution = CarryOut(foretold)
    done: list[Transfer] = []
    waits: Transfer | None = None
    while waits is None:
        transfers = next(execution)
        if isinstance(transfers, PortAccess):
            execution.answers = [ANSWER & ((1 << 8 * transfers.width) - 1)]
            continue
        answers: list[int | None] = []
        for transfer in transfers:
            if transfer.traced and index == 0:
                waits = transfer
                break
            index -= transfer.traced
            answers.append(None)
            if transfer.direction == "read":
                answers[-1] = ANSWER & ((1 << 8 * transfer.width) - 1)
                transfer = replace(transfer, value=answers[-1])
            done.append(transfer)
        execution.answers = answers
    return Pending(
        seq=1234, time_ns=1_126_960_000, vcpu=0, symbol="nvme_pci_reg_read32+0xb",
        code=insn.code, insn=insn, cpu=cpu, space=at, transfer=waits, done=tuple(done),
        foretold=foretold.transfers,
    )  # fmt: skip


def stepped(code: str, why: str, width: int, direction: Direction = "read") -> Pending:
    """An access that the vCPU itself has to make, at LINEAR + 0x20."""
    raw, cpu = bytes.fromhex(code), state()
    try:
        insn = decode(raw, cpu.rip, cpu.mode)
    except EmulationError:
        insn = None
    transfer = Transfer(
        direction, LINEAR + 0x20, DEVICE + 0x20, width, None, NVME, traced=True, ram=False
    )
    return Pending(
        seq=77, time_ns=5, vcpu=1, symbol=None, code=raw, insn=insn, cpu=cpu, space=space(),
        transfer=transfer, via="stepped", why=why,
    )  # fmt: skip
