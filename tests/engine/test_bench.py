"""A guest of SEV-ES is borrowed: its handler is entered for trials, and the guest has all back."""

from __future__ import annotations

from itertools import pairwise

import pytest
from encrypted_guest import GHCB, MMIO_READ, MMIO_WRITE, Encrypted
from playbook import Step, play
from ram import POISON, ROOT
from scene import AT, CODE, DEVICE, READ, STACK, registers
from trust_domain import READS, REG

from tracer.access.stop import Stopped
from tracer.access.vcpu import SetMemory, SetRegister
from tracer.access.want import (
    DeleteBreakpoint,
    ReadPhysical,
    Registers,
    SetBreakpoint,
    WriteCode,
)
from tracer.confidential.expectation import foretold
from tracer.confidential.ghcb import SHARED_BUFFER, VMGEXIT
from tracer.confidential.handler import PROFILES
from tracer.confidential.sev_exit import Ask
from tracer.confidential.trial import Ground, Trial, trials
from tracer.errors import InterceptError
from tracer.intercept.below.bench import BORROWED_AT, Bench, Wanted
from tracer.intercept.below.vc_trial import VcTrials
from tracer.intercept.entry.spill import SPILL_SIZE, unpack_spill
from tracer.intercept.entry.stub import CALLED
from tracer.intercept.interceptor import Intercepted
from tracer.intercept.trap import GoOn
from tracer.x86.paging import PRESENT, USER_SLOTS
from tracer.x86.state import GPR, PAGE_SIZE, RSP

PROFILE = PROFILES["linux-sev"]
BEHIND, NUMBER = 0xFFFF_FFFF_8100_0800, 41
SPILLED = STACK - 0x400
USER_AT = AT & (1 << 39) - 1


class Borrowed(Encrypted):
    """A guest whose handler so many instructions of a seed are tried on."""

    def __init__(self, count: int, seed: int = 7) -> None:
        super().__init__(ist=0)
        self.journal.counts["vc"] = BORROWED_AT
        self.seed, self.count = seed, count
        wanted = Wanted(PROFILE, seed, count, lambda space: BEHIND)
        self.trialable = VcTrials(self.guest)
        self.bench = Bench(self.guest, self.trialable, self.journal, wanted)
        self.interceptor.firmware = self.bench
        self.code = self.gate.room.stop - 32 & -16

    @property
    def trials(self) -> list[Trial]:
        stack = SPILLED - 0x700 & -256
        ground = Ground(self.code, stack, AT, USER_AT, DEVICE, PAGE_SIZE, pages=1, steered=True)
        return list(trials(self.seed, self.count, ground))

    def begins(self) -> None:
        """Let the kernel touch a device: its handler is entered for the first trial instead."""
        self.fault(READS, AT + 0x1C, READ, stack=SPILLED, rcx=AT, rflags=0x46)
        steps: list[Step] = [
            (SetBreakpoint(BEHIND), NUMBER), (WriteCode, self.write_code),
            (WriteCode, self.write_code),
        ]  # fmt: skip
        self.entered_for(self.play(*steps, stack=SPILLED), self.trials[0])

    def entered_for(self, done: Intercepted, trial: Trial) -> None:
        spill: bytes = b""
        for change in done.changes:
            if isinstance(change, SetMemory):
                self.write(change.linear, change.data)
                spill = change.data if len(change.data) == SPILL_SIZE else spill
        assert done.changes[-1] == SetRegister("rip", self.stub.switching)
        frame, gpr = unpack_spill(spill).frame, unpack_spill(spill).gpr
        assert (frame.rip, frame.rsp, gpr) == (self.code, trial.cpu.gpr[RSP], trial.cpu.gpr)
        assert self.space.read(self.code, len(trial.insn.code)) == trial.insn.code

    def call(
        self, rip: int, msr: int, *steps: Step, rflags: int = 0x46, **registers: int
    ) -> Intercepted:
        """Let the vCPU call its host."""
        self.moment += 1
        stack = self.trials[0].cpu.gpr[RSP] - 0x200
        self.fault(
            "", msr, CALLED, stack=stack, rip=rip, tsc=self.moment, rflags=rflags, **registers
        )  # fmt: skip
        return self.play(*steps, stack=stack)

    def asks_as_foretold(self, trial: Trial) -> None:
        work = foretold(trial, PROFILE).handled
        assert work is not None
        for wish in work.wishes:
            write = wish.direction == "write"
            value = (wish.value or 0).to_bytes(wish.width, "little") if write else b""
            self.page(
                value,
                sw_exit_code=MMIO_WRITE if write else MMIO_READ,
                sw_exit_info_1=DEVICE | wish.linear % PAGE_SIZE | POISON,
                sw_exit_info_2=wish.width,
                sw_scratch=GHCB + SHARED_BUFFER,
            )
            self.call(BEHIND + 0x40, GHCB)
            if not write:
                read = self.ram.read(GHCB + SHARED_BUFFER, wish.width)
                assert int.from_bytes(read, "little") == trial.answer & (1 << 8 * wish.width) - 1

    def goes_on(self, trial: Trial, *steps: Step) -> Intercepted:
        """Let the handler come back to behind the instruction."""
        work = foretold(trial, PROFILE).handled
        assert work is not None
        names = dict(zip(GPR, work.cpu.gpr, strict=True))
        return self.call(work.cpu.rip, GHCB, *steps, rflags=work.cpu.rflags, **names)

    def gives_up(self, *steps: Step) -> Intercepted:
        """Let the handler give up, and go back to where it came from."""
        stop = Stopped("breakpoint-hit", 1, BEHIND, NUMBER, "SIGTRAP")
        assert self.bench.claims(stop) and self.bench.number_at(BEHIND) == NUMBER
        written = (WriteCode(self.code, VMGEXIT), None)
        found = play(self.bench.handle(stop), (Registers(), registers(rax=0x300)), written)
        assert found == GoOn([SetRegister("rax", 0x301)])
        return self.call(self.code, GHCB, *steps)


@pytest.fixture
def scene() -> Borrowed:
    return Borrowed(12)


def slot(scene: Borrowed) -> int:
    return scene.ram.entry(ROOT + 8 * (USER_AT >> 39))


def test_a_guest_is_borrowed_for_trials_and_has_all_back(scene: Borrowed) -> None:
    scene.begins()
    assert slot(scene) & PRESENT and scene.space.leaf(USER_AT) is not None
    places = set()
    for trial, following in pairwise([*scene.trials, None]):
        assert trial is not None
        places.add(trial.place)
        steps: Step = (DeleteBreakpoint(NUMBER), None)
        if following is not None:
            steps = (WriteCode, scene.write_code)
        if foretold(trial, PROFILE).handled is not None:
            scene.asks_as_foretold(trial)
            done = scene.goes_on(trial, steps)
        else:
            done = scene.gives_up(steps)
        if following is not None:
            scene.entered_for(done, following)
    findings = scene.bench.findings
    assert scene.bench.done and findings.agrees and findings.tried == scene.count, findings.found
    assert min(findings.carried_out, findings.rejected) > 0 and places >= {"device", "user"}
    # Its own beginning is a #VC of the guest's by now.
    assert slot(scene) == 0 and scene.journal.counts["vc"] == BORROWED_AT + 1
    scene.after(done, SPILLED)
    assert unpack_spill(scene.space.read(SPILLED, SPILL_SIZE)).frame.rip == CODE
    assert SetRegister("rsp", SPILLED) in done.changes
    assert scene.asks((ReadPhysical(REG, 4), 5), physical=REG, stack=SPILLED) == 5
    assert scene.journal.counts["agreed"] == 1


def test_a_string_that_is_moved_faults_in_its_handler_again() -> None:
    scene = Borrowed(40)
    number = next(n for n, it in enumerate(scene.trials) if it.insn.text.startswith("movs"))
    scene = Borrowed(number + 1)
    scene.begins()
    trial = scene.trials[number]
    scene.bench._borrowed.under.trial = trial  # type: ignore[union-attr] - as if it were its turn
    scene.fault("8a 06", trial.linear, READ, stack=SPILLED - 0xA00, rip=CODE + 0x20)
    done = scene.play(stack=SPILLED - 0xA00)
    assert done.changes[-1] == SetRegister("rip", scene.stub.switching)


def test_a_fault_that_no_trial_leads_to_ends_the_run(scene: Borrowed) -> None:
    scene.begins()
    assert not scene.trials[0].insn.text.startswith("movs")
    scene.fault("8a 06", AT, READ, stack=SPILLED - 0xA00, rip=CODE + 0x20)
    with pytest.raises(InterceptError, match="while the guest's handler was tried"):
        scene.play(stack=SPILLED - 0xA00)


def test_a_handler_that_gives_up_twice_ends_the_run(scene: Borrowed) -> None:
    scene.begins()
    stop = Stopped("breakpoint-hit", 1, BEHIND, NUMBER, "SIGTRAP")
    steps = (Registers(), registers(rax=0))
    play(scene.bench.handle(stop), steps, (WriteCode(scene.code, VMGEXIT), None))
    with pytest.raises(InterceptError, match="gave up twice"):
        play(scene.bench.handle(stop), steps)


def test_a_guest_that_asks_for_its_end_meanwhile_ends_the_run(scene: Borrowed) -> None:
    scene.begins()
    with pytest.raises(InterceptError, match="while its handler was tried"):
        scene.call(BEHIND + 0x40, Ask.TERMINATION)


def test_a_guest_is_not_borrowed_within_a_handler(scene: Borrowed) -> None:
    scene.journal.counts["vc"] = BORROWED_AT - 1
    scene.faults(READS, AT + 0x1C, rcx=AT, stack=SPILLED)
    assert scene.journal.counts["vc"] == BORROWED_AT and scene.guest.owes
    scene.faults(READS, AT + 0x1C, rcx=AT, stack=SPILLED - 0x800)
    assert scene.journal.counts["vc"] == BORROWED_AT + 1 and slot(scene) == 0


def test_a_root_without_an_unused_slot_is_told(scene: Borrowed) -> None:
    for number in USER_SLOTS:
        scene.ram.write(ROOT + 8 * number, (2).to_bytes(8, "little"))
    scene.fault(READS, AT + 0x1C, READ, stack=SPILLED, rcx=AT, rflags=0x46)
    with pytest.raises(InterceptError, match="no unused slot"):
        scene.play(stack=SPILLED)
