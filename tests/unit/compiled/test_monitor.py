"""The monitor's bytes, and what lies in RAM for it."""

from __future__ import annotations

import struct
from itertools import chain

import common_image
import pytest
from entered import ENTERED, REGISTERS
from monitor_cpu import DEVICE_AT, RAM_SIZE, MonitorCpu
from ram import PAGING, Ram

from tracer.compiled import layout, monitor
from tracer.compiled.inputs import INPUT_FIELDS, Input
from tracer.compiled.layout import CODE_SIZE, RING, SLOT_SIZE, THUNKS, Control
from tracer.compiled.module import FAULTS
from tracer.compiled.monitor import WINDOW_BASE, MonitorCode, monitor_size
from tracer.compiled.monitor_image import IMAGES
from tracer.confidential.input_verdict import SEV_MSRS
from tracer.x86.paging import PRESENT, WRITABLE
from tracer.x86.state import GPR

ALL = frozenset(Input)
BLOCK, PLACE = 0x1F00_0000, 0x1F40_0000
CODE = MonitorCode(BLOCK, PLACE, 2, range(0x1000, 0x3000), range(0x8000, 0x8100), stacks=False)


def word(page: bytes, at: int, size: int = 8) -> int:
    return int.from_bytes(page[at : at + size], "little")


@pytest.mark.skipif(not common_image.is_possible(), reason="binutils are not there")
@pytest.mark.parametrize("stacks", [False, True])
def test_the_bytes_are_those_of_the_source(stacks: bool) -> None:
    code, labels = common_image.assemble_monitor(stacks=stacks)
    assert (code.hex(), labels) == IMAGES[stacks]


@pytest.mark.parametrize("stacks", [False, True])
def test_the_code_has_room_between_what_is_beside_it(stacks: bool) -> None:
    end = monitor.PLACE + len(bytes.fromhex(IMAGES[stacks][0]))
    words = {monitor.word(name) for name in ("NESTED", "UNKNOWN", "CLOSED")}
    filled = Control(0, 0, 0, 0, 52, 2, 0).pack()
    assert FAULTS + 64 * 256 <= monitor.PLACE and len(words) == 3
    assert end <= THUNKS < RING
    # The words are in the control page, behind all that others have there.
    assert not any(filled[min(words) :]) and max(words) + 8 <= layout.PAGE


@pytest.mark.parametrize("stacks", [False, True])
def test_no_breakpoint_is_on_a_page_with_what_each_exit_takes(stacks: bool) -> None:
    # QEMU executes each instruction of a page with a breakpoint by itself (check_for_breakpoints).
    places = {name: place // 4096 for name, place in IMAGES[stacks][1].items()}
    stopped = {places[name] for name in ("waited", "requested")}
    assert stopped.isdisjoint(places[name] for name in ("onward", "full", "looked"))


def test_a_vcpu_enters_with_all_that_it_had() -> None:
    pages = CODE.of_vcpu(1, ENTERED, 0xABC)
    vmcb, state = pages[:4096], pages[8192:]
    assert len(pages) == monitor.PER_VCPU and CODE.vmcb(1) == PLACE + monitor.PER_VCPU
    # AMD64 Architecture Programmer's Manual vol. 2, appendix B
    assert word(vmcb, 0x0C) == 0xABC and word(vmcb, 0x58, 4) == 1
    assert vmcb[0x410:0x420] == struct.pack("<HHIQ", 0x10, 0xA9B, 0xFFFFFFFF, 0)
    assert vmcb[0x450:0x460] == struct.pack("<HHIQ", 0, 0, 0, 0xFFFF8880_00000000)
    assert (word(vmcb, 0x468), word(vmcb, 0x464, 4)) == (0xFFFF_0000, 0x7F)
    assert (word(vmcb, 0x488), word(vmcb, 0x484, 4)) == (0xFFFF_1000, 0xFFF)
    saved = {
        0x4D0: 0x1D01, 0x548: 0xA0, 0x550: 0x2A10000, 0x558: 0x80050033, 0x560: 0x400,
        0x568: 0xFFFF0FF0, 0x570: 0x46, 0x578: REGISTERS["rip"], 0x5D8: REGISTERS["rsp"],
        0x5F8: REGISTERS["rax"], 0x640: 0x1234,
    }  # fmt: skip
    assert {at: word(vmcb, at) for at in saved} == saved
    assert struct.unpack_from("<16Q", state) == tuple(REGISTERS[name] for name in GPR)
    assert word(state, 0xB0) == ~1 & (1 << 64) - 1


@pytest.mark.parametrize("levels", [4, 5])
def test_the_monitors_tables_map_all_memory_to_itself(levels: int) -> None:
    base = CODE.root(5)
    pages = CODE.shared(True, True, (), 0x10)
    table = CODE.root(levels)
    for _ in range(levels - 3):  # down to the entries of 1 GiB
        table = word(pages, table - base) & ~0xFFF
    frames = struct.unpack_from("<512Q", pages, table - base)
    assert frames == tuple(number << 30 | 0x83 for number in range(512))
    # At the window's linear addresses as well.
    assert table == word(pages, CODE.root(4) - base + 8 * (WINDOW_BASE >> 39 & 511)) & ~0xFFF


def test_each_vector_leads_to_an_entry_of_the_monitors() -> None:
    pages, base = CODE.shared(True, True, (), 0x10), CODE.root(5)
    state = CODE.of_vcpu(0, ENTERED, 0)[8192:]
    limit, idt = struct.unpack_from("<HQ", state, 0x90)
    assert limit == 256 * 16 - 1
    first = BLOCK + monitor.PLACE + IMAGES[False][1]["gates"]
    for vector in (0, 13, 255):
        low, selector, kind, middle, high = struct.unpack_from(
            "<HHHHI", pages, idt - base + vector * 16
        )
        assert (selector, kind) == (0x10, 0x8E00)
        assert high << 32 | middle << 16 | low == first + 8 * vector
    _, gdt = struct.unpack_from("<HQ", state, 0x80)
    assert word(pages, gdt - base + 0x10) == 0x00AF_9B00_0000_FFFF


@pytest.mark.parametrize(
    ("index", "there"),
    [(0x10, True), (0x1FFF, True), (0xC0000081, True), (0xC0010015, True), (0x401, False)],
)
def test_the_guest_leaves_for_every_msr_but_those_that_are_left_alone(
    index: int, there: bool
) -> None:
    pages = CODE.shared(True, True, [0x401], 0x10)
    assert _leaves(pages, index) == there


def test_a_guest_of_sev_es_accesses_its_own_msrs_by_itself() -> None:
    own = list(chain.from_iterable(SEV_MSRS))
    pages = CODE.shared(True, True, own, 0x10)
    assert not _leaves(pages, 0xC000_0102) and not _leaves(pages, 0xC001_0131)
    assert _leaves(pages, 0xC000_0080) and _leaves(pages, 0x10) and _leaves(pages, 0x2FF)


def test_an_encrypted_guest_leaves_for_its_debug_register() -> None:
    assert word(CODE.of_vcpu(0, ENTERED, 0, dr7=True), 4, 4) == 0x0080_0080
    assert word(CODE.of_vcpu(0, ENTERED, 0), 4, 4) == 0


def test_efer_is_always_asked_for_as_it_would_tell() -> None:
    pages = CODE.shared(False, False, (), 0x10)
    assert _leaves(pages, 0xC0000080) and not _leaves(pages, 0x10)
    assert not any(pages[monitor.MAPS : monitor.MAPS + 0x3000])


def _leaves(pages: bytes, index: int) -> bool:
    msrs = pages[monitor.MAPS + 0x3000 :]
    part = 0 if index < 0x2000 else 0x800 if index < 0xC0010000 else 0x1000
    low = index & 0x1FFF
    pair = msrs[part + low // 4] >> 2 * (low % 4) & 3
    assert pair in (0, 3)
    return pair == 3


def test_its_size_grows_with_the_vcpus() -> None:
    assert monitor_size(2) - monitor_size(1) == monitor.PER_VCPU
    assert CODE.root(5) == PLACE + 2 * monitor.PER_VCPU
    assert len(CODE.shared(True, True, (), 0x10)) == monitor_size(2) - 2 * monitor.PER_VCPU


STACK, COPY = 0xFFFF_C900_0080_0000, 0x38_0000
assembles = pytest.mark.skipif(not common_image.is_possible(), reason="binutils are not there")


@assembles
@pytest.mark.parametrize("behind", [DEVICE_AT, RAM_SIZE, None])
def test_a_stack_is_copied_as_far_as_memory_goes(behind: int | None) -> None:
    ram = Ram(RAM_SIZE)
    ram.map(STACK, 0x20_0000)
    if behind is not None:
        ram.map(STACK + 4096, behind)
    ram.write(0x20_0000, bytes(range(256)) * 16)
    cpu = MonitorCpu(ram)
    cpu.call("run", rdx=STACK + 0xFF0, r10=COPY, r9=COPY + 0x1000)
    assert cpu.register("r10") == COPY + 16 and not cpu.touched
    assert cpu.read(COPY, 16) == bytes(range(0xF0, 0x100))
    # One that begins there has nothing.
    cpu.call("run", rdx=STACK + 4096, r10=COPY, r9=COPY + 0x1000)
    assert cpu.register("r10") == COPY and not cpu.touched


@assembles
@pytest.mark.parametrize("level", [2, 3, 4])
def test_the_guests_tables_are_read_in_memory_alone(level: int) -> None:
    ram = Ram(RAM_SIZE)
    entry = (
        ram.map(STACK, 0x20_0000, level=level)
        if level < 4
        else PAGING.cr3 + 8 * (STACK >> 39 & 511)
    )
    ram.write(entry, struct.pack("<Q", DEVICE_AT | PRESENT | WRITABLE))
    cpu = MonitorCpu(ram)
    assert cpu.call("translate", rdx=STACK) and not cpu.touched


@assembles
@pytest.mark.parametrize("cr4", [0, 1 << 5])
def test_so_are_those_of_code_outside_long_mode(cr4: int) -> None:
    ram = Ram(RAM_SIZE)
    for page in (0, 8):  # the first entries of a root, of 4 bytes or of 8
        ram.write(PAGING.cr3 + page, struct.pack("<Q", DEVICE_AT | PRESENT))
    cpu = MonitorCpu(ram, efer=0, cr4=cr4)
    assert cpu.call("translate", rdx=0x1234) and not cpu.touched
    plain = MonitorCpu(ram, efer=0, cr0=0)
    assert not plain.call("translate", rdx=0x1234) and plain.register("rax") == 0x1234
    assert plain.call("translate", rdx=DEVICE_AT)


PROGRAM = 0x40_0000


@assembles
@pytest.mark.parametrize(
    ("at", "cpl", "behind", "known"),
    [
        (0x100, 3, None, bytes(range(16))), (0xFFC, 3, 0x21_0000, bytes(range(16))),
        (0xFFC, 3, None, bytes([0, 1, 2, 3])), (0xFFC, 3, DEVICE_AT, bytes([0, 1, 2, 3])),
        (0x1100, 3, None, b""), (0x100, 0, None, b""),
    ],
)  # fmt: skip
def test_a_record_has_the_code_of_a_program_as_far_as_there_is_memory(
    at: int, cpl: int, behind: int | None, known: bytes
) -> None:
    ram = Ram(RAM_SIZE)
    ram.map(PROGRAM, 0x20_0000)
    if behind is not None:
        ram.map(PROGRAM + 4096, behind)
    code = bytes(range(16))
    for offset, byte in enumerate(code, at):
        if offset < 4096 or behind == 0x21_0000:
            place = 0x20_0000 + offset if offset < 4096 else 0x21_0000 + offset - 4096
            ram.write(place, bytes([byte]))
    ram.write(COPY, b"\xaa" * SLOT_SIZE)
    cpu = MonitorCpu(ram, cpl=cpl, rip=PROGRAM + at)
    cpu.call("describe", r13=COPY)
    assert cpu.read(COPY + INPUT_FIELDS["CODE"], CODE_SIZE) == known.ljust(CODE_SIZE, b"\0")
    assert not cpu.touched


def _leaf(cpu: MonitorCpu, number: int) -> tuple[int, ...]:
    cpu.call("leaf", rax=number, rcx=0)
    return tuple(cpu.register(name) for name in ("rax", "rbx", "rcx", "rdx"))


@assembles
def test_a_trust_domain_is_told_how_fast_its_counter_goes() -> None:
    told = MonitorCpu(Ram(RAM_SIZE), words={"CRYSTAL": 10**9})
    plain = MonitorCpu(Ram(RAM_SIZE))
    # Intel SDM vol. 2A, CPUID: the ratio of the counter to the crystal, and the crystal's Hz
    assert _leaf(told, 0x15) == (1, 1, 10**9, 0) != _leaf(plain, 0x15)
    highest, *vendor = _leaf(plain, 0)
    assert highest < 0x15 and _leaf(told, 0) == (0x15, *vendor)
    assert _leaf(told, 7) == _leaf(plain, 7)
