"""Run instructions on the host CPU itself, on RAM, in a process of their own.

``python -m tests.diff.native`` reads pickled batches of cases from standard input and answers
each with the state afterwards. An instruction that faults kills that process; the parent
(:class:`Native`) sees the signal, counts it as the result of the case, and starts another.

The code page holds, at fixed offsets: the instruction under test and a jump to the epilogue;
a target for jumps under test; the prologue, which loads every register and enters the
instruction; the epilogue, which stores every register. Neither changes a flag in between.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import pickle
import subprocess
import sys
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

CODE = 0x2000_0000
"""Linear address of the instruction under test."""
DATA, DATA_END = 0x1000_0000, 0x1000_4000
"""Linear addresses of the RAM that instructions may touch."""
RAM_SIZE = DATA_END - DATA
LOW = 0x4000
"""Where the same RAM is for 16-bit addresses."""
LOW_CODE = 0x1000
"""Where the instruction under test is for 16-bit code."""
JUMPED = CODE + 0x100
"""Where a jump or call under test may go."""
PATTERN = bytes((n * 37 + (n >> 8) * 11 + 5) & 0xFF for n in range(DATA_END - DATA))
"""What the RAM holds before each case: a function of the address, so a wrong address shows."""

# How a process ends whose heap lies where the RAM has to be, and how many may in a row.
_TAKEN, _ATTEMPTS = 75, 20
_PROLOGUE, _EPILOGUE = 0x200, 0x600
_STATE = 0x1000
# Offsets in the state page: registers in, registers out, and what the harness itself must keep.
_IN, _FLAGS_IN, _FS_IN, _GS_IN = 0x000, 0x080, 0x088, 0x090
_OUT, _FLAGS_OUT, _JUMPED = 0x100, 0x180, 0x188
_OWN_RSP, _OWN_FS, _OWN_GS = 0x200, 0x208, 0x210
_FX_IN, _FX_OUT = 0x400, 0x800
_YMM_IN, _YMM_OUT = 0xA00, 0xC00


@dataclass(frozen=True)
class Machine:
    """Hold the registers of the host CPU, before or after.

    ``fx`` is an FXSAVE64 image, ``ymm`` has YMM0 to YMM15 one after the other. A CPU without AVX
    ignores these, and gives zeroes back.
    """

    gpr: tuple[int, ...]
    rflags: int
    fs_base: int
    gs_base: int
    fx: bytes
    ymm: bytes
    jumped: bool = False


class _Assembler:
    # Just the instructions the harness needs, each with a RIP-relative operand in the state page.

    def __init__(self, offset: int) -> None:
        self.start = offset
        self.code = bytearray()

    def raw(self, text: str) -> None:
        self.code += bytes.fromhex(text)

    def state(self, opcode: str, reg: int, offset: int, immediate: bytes = b"") -> None:
        head = bytes.fromhex(opcode)
        end = self.start + len(self.code) + len(head) + 5 + len(immediate)
        displacement = _STATE + offset - end
        self.code += head + bytes([reg << 3 & 0x38 | 5])
        self.code += displacement.to_bytes(4, "little", signed=True) + immediate

    def load(self, register: int, offset: int) -> None:
        self.state("4c8b" if register >= 8 else "488b", register, offset)

    def store(self, register: int, offset: int) -> None:
        self.state("4c89" if register >= 8 else "4889", register, offset)

    def vector(self, opcode: str, register: int, offset: int) -> None:
        self.state(("c57e" if register >= 8 else "c5fe") + opcode, register, offset)

    def jump(self, target: int) -> None:
        distance = target - (self.start + len(self.code) + 5)
        self.code += b"\xe9" + distance.to_bytes(4, "little", signed=True)


def _prologue(avx: bool) -> bytes:
    asm = _Assembler(_PROLOGUE)
    asm.raw("53 55 4154 4155 4156 4157")  # push rbx, rbp, r12 to r15
    asm.store(4, _OWN_RSP)
    asm.raw("f3480faec0")  # rdfsbase rax
    asm.store(0, _OWN_FS)
    asm.raw("f3480faec8")  # rdgsbase rax
    asm.store(0, _OWN_GS)
    asm.load(0, _FS_IN)
    asm.raw("f3480faed0")  # wrfsbase rax
    asm.load(0, _GS_IN)
    asm.raw("f3480faed8")  # wrgsbase rax
    asm.state("480fae", 1, _FX_IN)  # fxrstor64
    for register in range(16 * avx):
        asm.vector("6f", register, _YMM_IN + 32 * register)  # vmovdqu ymm
    asm.state("ff", 6, _FLAGS_IN)  # push
    asm.raw("9d")  # popfq
    for register in (*range(4), *range(5, 16), 4):
        asm.load(register, _IN + 8 * register)
    asm.jump(0)
    return bytes(asm.code)


def _epilogue(avx: bool) -> bytes:
    asm = _Assembler(_EPILOGUE)
    for register in range(16):
        asm.store(register, _OUT + 8 * register)
    asm.load(4, _OWN_RSP)
    asm.raw("9c")  # pushfq
    asm.state("8f", 0, _FLAGS_OUT)  # pop
    asm.raw("fc")  # cld
    asm.state("480fae", 0, _FX_OUT)  # fxsave64
    for register in range(16 * avx):
        asm.vector("7f", register, _YMM_OUT + 32 * register)  # vmovdqu ymm
    asm.load(0, _OWN_FS)
    asm.raw("f3480faed0")  # wrfsbase rax
    asm.load(0, _OWN_GS)
    asm.raw("f3480faed8")  # wrgsbase rax
    asm.raw("dbe3")  # fninit: the C library wants an empty x87 stack
    asm.raw("415f 415e 415d 415c 5d 5b c3")
    return bytes(asm.code)


def _jumped() -> bytes:
    asm = _Assembler(JUMPED - CODE)
    asm.state("c6", 0, _JUMPED, b"\1")  # mov byte [jumped], 1
    asm.jump(_EPILOGUE)
    return bytes(asm.code)


def _map(address: int, length: int, executable: bool = False) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    protection = mmap.PROT_READ | mmap.PROT_WRITE | (mmap.PROT_EXEC if executable else 0)
    fixed = 0x100000  # MAP_FIXED_NOREPLACE
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | fixed
    if libc.mmap(address, length, protection, flags, -1, 0) != address:
        if ctypes.get_errno() == errno.EEXIST:
            sys.exit(_TAKEN)
        raise OSError(ctypes.get_errno(), f"cannot map {address:#x} for the harness")


def _serve() -> None:
    _map(CODE, 0x2000, executable=True)
    _map(DATA, DATA_END - DATA)
    avx = " avx " in Path("/proc/cpuinfo").read_text()
    for offset, code in (
        (_PROLOGUE, _prologue(avx)), (_EPILOGUE, _epilogue(avx)), (JUMPED - CODE, _jumped()),
    ):  # fmt: skip
        ctypes.memmove(CODE + offset, code, len(code))
    run = ctypes.CFUNCTYPE(None)(CODE + _PROLOGUE)
    state = CODE + _STATE
    while True:
        try:
            batch = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        for code, machine, ram in batch:
            asm = _Assembler(0)
            asm.code += code
            asm.jump(_EPILOGUE)
            ctypes.memmove(CODE, bytes(asm.code), len(asm.code))
            ctypes.memmove(DATA, PATTERN, len(PATTERN))
            for linear, value in ram.items():
                ctypes.memmove(linear, value, len(value))
            numbers = (*machine.gpr, machine.rflags, machine.fs_base, machine.gs_base)
            packed = b"".join(number.to_bytes(8, "little") for number in numbers)
            ctypes.memmove(state + _IN, packed, len(packed))
            ctypes.memmove(state + _FX_IN, machine.fx, 512)
            ctypes.memmove(state + _YMM_IN, machine.ymm, 512)
            ctypes.memset(state + _JUMPED, 0, 1)
            run()
            out = ctypes.string_at(state + _OUT, 0x89)
            gpr = tuple(int.from_bytes(out[n : n + 8], "little") for n in range(0, 0x80, 8))
            after = Machine(
                gpr, int.from_bytes(out[0x80:0x88], "little"), 0, 0,
                ctypes.string_at(state + _FX_OUT, 512),
                ctypes.string_at(state + _YMM_OUT, 512), bool(out[0x88]),
            )  # fmt: skip
            pickle.dump((after, ctypes.string_at(DATA, len(PATTERN))), sys.stdout.buffer)
            sys.stdout.buffer.flush()


Task = tuple[bytes, Machine, dict[int, bytes]]
Outcome = tuple[Machine, bytes] | int


class Native:
    """Run batches of tasks on the host CPU."""

    def run(self, tasks: list[Task]) -> list[Outcome]:
        """Return, per task, the registers and RAM afterwards, or the signal it died of."""
        outcomes: list[Outcome] = []
        taken = 0
        while len(outcomes) < len(tasks):
            command = [sys.executable, "-m", "tests.diff.native"]
            done = subprocess.run(
                command, input=pickle.dumps(tasks[len(outcomes) :]), stdout=subprocess.PIPE,
                cwd=Path(__file__).parents[2], check=False,
            )  # fmt: skip
            if done.returncode == _TAKEN and taken < _ATTEMPTS:
                taken += 1  # the next process has its heap elsewhere
                continue
            if done.returncode > 0:
                raise RuntimeError(f"the native harness failed with status {done.returncode}")
            answers = BytesIO(done.stdout)
            while answers.tell() < len(done.stdout):
                outcomes.append(pickle.load(answers))
            if done.returncode < 0:
                outcomes.append(-done.returncode)
        return outcomes


if __name__ == "__main__":
    # Under its own name, so that what is pickled here is known to the parent.
    from tests.diff import native

    native._serve()
