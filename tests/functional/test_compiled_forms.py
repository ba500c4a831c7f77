"""Every form of the table native and compiled, in one boot of a bare-metal guest.

The guest runs each instruction on the traced memory of a device, twice: the first time by a stop,
the second time by itself. Then it runs the same on RAM, and compares what the last two left behind:
registers, flags, x87, SSE and AVX state, and the bytes. All of it once more with every exception of
x87 and SSE unmasked, where a thunk must not raise any.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from bare_guest import DEVICE, REGION, assemble
from form_guest import LACKED, TARGET, compared, form_case, variants
from vetrace_run import Run, Trace, agreed, boot, read_trace, run

from tracer.compiled.safety import NotCompiled, template_of
from tracer.x86.decode import decode
from tracer.x86.forms import FORMS, Unit
from tracer.x86.forms.stack import STACK
from tracer.x86.state import Mode

pytestmark = pytest.mark.qemu

# Of ADCX and ADOX QEMU 7.2 makes flags that no CPU can have.
_WRONG = ("adcx", "adox")


@dataclass(frozen=True)
class _Subject:
    # What is compared: assembler around one instruction at the label, which is named so.
    text: str
    name: str


_REGISTERS = {1: "al", 2: "ax", 4: "eax", 8: "rax"}
# Devices in two places: the one of RAM is elsewhere.
_OWN = [
    _Subject("mov rbx, rdi; {at}: xlatb; xor ebx, ebx", "xlat"),
    *(_Subject(f"{{at}}: push {size} ptr [rdi]; pop {name}", f"push {size}")
      for size, name in (("word", "ax"), ("qword", "rax"))),
    *(_Subject(f"push {name}; {{at}}: pop {size} ptr [rdi]", f"pop {size}")
      for size, name in (("word", "bx"), ("qword", "rbx"))),
    *(_Subject(
        f"lea rsi, [rip + vectors]; {{at}}: {rep}movs{size}; mov rsi, [rip + target]",
        f"{rep}movs{size} to the device",
      ) for rep in ("", "rep ") for size in "bwdq"),
    *(_Subject(
        f"mov rsi, rdi; lea rdi, [rip + elsewhere]; {{at}}: {rep}movs{size}; "
        "mov rax, [rip + elsewhere]; mov rdi, [rip + target]",
        f"{rep}movs{size} from the device",
      ) for rep in ("", "rep ") for size in "bwdq"),
    *(_Subject(
        "lea r9, [rip + buffer]; cmp rdi, r9; je 1f; "
        f"{{at}}: {device}; jmp 2f; 1: {ram}; 2: xor r9d, r9d",
        device,
      ) for device, ram in (
        pair for name in _REGISTERS.values() for pair in (
            (f"movabs {name}, [{TARGET:#x}]", f"movabs {name}, [buffer]"),
            (f"movabs [{TARGET:#x}], {name}", f"movabs [buffer], {name}"),
        )
      )),
    _Subject("mov rcx, rdi; sub rcx, rsp; {at}: mov eax, [rsp + rcx]; xor ecx, ecx",
             "mov eax, [rsp + rcx]"),
    _Subject("mov r9, rsp; {at}: add rsp, [rdi]; mov rax, rsp; mov rsp, r9; sub rax, r9",
             "add rsp, [rdi]"),
    _Subject("mov r9, rsp; {at}: mov rsp, [rdi]; mov rax, rsp; mov rsp, r9", "mov rsp, [rdi]"),
    _Subject("mov r9, rsp; xor esp, esp; mov rsp, r9; {at}: mov [rdi + 8], rsp", "mov [rdi], rsp"),
]  # fmt: skip

VARIANTS = list(variants((*LACKED, *_WRONG), set(Unit)))
# Both sides are the device's: the string is of two devices.
_TWO_DEVICES = ("movs", "cmps")


CASES = [
    *(form_case(n, variant) for n, variant in enumerate(VARIANTS)),
    *(compared(f"own_{n}", own.text, n, counted=True) for n, own in enumerate(_OWN)),
]


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("forms")
    guest = assemble(folder, CASES, room=True, include="forms.S")
    return boot(
        folder,
        "--kernel", guest, "--symbols", guest, "--check", "--quiet",
        "--region", REGION, "--", *DEVICE,
    )  # fmt: skip


@pytest.fixture(scope="module")
def trace(traced: Run) -> Trace:
    return read_trace(traced.trace)


def ways(trace: Trace) -> dict[str, list[str]]:
    """How each instruction was carried out, once for each access, by its label."""
    found: dict[str, list[str]] = {}
    for record in trace.intercepts:
        label = (record.symbol or "").partition("+")[0].removeprefix("run_")
        found.setdefault(label, []).append(record.via)
    return found


def test_native_and_compiled_leave_the_same_behind(traced: Run) -> None:
    assert traced.status == 0, traced.err + traced.out
    said = set(traced.serial)
    names = [
        *(f"{decode(v.code, 0, Mode.LONG).text} [{v.code.hex(' ')}]" for v in VARIANTS),
        *(own.name for own in _OWN),
    ]
    failed = [name for n, name in enumerate(names) if f"case {n:04d} ok" not in said]
    assert failed == []


def test_in_a_monitor_they_do_as_well(tmp_path: Path) -> None:
    guest = assemble(tmp_path, CASES, room=True, include="forms.S")
    options = "--trap", "nested", "--check", "--quiet", "--region", REGION
    done = boot(tmp_path, "--kernel", guest, "--symbols", guest, *options, "--", *DEVICE)
    assert agreed(done) > 30_000
    assert sum(line.endswith(" ok") for line in done.serial) == len(CASES)
    counts = read_trace(done.trace).end.counts
    assert counts["compiled"] > 30_000
    assert not counts.get("disagreements"), done.err


def test_qemu_and_the_emulator_agree_with_each_record(
    traced: Run, trace: Trace, tmp_path: object
) -> None:
    agreed(traced)
    counts = trace.end.counts
    assert not counts.get("disagreements"), traced.err
    again = run(traced.folder, "replay", traced.trace)
    assert again.status == 0 and "no divergence" in again.out, again.out + again.err


def test_what_may_be_compiled_was_and_nothing_else(trace: Trace) -> None:
    found = ways(trace)
    wrong = []
    for number, variant in enumerate(VARIANTS):
        insn = decode(variant.code, 0, Mode.LONG)
        if insn.form is not None and insn.form.operation in _TWO_DEVICES:
            continue
        try:
            template_of(insn)
        except NotCompiled:
            expected = False
        else:
            expected = True
        if ("compiled" in found.get(f"form_{number}", ())) is not expected:
            wrong.append((insn.text, found.get(f"form_{number}")))
    for number, own in enumerate(_OWN):
        if "compiled" not in found.get(f"own_{number}", ()):
            wrong.append((own.name, found.get(f"own_{number}")))
    assert wrong == []


def test_where_x87_would_raise_the_access_is_left_to_a_stop(trace: Trace) -> None:
    found = ways(trace)
    seen = 0
    for number, variant in enumerate(VARIANTS):
        form = variant.form
        if form.unit is Unit.X87 and form.name not in ("fnstcw", "fnstsw", "fldcw"):
            last = found[f"form_{number}"][-1]
            assert last == "stepped", decode(variant.code, 0, Mode.LONG).text
            seen += 1
    assert seen > 10


def test_every_form_that_may_be_compiled_is_here() -> None:
    here = {variant.form for variant in VARIANTS} | set(STACK)
    left = {
        form.name for form in FORMS
        if form not in here and form.only != "i64" and not any(s[0] == "O" for s in form.operands)
    }  # fmt: skip
    # QEMU 7.2 has none of these, or not as it should be.
    assert {
        name for name in left if not name.startswith(("sha", "gf2p8", "vgf2p8", "vpdp", "cmp"))
    } <= {*LACKED, *_WRONG, "xlat", "test", "maskmovdqu", "maskmovq", "vpmaskmovd", "vpmaskmovq",
          "vmaskmovps", "vmaskmovpd", "vmaskmovdqu", "vpclmulqdq"}  # fmt: skip
