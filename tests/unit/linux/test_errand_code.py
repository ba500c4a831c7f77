"""The code around functions that send threads on errands, run on an independent CPU."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import pytest
import unicorn
from unicorn import x86_const as uc

from tracer.compiled.diary import Entry, What, entries
from tracer.compiled.layout import DIARY, DIARY_ENTRY, DIARY_SLOTS, diary_word
from tracer.linux.errand_code import Code, Subject, around, before, teller
from tracer.linux.wrapper import call

FUNCTION, CALLER, PAGE, STACK, OBJECT = 0x10_0000, 0x10_0800, 0x20_0000, 0x30_0000, 0x31_0000
BLOCK = 0xFFFF_FFEE_9000_0000
PER_CPU, THREAD = 0xFFFF_8880_0040_0000, 0x201
ERRAND, CURRENT = 0xFFFF_FFFF_8123_4560, 0x4433_2211
RESULT = 0xFFFF_FFFF_FFFF_FFEA
WORK = 1
FLAGS = 0x202
REGISTERS = [
    uc.UC_X86_REG_RAX, uc.UC_X86_REG_RBX, uc.UC_X86_REG_RCX, uc.UC_X86_REG_RDX,
    uc.UC_X86_REG_RSI, uc.UC_X86_REG_RDI, uc.UC_X86_REG_RBP,
    *(number for number in range(uc.UC_X86_REG_R8, uc.UC_X86_REG_R15 + 1)
      if number != uc.UC_X86_REG_R11),
]  # fmt: skip
SUBJECTS = [Subject("rdi"), Subject("rdi", 40), Subject("rsi", 24), Subject("rsi", 0x200)]


@dataclass
class Guest:
    """A function with code around it, a diary, and what the function saw."""

    smp: bool = False
    depth: int = 1
    seen: list[dict[int, int]] = field(default_factory=list)
    stacks: list[tuple[int, ...]] = field(default_factory=list)
    waits: int = 0

    def __post_init__(self) -> None:
        cpu = self.cpu = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
        cpu.ctl_set_tlb_mode(unicorn.UC_TLB_VIRTUAL)
        for place in (FUNCTION, PAGE, STACK, OBJECT, PER_CPU):
            cpu.mem_map(place, 0x1000)
        cpu.mem_map(BLOCK, 0x10000)
        cpu.reg_write(uc.UC_X86_REG_GS_BASE, PER_CPU)
        cpu.mem_write(PER_CPU + THREAD, struct.pack("<I", CURRENT))
        self.tells = teller(PAGE, BLOCK, THREAD, smp=self.smp)
        cpu.mem_write(PAGE, self.tells.code)
        self.limit(DIARY_SLOTS)

    def word(self, name: str) -> int:
        return int.from_bytes(self.cpu.mem_read(BLOCK + diary_word(name), 8), "little")

    def limit(self, value: int) -> None:
        self.cpu.mem_write(BLOCK + diary_word("LIMIT"), struct.pack("<Q", value))

    def told(self) -> list[Entry]:
        size = DIARY_ENTRY.size * min(self.word("HEAD"), DIARY_SLOTS)
        return list(entries(bytes(self.cpu.mem_read(BLOCK + DIARY, size))))

    def run(self, made: Code, subject: Subject | None) -> None:
        """Call the function, which calls itself to the depth; all registers are looked at."""
        cpu = self.cpu
        assert made.base >= self.tells.span.stop
        cpu.mem_write(made.base, made.code)
        body = b"\xe8" + struct.pack("<i", FUNCTION - (FUNCTION + 15))  # call FUNCTION
        body = bytes.fromhex("48ffcb 7405") + body  # dec rbx; jz past
        body += bytes.fromhex("48c7c0eaffffff 31ff 31f6 31d2 31c9 c3")
        cpu.mem_write(FUNCTION, call(FUNCTION, made.base) + body)
        cpu.mem_write(CALLER, call(CALLER, FUNCTION) + b"\x90")
        values = {number: 0x1111_0000_0000_0000 + number for number in REGISTERS}
        values[uc.UC_X86_REG_RBX] = self.depth
        name = uc.UC_X86_REG_RSI if subject and subject.register == "rsi" else uc.UC_X86_REG_RDI
        values[name] = ERRAND
        if subject is not None and subject.offset is not None:
            values[name] = OBJECT
            cpu.mem_write(OBJECT + subject.offset, struct.pack("<Q", ERRAND))
        for number, value in values.items():
            cpu.reg_write(number, value)
        cpu.reg_write(uc.UC_X86_REG_RSP, STACK + 0x800)
        cpu.reg_write(uc.UC_X86_REG_EFLAGS, FLAGS)

        def step(_: object, address: int, size: int, data: object) -> None:
            if address == FUNCTION + 5:
                if not self.seen:
                    assert {n: cpu.reg_read(n) for n in REGISTERS} == values
                self.seen.append({n: cpu.reg_read(n) for n in REGISTERS})
                rsp = cpu.reg_read(uc.UC_X86_REG_RSP)
                self.stacks.append(struct.unpack("<3Q", cpu.mem_read(rsp, 24)))
                # Its arguments again, as each call has its own.
                for number in (uc.UC_X86_REG_RDI, uc.UC_X86_REG_RSI):
                    cpu.reg_write(number, values[number])
            if size == 2 and cpu.mem_read(address, 2) == b"\xf3\x90":
                self.waits += 1
                if self.waits == 3:
                    self.limit(1 << 62)
                    cpu.mem_write(BLOCK + diary_word("LOCK"), bytes(8))

        hook = cpu.hook_add(unicorn.UC_HOOK_CODE, step)
        cpu.emu_start(CALLER, CALLER + 5, count=5000)
        cpu.hook_del(hook)
        assert cpu.reg_read(uc.UC_X86_REG_RIP) == CALLER + 5
        assert cpu.reg_read(uc.UC_X86_REG_RAX) == RESULT
        assert cpu.reg_read(uc.UC_X86_REG_RDX) == 0
        assert cpu.reg_read(uc.UC_X86_REG_RSP) == STACK + 0x800
        assert cpu.reg_read(uc.UC_X86_REG_EFLAGS) & 0x200
        kept = [uc.UC_X86_REG_RBP, *range(uc.UC_X86_REG_R12, uc.UC_X86_REG_R15 + 1)]
        assert {n: cpu.reg_read(n) for n in kept} == {n: values[n] for n in kept}


def behind(guest: Guest) -> int:
    return guest.tells.span.stop + 16 & -16


@pytest.mark.parametrize("smp", [False, True])
@pytest.mark.parametrize("subject", SUBJECTS)
def test_an_errand_is_told_where_it_begins_and_where_it_ends(subject: Subject, smp: bool) -> None:
    guest = Guest(smp)
    guest.run(around(behind(guest), subject, WORK, PAGE), subject)
    first, last = guest.told()
    assert first[1:] == (ERRAND, CURRENT, What.BEGIN, WORK)
    assert last[1:] == (ERRAND, CURRENT, What.END, WORK)
    assert first.counter < last.counter and len(guest.seen) == 1
    assert guest.word("LOCK") == 0 and not guest.waits


def test_errands_are_within_each_other() -> None:
    guest = Guest(depth=3)
    guest.run(around(behind(guest), SUBJECTS[0], WORK, PAGE), SUBJECTS[0])
    whats = [entry.what for entry in guest.told()]
    assert whats == 3 * [What.BEGIN] + 3 * [What.END] and len(guest.seen) == 3


@pytest.mark.parametrize("tells", [PAGE, None])
def test_an_unwinder_finds_the_errand_on_the_stack_and_who_called(tells: int | None) -> None:
    guest = Guest()
    made = around(behind(guest), SUBJECTS[2], WORK, tells)
    guest.run(made, SUBJECTS[2])
    back, *kept = guest.stacks[0]
    assert made.back is not None and back == made.back.linear
    assert made.back.errand is not None
    told = kept[made.back.errand // 8], kept[made.back.returns // 8]
    assert told == (ERRAND, CALLER + 5)
    assert bool(guest.told()) == (tells is not None)


@pytest.mark.parametrize("subject", [SUBJECTS[1], None])
def test_a_moment_is_told_before_the_function(subject: Subject | None) -> None:
    guest = Guest()
    guest.run(before(behind(guest), subject, What.FOR_GOOD, 4, PAGE), subject)
    (entry,) = guest.told()
    assert entry[1:] == (0 if subject is None else ERRAND, CURRENT, What.FOR_GOOD, 4)
    assert guest.stacks[0][0] == CALLER + 5


@pytest.mark.parametrize("smp", [False, True])
def test_a_full_diary_is_waited_for(smp: bool) -> None:
    guest = Guest(smp)
    guest.limit(0)
    guest.run(around(behind(guest), SUBJECTS[0], WORK, PAGE), SUBJECTS[0])
    assert guest.waits == 3 and [entry.what for entry in guest.told()] == [What.BEGIN, What.END]


def test_another_vcpu_that_tells_is_waited_for() -> None:
    guest = Guest(smp=True)
    guest.cpu.mem_write(BLOCK + diary_word("LOCK"), b"\1")
    guest.run(around(behind(guest), SUBJECTS[0], WORK, PAGE), SUBJECTS[0])
    assert guest.waits == 3 and len(guest.told()) == 2


@pytest.mark.parametrize("smp", [False, True])
def test_once_it_is_disarmed_nobody_comes_near_the_diary(smp: bool) -> None:
    guest = Guest(smp)
    assert guest.tells.disarm is not None
    guest.cpu.mem_write(*guest.tells.disarm)
    guest.cpu.mem_unmap(BLOCK, 0x10000)
    guest.run(around(behind(guest), SUBJECTS[0], WORK, PAGE), SUBJECTS[0])
    assert len(guest.seen) == 1


def test_the_ring_of_entries_goes_on_at_its_start() -> None:
    guest = Guest()
    guest.cpu.mem_write(BLOCK + diary_word("HEAD"), struct.pack("<Q", 3 * DIARY_SLOTS - 1))
    guest.limit(4 * DIARY_SLOTS)
    guest.run(around(behind(guest), SUBJECTS[0], WORK, PAGE), SUBJECTS[0])
    told = guest.told()
    assert (told[-1].what, told[0].what) == (What.BEGIN, What.END) and told[0].function == ERRAND
    assert guest.word("HEAD") == 3 * DIARY_SLOTS + 1
