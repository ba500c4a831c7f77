"""Every form of the table on device memory and on RAM, in one boot of a bare-metal guest.

The guest runs each instruction twice from the same registers, flags and bytes: on RAM, where
QEMU's CPU carries it out, and on the traced memory of a device, where vetrace does. It compares
registers, the flags that are defined, and the bytes.
"""

from __future__ import annotations

import pytest
from bare_guest import DEVICE, REGION, Case, assemble
from form_guest import LACKED, Variant, form_case, form_registers, variants
from vetrace_run import Run, boot, read_trace

from tracer.look.explanation import stepped_live
from tracer.x86.decode import decode
from tracer.x86.emulate import undefined_flags
from tracer.x86.forms import Unit
from tracer.x86.state import STATUS_FLAGS, CpuState, Mode

pytestmark = pytest.mark.qemu

# QEMU 7.2 has the carry of BLSI wrong, and that of ADCX and ADOX on registers with a dirty upper
# half: there the host CPU is the oracle, in tests/diff.
_WRONG = ("blsi", "adcx", "adox")


def _case(number: int, variant: Variant) -> Case:
    insn = decode(variant.code, 0, Mode.LONG)
    cpu = CpuState(gpr=(0, form_registers(variant)["rcx"], *(0,) * 14))
    defined = int(STATUS_FLAGS) & ~undefined_flags(insn, cpu)
    return form_case(number, variant, flags=defined)


# GDB cannot write x87 and MMX registers, so those are stepped.
VARIANTS = list(variants((*LACKED, *_WRONG), set(Unit) - {Unit.X87, Unit.MMX}))
CASES = [_case(number, variant) for number, variant in enumerate(VARIANTS)]


def test_every_variant_is_the_form_it_was_made_from() -> None:
    for variant in VARIANTS:
        insn = decode(variant.code, 0, Mode.LONG)
        assert insn.form is variant.form and insn.code == variant.code, variant.code.hex(" ")
    assert len({variant.form for variant in VARIANTS}) > 600


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("forms")
    guest = assemble(folder, CASES, include="forms.S")
    return boot(
        folder,
        "--kernel", guest, "--symbols", guest, "--check", "--quiet", "--region", REGION,
        "--", *DEVICE,
    )  # fmt: skip


def test_a_device_and_ram_give_the_same_result(traced: Run) -> None:
    assert traced.status == 0, traced.err + traced.out
    said = set(traced.serial)
    failed = [
        decode(variant.code, 0, Mode.LONG).text + f" [{variant.code.hex(' ')}]"
        for number, variant in enumerate(VARIANTS)
        if f"case {number:04d} ok" not in said
    ]
    assert failed == []


def test_every_one_was_emulated_but_for_what_needs_the_upper_half_of_ymm(traced: Run) -> None:
    trace = read_trace(traced.trace)
    stepped = {record.code for record in trace.intercepts if record.via == "stepped"}
    instructions = [decode(variant.code, 0, Mode.LONG) for variant in VARIANTS]
    assert stepped == {insn.code for insn in instructions if stepped_live(insn)}
    assert "0 missing, 0 extra, 0 different" in traced.out
