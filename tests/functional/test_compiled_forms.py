"""Every form of the table native and compiled, in one boot of a bare-metal guest.

The guest runs each instruction on the traced memory of a device, twice: the first time by a stop,
the second time by itself. Then it runs the same on RAM, and compares what the last two left behind:
registers, flags, x87, SSE and AVX state, and the bytes. All of it once more with every exception of
x87 and SSE unmasked, where a thunk must not raise any.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from bare_guest import DEVICE, DEVICE_LINEAR, REGION, Case, assemble
from form_guest import COUNTED, LACKED, variants
from vetrace_run import Run, Trace, agreed, boot, read_trace, run

from tracer.compiled.safety import NotCompiled, template_of
from tracer.x86.decode import decode
from tracer.x86.forms import FORMS, Unit
from tracer.x86.forms.stack import STACK
from tracer.x86.state import STATUS_FLAGS, Mode

pytestmark = pytest.mark.qemu

_TARGET = DEVICE_LINEAR + 64
_MANY = 0x8877_6655_4433_2211
# Of ADCX and ADOX QEMU 7.2 makes flags that no CPU can have.
_WRONG = ("adcx", "adox")

_COMPARE = """jmp forms_begin
    .pushsection .bss
    .balign 64
on_ram: .skip 768
on_device: .skip 768
elsewhere: .skip 64
given_rcx: .skip 8
given_rdx: .skip 8
target: .skip 8
mxcsr: .skip 4
masks: .skip 4
    .popsection
    .pushsection .rodata
    .balign 32
vectors:
    .quad 0x8001807f00ff0102, 0x7f80ffff00000003, 0xf0e0d0c0b0a09080, 0x0123456789abcdef
    .quad 0xcdab896745230181, 0x131276985432dc7e, 0x8000000080000000, 0x00000000ffffffff
    .quad 0x0000000000000007, 0x7ff0000000000001, 0x1122334480556677, 0x8899aabbccddeeff
    .popsection
# r13: the instruction and RET; r10: flags before; rcx, rdx: before. Returns in rax what differs.
compare:
    mov [rip + given_rcx], rcx
    mov [rip + given_rdx], rdx
    mov dword ptr [rip + mxcsr], 0x1f80
    mov dword ptr [rip + masks], 0x37f
    movabs rdi, TARGET
    lea r11, [rip + on_device]
    call run
    call both
    push rax
    mov dword ptr [rip + mxcsr], 0
    mov dword ptr [rip + masks], 0x340
    call both
    pop rcx
    or rax, rcx
    ret
both:
    movabs rdi, TARGET
    lea r11, [rip + on_device]
    call run
    lea rdi, [rip + buffer]
    lea r11, [rip + on_ram]
    call run
    xor eax, eax
    xor ecx, ecx
7:  mov rdx, [r11 + rcx]
    lea r9, [rip + on_device]
    xor rdx, [r9 + rcx]
    or rax, rdx
    add ecx, 8
    cmp ecx, 704
    jne 7b
    ret
run:
    mov [rip + target], rdi
    movabs rax, 0x0123456789abcd81
    mov [rdi], rax
    movabs rax, 0x7ff0dcba98763213
    mov [rdi + 8], rax
    vmovdqu ymm0, [rip + vectors]
    vmovdqu [rdi + 16], xmm0
    vmovdqu ymm1, [rip + vectors + 32]
    vmovdqu ymm2, [rip + vectors + 64]
    fninit
    movq mm1, [rip + vectors + 40]
    emms
    fldpi
    fld1
    ldmxcsr [rip + mxcsr]
    fldcw [rip + masks]
    lea rsi, [rdi + 8]
    movabs rbx, 0x5a5a5a5aa5a5a5a5
    mov rcx, [rip + given_rcx]
    mov rdx, [rip + given_rdx]
    mov eax, 5
    push r10
    popfq
    call r13
    pushfq
    pop r8
    cld
    fxsave64 [r11 + 192]
    fnclex
    # Where the last x87 instruction and its operand were is not the same on RAM.
    mov r9, [r11 + 192]
    shl r9, 16
    mov [r11 + 192], r9
    mov qword ptr [r11 + 200], 0
    mov qword ptr [r11 + 208], 0
    mov [r11], rax
    mov [r11 + 8], rcx
    mov [r11 + 16], rdx
    mov [r11 + 24], rbx
    mov [r11 + 32], r8
    mov rax, [rip + target]
    sub rdi, rax
    mov [r11 + 40], rdi
    sub rsi, rax
    mov [r11 + 48], rsi
    mov rdx, [rax]
    mov [r11 + 56], rdx
    mov rdx, [rax + 8]
    mov [r11 + 64], rdx
    mov rdx, [rax + 16]
    mov [r11 + 72], rdx
    mov rdx, [rax + 24]
    mov [r11 + 80], rdx
    vmovdqu [r11 + 88], ymm1
    vmovdqu [r11 + 120], ymm2
    vmovdqu [r11 + 152], ymm0
    ret
forms_begin:
    xor eax, eax""".replace("TARGET", f"{_TARGET:#x}")


@dataclass(frozen=True)
class _Subject:
    # What is compared: assembler around one instruction at the label, which is named so.
    text: str
    name: str


def _bytes(code: bytes) -> str:
    return ".byte " + ", ".join(f"{byte:#x}" for byte in code)


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
            (f"movabs {name}, [{_TARGET:#x}]", f"movabs {name}, [buffer]"),
            (f"movabs [{_TARGET:#x}], {name}", f"movabs [buffer], {name}"),
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


def _case(label: str, text: str, *, counted: bool, zero: bool, number: int) -> Case:
    before = {
        "rcx": 2 if counted else _MANY,
        "rdx": 0 if zero else 0x0FED_CBA9_8765_4321,
        "r10": 2 | (int(STATUS_FLAGS) if number % 2 else 0),
    }
    body = text.replace("{at}", label)
    return Case(
        f"lea r13, [rip + run_{label}]\n    call compare\n    jmp end_{label}\n"
        f"run_{label}: {body}\n    ret\nend_{label}:",
        [], before, {"rax": 0},
    )  # fmt: skip


CASES = [Case(_COMPARE, [], {}, {"rax": 0})]
for _number, _variant in enumerate(VARIANTS):
    _form = _variant.form
    CASES.append(
        _case(
            f"form_{_number}",
            f"{{at}}: {_bytes(_variant.code)}",
            counted=_form.repeat is not None
            or _form.name in COUNTED
            or "string" in _form.operation,
            zero=_form.name in ("div", "idiv"),
            number=_number,
        )
    )
for _number, _own in enumerate(_OWN):
    CASES.append(_case(f"own_{_number}", _own.text, counted=True, zero=False, number=_number))


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("forms")
    guest = assemble(folder, CASES, room=True)
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
    failed = [name for n, name in enumerate(names, 1) if f"case {n:04d} ok" not in said]
    assert failed == []


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
