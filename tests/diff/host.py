"""The host CPU as an oracle: translate between emulator states and the native harness."""

from __future__ import annotations

from pathlib import Path

from tests.diff.case import Case
from tests.diff.compare import Fault, Result, empty
from tests.diff.native import CODE, JUMPED, Machine, Native
from tracer.x86.forms import Form, Unit
from tracer.x86.state import RCX, CpuState

_SIGNALS = {4: "SIGILL", 5: "SIGTRAP", 7: "SIGBUS", 8: "SIGFPE", 11: "SIGSEGV"}

_FEATURE = {
    "movbe": "movbe", "movdiri": "movdiri", "movdir64b": "movdir64b", "popcnt": "popcnt",
    "lzcnt": "abm", "tzcnt": "bmi1", "crc32": "sse4_2", "andn": "bmi1", "bextr": "bmi1",
    "blsr": "bmi1", "blsmsk": "bmi1", "blsi": "bmi1", "bzhi": "bmi2", "pdep": "bmi2",
    "pext": "bmi2", "mulx": "bmi2", "rorx": "bmi2", "shlx": "bmi2", "sarx": "bmi2",
    "shrx": "bmi2", "adcx": "adx", "adox": "adx", "clflushopt": "clflushopt", "clwb": "clwb",
    "cmpxchg16b": "cx16", "movntdqa": "sse4_1", "lddqu": "pni", "movddup": "pni",
    "movsldup": "pni", "movshdup": "pni", "fisttp": "pni",
}  # fmt: skip


def features() -> frozenset[str]:
    """Return the host CPU's feature flags, none when it is no x86-64 Linux.

    Intel's have no SHA instructions here: these insist on alignment (SDM vol. 2A, exception class
    4), where AMD's and QEMU's, as the table has them, do not.
    """
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return frozenset()
    text = path.read_text()
    lines = [line for line in text.splitlines() if line.startswith("flags")]
    flags = frozenset(lines[0].partition(":")[2].split()) if lines else frozenset()
    if "GenuineIntel" in text:
        flags -= {"sha_ni"}
    return flags if "lm" in flags and "fsgsbase" in flags else frozenset()


def executes(form: Form, flags: frozenset[str]) -> bool:
    """Tell whether a CPU with these feature flags has a form, in 64-bit mode."""
    if form.only == "i64" or not flags or form.operation in ("ins", "outs"):
        return False  # a process may not use ports
    return _features(form) <= flags


def _features(form: Form) -> set[str]:
    # What a CPU needs for a form beside SSE2, by the names of /proc/cpuinfo.
    name, opcode = form.name, form.opcode
    needed = set()
    if form.unit in (Unit.SSE, Unit.MMX):
        name = name.removeprefix("v") if form.operation != name else name
        if opcode.vex:
            needed = {"avx", "avx2"} if "256" in opcode.vex else {"avx"}
        elif (opcode.map, opcode.byte) == (3, 0x0F) or (
            opcode.map == 2 and opcode.byte in (*range(0x0C), *range(0x1C, 0x1F))
        ):
            needed = {"ssse3"}
        elif opcode.map >= 2:
            needed = {"sse4_2" if opcode.byte in (0x37, *range(0x60, 0x64)) else "sse4_1"}
        for start, feature in _VECTOR_FEATURES.items():
            if name.startswith(start):
                wide = {"v" + feature} if opcode.vex and feature in ("aes", "pclmulqdq") else set()
                needed |= {feature} | wide
    elif name.endswith("xadd") and name != "xadd":
        needed = {"cmpccxadd"}
    return needed | ({_FEATURE[name]} if name in _FEATURE else set())


_VECTOR_FEATURES = {
    "aes": "aes", "pclmulqdq": "pclmulqdq", "sha1": "sha_ni", "sha256": "sha_ni",
    "gf2p8": "gfni", "vpdp": "avx_vnni", "movntss": "sse4a", "movntsd": "sse4a",
}  # fmt: skip


def leaves_open(case: Case) -> bool:
    """Tell whether CPUs differ: where ECX is 0, some clear the high halves of REP's registers."""
    return 0x67 in case.code and not case.cpu.gpr[RCX] & 0xFFFFFFFF


def run(cases: list[Case]) -> list[Result | Fault]:
    """Run cases of 64-bit mode on the host CPU, REP instructions to their end."""
    tasks = [(case.code, _machine(case.cpu), case.ram) for case in cases]
    results: list[Result | Fault] = []
    for case, outcome in zip(cases, Native().run(tasks), strict=True):
        if isinstance(outcome, int):
            results.append(Fault(_SIGNALS.get(outcome, f"signal {outcome}")))
        else:
            results.append(Result(_state(case, outcome[0]), outcome[1]))
    return results


def _machine(cpu: CpuState) -> Machine:
    image = bytearray(512)
    image[0:2] = cpu.fpu_control.to_bytes(2, "little")
    image[2:4] = cpu.fpu_status.to_bytes(2, "little")
    image[4] = ~empty(cpu.fpu_tag) & 0xFF
    image[24:28] = cpu.mxcsr.to_bytes(4, "little")
    for n, value in enumerate(cpu.st):
        image[32 + 16 * n : 42 + 16 * n] = value.to_bytes(10, "little")
    for n, value in enumerate(cpu.xmm):
        image[160 + 16 * n : 176 + 16 * n] = value.to_bytes(16, "little")
    bases = cpu.segments
    halves = zip(cpu.xmm, cpu.ymm, strict=True)
    ymm = b"".join((low | high << 128).to_bytes(32, "little") for low, high in halves)
    return Machine(cpu.gpr, cpu.rflags, bases.fs_base, bases.gs_base, bytes(image), ymm)


def _state(case: Case, after: Machine) -> CpuState:
    image = after.fx

    def field(at: int, width: int) -> int:
        return int.from_bytes(image[at : at + width], "little")

    tag = sum(3 << 2 * n for n in range(8) if not image[4] >> n & 1)
    return CpuState(
        after.gpr,
        JUMPED if after.jumped else CODE + len(case.code),
        after.rflags,
        xmm=tuple(field(160 + 16 * n, 16) for n in range(16)),
        ymm=tuple(
            int.from_bytes(after.ymm[32 * n + 16 : 32 * n + 32], "little") for n in range(16)
        ),
        st=tuple(field(32 + 16 * n, 10) for n in range(8)),
        fpu_control=field(0, 2),
        fpu_status=field(2, 2),
        fpu_tag=tag,
    )
