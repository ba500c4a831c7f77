"""The work of one access: each page is walked to once, each operand planned once.

A figure that grows tells that a second way has come up beside the first.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from playbook import Step, play
from ram import POISON, ROOT
from scene import (
    AT,
    CODE,
    DATA,
    DATA_AT,
    DEVICE,
    GDT_AT,
    READ,
    STATE,
    WRITE,
    Scene,
    registers,
)
from stage import Stage, loaded, other_idt

from tracer.access import execution, space
from tracer.access.decision import Go, Retry
from tracer.access.stop import Stopped
from tracer.access.want import (
    AskAnswered,
    AskBefore,
    AskCompleted,
    MapChanged,
    ReadPhysical,
    Registers,
    StackAndTables,
    Tables,
    VcpuStates,
    WatchStores,
    WriteCode,
    WritePhysical,
)
from tracer.x86 import emulate
from tracer.x86.emulate import address
from tracer.x86.state import Mode


class Work:
    """Count plans, and walks by the page that they look for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.walks: Counter[int] = Counter()
        self.plans = 0
        walk, plan = space.walk, address.plan

        def walked(memory: Any, paging: Any, linear: int) -> Any:
            self.walks[linear & -0x1000] += 1
            return walk(memory, paging, linear)

        def planned(*args: Any) -> Any:
            self.plans += 1
            return plan(*args)

        monkeypatch.setattr(space, "walk", walked)
        for module in (execution, emulate):
            monkeypatch.setattr(module, "plan", planned)

    def during(self, play: Callable[[], object]) -> tuple[int, dict[int, int]]:
        """Return the plans and the walks during one stop, those to its stack left out."""
        self.walks.clear()
        self.plans = 0
        play()
        return self.plans, {at: n for at, n in self.walks.items() if at in (CODE, AT, DATA)}


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    return Work(monkeypatch)


READS: Step = (ReadPhysical(DEVICE, 4), 5)


@pytest.mark.parametrize(
    ("code", "error", "steps"),
    [
        ("8b06", READ, [READS]),  # mov eax, [rsi]
        ("8916", WRITE, [(WritePhysical(DEVICE, 4, 7), None)]),  # mov [rsi], edx
        ("0116", WRITE, [READS, (WritePhysical(DEVICE, 4, 12), None)]),  # add [rsi], edx
    ],
)
def test_an_access_is_planned_once_and_its_page_walked_to_once(
    work: Work, code: str, error: int, steps: list[Step]
) -> None:
    scene = Scene()
    scene.fault(code, AT, error, rsi=AT, rdx=7)
    assert work.during(lambda: scene.play(*steps)) == (1, {CODE: 1, AT: 1})


def test_a_second_operand_costs_one_walk_more(work: Work) -> None:
    scene = Scene()
    scene.fault("a4", AT, rsi=AT, rdi=DATA)  # movsb
    steps = (ReadPhysical(DEVICE, 1), 5), (WritePhysical(DATA_AT, 1, 5), None)
    assert work.during(lambda: scene.play(*steps)) == (1, {CODE: 1, AT: 1, DATA: 1})


def same(wanted: AskCompleted) -> Any:
    return wanted.cpu


def test_a_person_who_looks_costs_no_second_plan(work: Work) -> None:
    scene = Scene()
    scene.interceptor.asks = True
    scene.fault("8b06", AT, rsi=AT)
    steps: list[Step] = [(AskBefore, Go()), READS, (AskAnswered, Go()), (AskCompleted, same)]
    assert work.during(lambda: scene.play(*steps)) == (1, {CODE: 1, AT: 1})


def test_registers_that_a_person_changed_make_a_new_plan(work: Work) -> None:
    scene = Scene()
    scene.interceptor.asks = True
    scene.fault("8b06", AT, rsi=AT)

    def further(wanted: AskBefore) -> Retry:
        gpr = list(wanted.pending.cpu.gpr)
        gpr[6] = AT + 8  # rsi
        return Retry(replace(wanted.pending.cpu, gpr=tuple(gpr)))

    steps: list[Step] = [
        (AskBefore, further), (AskBefore, Go()), (ReadPhysical(DEVICE + 8, 4), 5),
        (AskAnswered, Go()), (AskCompleted, same),
    ]  # fmt: skip
    assert work.during(lambda: scene.play(*steps)) == (2, {CODE: 2, AT: 2})
    assert scene.accesses() == [("read", DEVICE + 8, 4, 5)]


def test_each_iteration_of_a_repeated_instruction_is_planned_once(work: Work) -> None:
    scene = Scene()
    scene.fault("f3ab", AT, WRITE, rdi=AT, rcx=2, rax=7)  # rep stosd
    steps: list[Step] = [
        (WritePhysical(DEVICE, 4, 7), None), (MapChanged(), False),
        (WritePhysical(DEVICE + 4, 4, 7), None),
    ]  # fmt: skip
    assert work.during(lambda: scene.play(*steps)) == (2, {CODE: 2, AT: 2})


def test_one_place_drives_the_emulator() -> None:
    tracer = Path(emulate.__file__).parents[2]
    sent = re.compile(r"execution\.(?:send|throw)\(")
    found = [
        path.relative_to(tracer).as_posix()
        for path in tracer.rglob("*.py")
        for _ in sent.findall(path.read_text())
    ]
    assert found == ["x86/emulate/access.py"]


# ---- nothing of one access is left for the next


def test_code_that_was_written_over_is_decoded_anew() -> None:
    scene = Scene()
    scene.fault("8b06", AT, rsi=AT)
    scene.play(READS)
    scene.fault("8b06", AT, rsi=AT, tsc=2000)
    scene.write(CODE, bytes.fromhex("8a06"))  # mov al, [rsi]
    scene.play((ReadPhysical(DEVICE, 1), 5))
    assert [access[2] for access in scene.accesses()] == [4, 1]


def test_a_mapping_that_was_changed_is_walked_to_anew() -> None:
    scene = Scene()
    scene.fault("8b06", AT, rsi=AT)
    scene.play(READS)
    # The guest has the page elsewhere now, and has told its CPU by INVLPG; nobody saw that.
    scene.ram.map(AT, DEVICE + 0x1000 | POISON)
    scene.fault("8b06", AT, rsi=AT, tsc=2000)
    scene.play((ReadPhysical(DEVICE + 0x1000, 4), 5))
    assert [access[1] for access in scene.accesses()] == [DEVICE, DEVICE + 0x1000]


def test_other_page_tables_are_walked_from_their_root() -> None:
    scene = Scene()
    scene.fault("8b06", AT, rsi=AT)
    scene.play(READS)
    root = 0x30_0000  # a program's: half of it is its own, and the kernel's half is shared
    scene.ram.write(root + 0x800, scene.ram.read(ROOT + 0x800, 0x800))
    (slot,) = struct.unpack("<Q", scene.ram.read(ROOT + 8 * (AT >> 39 & 511), 8))
    scene.ram.write(root + 8 * (AT >> 39 & 511), struct.pack("<Q", slot))
    assert slot
    stack = scene.fault("8b06", AT, rsi=AT, tsc=2000, cr3=root)
    # The kernel's half of the first one is gone: whoever still walks from there finds nothing.
    scene.ram.write(ROOT, bytes(0x1000))
    steps: list[Step] = [(StackAndTables(), (stack, root)), READS]
    play(scene.interceptor.intercept(0, scene.gate), *steps)
    assert len(scene.accesses()) == 2


def test_a_code_segment_is_looked_up_anew_once_the_guest_has_loaded_another_idt() -> None:
    stage = Stage()
    scene = stage.scene
    selector = 24 | 3
    tables = (Tables(), STATE.tables)
    scene.ram.write(GDT_AT + 24, struct.pack("<Q", 0x00AF_FB00_0000_FFFF))
    assert play(scene.view.mode(selector, scene.space), tables) is Mode.LONG
    scene.ram.write(GDT_AT + 24, struct.pack("<Q", 0x00CF_FB00_0000_FFFF))
    assert play(scene.view.mode(selector, scene.space)) is Mode.LONG
    steps = (Registers(), registers()), (VcpuStates(), (STATE,))
    play(stage.loads.handle(Stopped("breakpoint-hit", 0, CODE, 7, "SIGTRAP")), *steps)
    assert play(scene.view.mode(selector, scene.space), tables) is Mode.COMPAT32
    # Or one is found that was loaded where nobody saw it.
    scene.ram.write(GDT_AT + 24, struct.pack("<Q", 0x00AF_FB00_0000_FFFF))
    play(
        stage.loads.look(),
        (VcpuStates(), (loaded(stage, other_idt(scene)),)), (WriteCode, scene.write_code),
        (WatchStores, 8), (WatchStores, 9),
    )  # fmt: skip
    assert play(scene.view.mode(selector, scene.space), tables) is Mode.LONG
