"""Each form that compiles: on RAM by the CPU itself against compiled on a device, all being equal.

Both CPUs are Unicorn. What Unicorn lacks, AVX before all, is compared on the host's CPU, as far as
the instruction is another one in a thunk: `tests/diff/test_compiled.py`.
"""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import replace
from functools import lru_cache

import pytest
from compiled_cpu import (
    DATA,
    DATA_AT,
    DEVICE,
    DEVICE_AT,
    STACK,
    STACK_AT,
    TEXT,
    WINDOW,
    After,
    Compiled,
    Native,
)

from tests.diff import tcg
from tests.diff.case import Case, cases
from tests.diff.compare import empty
from tests.diff.native import CODE, PATTERN, RAM_SIZE
from tests.diff.native import DATA as RAM
from tracer.compiled.diary import Current
from tracer.compiled.reading import accesses, state_after, transfers, verified
from tracer.compiled.ring import Raw
from tracer.compiled.safety import NotCompiled, Template, reads_and_writes, template_of
from tracer.compiled.sites import Site
from tracer.x86.decode import decode
from tracer.x86.emulate.address import places
from tracer.x86.forms import FORMS, Form, Unit
from tracer.x86.instruction import Instruction
from tracer.x86.paging import PRESENT
from tracer.x86.state import GPR, RAX, RCX, RDI, RSI, RSP, CpuState, Flag, Mode

PER_FORM = 2
PAGES = RAM_SIZE // 4096
_COMPARED_FLAGS = 0xED5
_READ_ONLY, _STORE = 8, 8 | 2
_LACKS = frozenset(
    ("adcx", "adox", "movdiri", "movdir64b", "clwb", "movntss", "movntsd", "test F6 /1")
)
_MASKS = 0x3F


def knows(form: Form) -> bool:
    """Whether Unicorn executes a form at all: right or wrong, it does so twice here."""
    if form.only == "i64" or (form.opcode.vex and form.unit is Unit.SSE):
        return False
    if form.opcode.text in ("F6 /1", "F7 /1"):
        return False
    return form.name not in _LACKS and not form.name.startswith(("sha", "gf2p8"))


def image(cpu: CpuState) -> bytes:
    """The x87 and SSE registers as FXRSTOR takes them."""
    head = struct.pack("<HHBxHQQII", cpu.fpu_control, cpu.fpu_status, ~empty(cpu.fpu_tag) & 0xFF,
                       0, 0, 0, cpu.mxcsr, 0xFFFF)  # fmt: skip
    st = cpu.st or (0,) * 8
    vectors = b"".join(value.to_bytes(16, "little") for value in (*st, *cpu.xmm))
    return (head + vectors).ljust(512, b"\0")


@lru_cache
def native() -> Native:
    return Native(RAM, PAGES, CODE)


def guest_of_cases() -> Compiled:
    current = Current(0x1201, range(CODE, CODE + 0x1000))
    return Compiled(linear=RAM, text=CODE, pages=PAGES, current=current)


def memory_of(case: Case) -> bytes:
    memory = bytearray(PATTERN)
    for linear, value in case.ram.items():
        memory[linear - RAM : linear - RAM + len(value)] = value
    return bytes(memory)


def compare(
    guest: Compiled, case: Case, insn: Instruction, linear: int, cpu: CpuState
) -> list[str]:
    """Run a case both ways, and say what is different."""
    memory, fx = memory_of(case), image(cpu)
    own, left = native().run(insn.code, cpu, fx, memory)
    guest.put(insn.code, cpu.rip)
    site = guest.enter(insn)
    guest.device(memory)
    writes = reads_and_writes(insn) == (False, True)
    after = guest.fault(cpu, linear, _STORE if writes else _READ_ONLY, fx)
    if linear % 4096 + insn.width > 4096:
        return [] if after.slow else ["an access across a page was compiled"]
    if after.slow:
        return [f"slow: {guest.reasons()}"]
    wrong = [
        f"{name} {a:#x}, compiled {b:#x}"
        for name, a, b in zip(
            (*GPR, "rip", "flags"), _registers(own), _registers(after), strict=True
        )
        if a != b
    ]
    # Where the last x87 instruction and its operand were, the rest of the image does not tell.
    if _without_pointers(own.fx) != _without_pointers(after.fx):
        wrong.append("x87 or SSE registers")
    if left != guest.device():
        wrong.append("memory")
    (raw,) = guest.taken()
    return wrong + _wrong_record(guest, site, raw, cpu, linear)


def _wrong_record(guest: Compiled, site: Site, raw: Raw, cpu: CpuState, linear: int) -> list[str]:
    wrong = []
    made = [part for whole in accesses(site.insn, raw, WINDOW) for part in transfers(whole)]
    told = [
        ("write" if part.write else "read", part.physical - DEVICE_AT, part.width, part.value)
        for part in made
    ]
    if told != guest.touched:
        wrong.append(f"the device saw {guest.touched}, the record says {told}")
    if (raw.gpr, raw.rflags, raw.linear, raw.site) != (
        cpu.gpr, cpu.rflags, linear, site.number
    ):  # fmt: skip
        wrong.append("registers in the record")
    found = verified(site, raw)
    return wrong if found is None else [*wrong, str(found)]


def _registers(after: After) -> tuple[int, ...]:
    cpu = after.cpu
    return (*cpu.gpr, cpu.rip, cpu.rflags & _COMPARED_FLAGS)


def _without_pointers(fx: bytes) -> bytes:
    return fx[:6] + fx[24:416]


@pytest.mark.parametrize("part", range(8))
def test_each_form_does_the_same_compiled(part: int) -> None:
    guest = guest_of_cases()
    seen: Counter[str] = Counter()
    wrong: list[str] = []
    for form in filter(knows, FORMS[part::8]):
        for case in cases(form, Mode.LONG, PER_FORM, 7):
            insn = decode(case.code, case.cpu.rip, Mode.LONG)
            try:
                template = template_of(insn)
            except NotCompiled:
                continue
            if template not in (Template.MOVE, Template.CELL) or not tcg.trusted(case):
                continue
            cpu = replace(case.cpu, fpu_control=case.cpu.fpu_control | _MASKS)
            (operand,) = places(insn, cpu)
            if _crosses_always(insn, operand.linear):
                continue
            found = compare(guest, case, insn, operand.linear, cpu)
            seen[form.name] += 1
            wrong += [f"{insn.text} [{insn.code.hex()}]: {words}" for words in found]
    assert wrong == []
    assert len(seen) > 40


def _crosses_always(insn: Instruction, linear: int) -> bool:
    # A constant address across a page's end is refused by the compiler.
    return linear % 4096 + insn.width > 4096 and (
        "rip" in insn.text or "eip" in insn.text or "ptr [0x" in insn.text
    )


def test_exceptions_of_x87_that_would_come_are_not_a_thunks() -> None:
    guest = Compiled()
    for form in FORMS:
        if form.unit is not Unit.X87:
            continue
        code = _encoded(form)
        insn = guest.put(code, TEXT + 0x100)
        guest.enter(insn)
        waits = form.name not in ("fnstcw", "fnstsw")
        for control, status, refused in (
            (0x37F, 0, False),
            (0x37E, 0, waits and form.name != "fldcw"),
            (0x37F & ~0x20, 0, waits and form.name != "fldcw"),
            (0x37E, 0x8081, waits),
        ):
            after = _with_x87(guest, insn, control, status)
            assert after.slow is refused, f"{insn.text} with FCW {control:#x}, FSW {status:#x}"
            if refused:
                assert guest.touched == []
                assert _without_pointers(after.fx)[:4] == struct.pack("<HH", control, status)


def test_a_pending_exception_of_x87_keeps_mmx_from_running() -> None:
    guest = Compiled()
    for form in (form for form in FORMS if form.unit is Unit.MMX):
        insn = guest.put(_encoded(form), TEXT + 0x100)
        guest.enter(insn)
        assert _with_x87(guest, insn, 0x37E, 0x81).slow
        assert not _with_x87(guest, insn, 0x340, 0).slow


def test_no_exception_of_sse_is_unmasked_by_what_a_thunk_does() -> None:
    # All of MXCSR unmasked: what is no arithmetic on reals never asks.
    guest = Compiled()
    noise = bytes(range(1, 255)) * 40
    for form in FORMS:
        if form.unit is not Unit.SSE or form.opcode.vex or not knows(form):
            continue
        insn = guest.put(_encoded(form), TEXT + 0x100)
        guest.device(noise[: 4096 * guest.pages])
        guest.enter(insn)
        cpu = replace(_cpu(insn), xmm=(0x7FF0_0000_0000_0001 << 64 | 0x7F80_0001,) * 16, mxcsr=0)
        after = guest.fault(cpu, DEVICE + 0x40, 8, image(cpu))
        assert not after.slow, (insn.text, guest.reasons())
        guest.taken()


def test_what_has_to_be_aligned_is_looked_at() -> None:
    guest = Compiled()
    for form in (form for form in FORMS if form.aligned and knows(form) and not form.opcode.vex):
        insn = decode(_encoded(form) + bytes(8), TEXT + 0x100, Mode.LONG)
        try:
            template_of(insn)
        except NotCompiled:
            continue
        guest.put(insn.code, TEXT + 0x100)
        guest.enter(insn)
        for offset, refused in ((8, True), (16, False), (1, True)):
            cpu = _cpu(insn, DEVICE + offset)
            after = guest.fault(cpu, DEVICE + offset, 8, image(cpu))
            assert after.slow is (refused and bool(offset % insn.width)), insn.text
            if after.slow:
                assert (guest.touched, after.cpu.gpr) == ([], cpu.gpr)
            guest.taken()


def _encoded(form: Form) -> bytes:
    # With [rdi] as the operand.
    opcode = form.opcode
    reg = opcode.digit if opcode.digit is not None else 3
    lead = bytes([int(opcode.prefix, 16)]) if opcode.prefix in ("66", "F2", "F3") else b""
    rex = b"\x48" if opcode.w else b""
    escape = (b"", b"\x0f", b"\x0f\x38", b"\x0f\x3a")[opcode.map]
    tail = b"\0" if "Ib" in form.operands else b""
    return lead + rex + escape + bytes([opcode.byte, reg << 3 | RDI]) + tail


def _cpu(insn: Instruction, linear: int = DEVICE + 0x40) -> CpuState:
    gpr = list(range(0x100, 0x110))
    gpr[RDI], gpr[RSP] = linear, STACK + 0x1008
    return CpuState(tuple(gpr), insn.rip, 0x202, xmm=(0,) * 16)


def _with_x87(guest: Compiled, insn: Instruction, control: int, status: int) -> After:
    guest.device(bytes(4096 * guest.pages))
    cpu = replace(_cpu(insn), fpu_control=control, fpu_status=status, fpu_tag=0)
    after = guest.fault(cpu, DEVICE + 0x40, 8, image(cpu))
    guest.taken()
    return after


# The other templates: one side in RAM.

_VALUE = 0x8877_6655_4433_2211
_STRINGS = [
    (prefix + size + bytes([opcode]))
    for opcode in (0xA4, 0xA5, 0xAA, 0xAB, 0xAC, 0xAD)
    for prefix in (b"", b"\xf3", b"\x67", b"\x67\xf2")
    for size in (b"", b"\x66", b"\x48")
]


def _string_guest(low: bool) -> tuple[Compiled, int]:
    # Pointers of 32 bits need a device and RAM below 4 GiB.
    linear = 0x1000_0000 if low else DEVICE
    return Compiled(linear=linear), linear


@pytest.mark.parametrize("code", _STRINGS, ids=bytes.hex)
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("to_device", [False, True])
def test_pitfall_74_an_iteration_of_a_string_instruction(
    code: bytes, count: int, backwards: bool, to_device: bool
) -> None:
    operation = {0xA4: "movs", 0xAA: "stos", 0xAC: "lods"}[code[-1] & 0xFE]
    if operation != "movs" and to_device != (operation == "stos"):
        return
    guest, device = _string_guest(b"\x67" in code)
    ram = device - 4096 + 0x80  # below the device is a page of RAM
    insn = guest.put(code, TEXT + 0x100)
    site = guest.enter(insn)
    guest.device(_VALUE.to_bytes(8, "little") * (4096 * guest.pages // 8))
    guest.physical(DATA_AT + 0x5080, (~_VALUE & (1 << 64) - 1).to_bytes(8, "little"))
    junk = 0x1234_5678 << 32 if insn.address_size == 4 else 0
    gpr = list(range(0x9000, 0x9010))
    gpr[RSP], gpr[RCX], gpr[RAX] = STACK + 0x1008, count | junk, 0x0102_0304_0506_0708
    place = device + 0x40
    source, target = (ram, place) if to_device else (place, ram)
    gpr[RSI], gpr[RDI] = source | junk, target | junk
    cpu = CpuState(tuple(gpr), insn.rip, 0x202 | (Flag.DF if backwards else 0))
    after = guest.fault(cpu, place, 8 | 2 * to_device)
    assert not after.slow, guest.reasons()
    (raw,) = guest.taken()
    assert verified(site, raw) is None
    expected = state_after(insn, raw)
    assert expected is not None
    assert (after.cpu.gpr, after.cpu.rip, after.cpu.rflags) == (
        expected.gpr, expected.rip, expected.rflags
    )  # fmt: skip
    kind = "write" if to_device else "read"
    assert [touch[:3] for touch in guest.touched] == [(kind, 0x40, insn.width)]
    if operation == "movs":
        value = (~_VALUE if to_device else _VALUE) & (1 << 8 * insn.width) - 1
        read, written = accesses(insn, raw, WINDOW)
        assert (read.value, written.value) == (value, value)
        assert (written if not to_device else read).physical == DATA_AT + 0x5080
        at = WINDOW + DATA_AT + 0x5080
        there = int.from_bytes(guest.cpu.mem_read(at, insn.width), "little")
        assert there == value


def test_the_ram_of_a_string_is_found_before_the_device_is_touched() -> None:
    guest = Compiled()
    insn = guest.put(b"\xf3\xa4", TEXT + 0x100)
    guest.enter(insn)
    unmapped, read_only = DATA + 0x10_0000, DATA + 0x6000
    other_device = DEVICE + 0x1000
    guest.physical(
        guest.map_late(read_only, DATA_AT + 0x1000), struct.pack("<Q", DATA_AT + 0x1000 | PRESENT)
    )
    for target in (unmapped, other_device, read_only):
        gpr = list(_cpu(insn).gpr)
        gpr[RSI], gpr[RDI], gpr[RCX] = DEVICE + 0x40, target, 3
        cpu = CpuState(tuple(gpr), insn.rip, 0x202)
        after = guest.fault(cpu, DEVICE + 0x40, 8)
        assert after.slow
        assert (guest.touched, after.cpu.gpr) == ([], cpu.gpr)
    # As a source the read-only page will do, and a device's page that may not be written will not.
    gpr[RSI], gpr[RDI] = read_only, DEVICE + 0x40
    cpu = CpuState(tuple(gpr), insn.rip, 0x202)
    assert not guest.fault(cpu, DEVICE + 0x40, 8 | 2).slow
    guest.physical(guest.leaves[DEVICE], struct.pack("<Q", DEVICE_AT | PRESENT | 1 << 51))
    assert guest.fault(cpu, DEVICE + 0x40, 8 | 2).slow
    assert guest.touched == []


@pytest.mark.parametrize("size", [b"", b"\x66"])
@pytest.mark.parametrize("unaligned", [0, 8])
def test_push_and_pop_of_a_device(size: bytes, unaligned: int) -> None:
    guest = Compiled()
    for code, pushes in ((size + b"\xff\x37", True), (size + b"\x8f\x07", False)):
        insn = guest.put(code, TEXT + 0x100)
        site = guest.enter(insn)
        guest.device(_VALUE.to_bytes(8, "little") * (4096 * guest.pages // 8))
        cpu = _cpu(insn)
        gpr = list(cpu.gpr)
        gpr[RSP] = STACK + 0x1040 + unaligned
        cpu = replace(cpu, gpr=tuple(gpr))
        guest.cpu.mem_write(gpr[RSP], (~_VALUE & (1 << 64) - 1).to_bytes(8, "little"))
        after = guest.fault(cpu, DEVICE + 0x40, 8 | 2 * (not pushes))
        assert not after.slow, guest.reasons()
        (raw,) = guest.taken()
        assert verified(site, raw) is None
        expected = state_after(insn, raw)
        assert expected is not None
        assert (after.cpu.gpr, after.cpu.rip) == (expected.gpr, expected.rip)
        value = (_VALUE if pushes else ~_VALUE) & (1 << 8 * insn.width) - 1
        kind = "read" if pushes else "write"
        assert guest.touched == [(kind, 0x40, insn.width, value)]
        ram = next(access for access in accesses(insn, raw, WINDOW) if not access.device)
        assert ram.physical == STACK_AT + 0x1040 + unaligned - insn.width * pushes
        if pushes:
            there = guest.cpu.mem_read(after.cpu.gpr[RSP], insn.width)
            assert int.from_bytes(there, "little") == value


def test_a_push_to_a_page_that_is_not_there_goes_the_slow_way() -> None:
    guest = Compiled(current=Current(0x1201, range(TEXT, TEXT + 0x1000)))
    guest.cpu.mem_write(DATA + 0x1201, b"\x55" * 4)
    insn = guest.put(b"\xff\x37", TEXT + 0x100)
    guest.enter(insn)
    gpr = list(_cpu(insn).gpr)
    # The frame is where the stack is; what PUSH would write to is unmapped by now.
    guest.physical(guest.map_late(STACK + 0x1000, STACK_AT + 0x1000), bytes(8))
    cpu = CpuState(tuple(gpr), insn.rip, 0x202)
    after = guest.fault(cpu, DEVICE + 0x40, 8)
    assert after.slow and after.error == 8  # whoever runs there is in no error code
    assert guest.touched == []
