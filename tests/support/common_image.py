"""Assemble the guest code; run as a program, write `tracer/compiled/*image.py`.

.venv/bin/python tests/support/common_image.py
"""

from __future__ import annotations

import itertools
import shutil
import subprocess
import tempfile
from pathlib import Path

from tracer.compiled import layout

PACKAGE = Path(__file__).parents[2] / "tracer" / "compiled"
SOURCE = PACKAGE / "source"
VARIANTS = tuple(itertools.product((False, True), repeat=3))
MODULE_LABELS = ("fault", "tdcall")
MONITOR_LABELS = (
    "start", "gates", "onward", "done",
    "full", "ring", "decided", "told", "parted", "instead", "late", "waited", "looked",
    "requested", "responded", "protection",
)  # fmt: skip
LABELS = "fast", "refuse", "ram", "stacks", "deadline", "behind", "stopped"
LABELS_BY_POISON = "compare", "walk", "other"
LABELS_NESTED = ("done",)

_HEAD = '''\
"""The common code, assembled: its bytes, and where its labels are, for each kind of guest.

Written by ``tests/support/common_image.py`` from ``source/common.S`` and ``layout.py``; a test
assembles them again.
"""

from __future__ import annotations

IMAGES: dict[tuple[bool, bool, bool], tuple[str, dict[str, int]]] = {
'''
_TAIL = '''\
}
"""By whether there are several vCPUs, whether linear addresses have 57 bits, and whether traps are
nested: hex, labels."""
'''
_MODULE_HEAD = '''\
"""The TDX module's code, assembled: its bytes in hex, and where its labels are.

Written by ``tests/support/common_image.py`` from ``source/module.S`` and ``module.py``; a test
assembles them again.
"""

from __future__ import annotations

'''
_MONITOR_HEAD = '''\
"""The monitor's code, assembled: its bytes in hex and its labels, without call chains and with.

Written by ``tests/support/common_image.py`` from ``source/monitor.S`` and ``monitor.py``; a test
assembles them again.
"""

from __future__ import annotations

IMAGES: dict[bool, tuple[str, dict[str, int]]] = {
'''


def is_possible() -> bool:
    """Tell whether the GNU assembler is here."""
    return shutil.which("as") is not None and shutil.which("objcopy") is not None


def assemble(smp: bool, la57: bool, nested: bool) -> tuple[bytes, dict[str, int]]:
    """Return the code of a variant and its labels."""
    from tracer.compiled.monitor import guest_constants  # it has the bytes that are made here

    options = f".set SMP, {int(smp)}\n.set LA57, {int(la57)}\n.set NESTED, {int(nested)}\n"
    labels = (*LABELS, *(LABELS_NESTED if nested else LABELS_BY_POISON))
    return _assembled(options + guest_constants() + layout.constants(), "common.S", labels)


def assemble_module() -> tuple[bytes, dict[str, int]]:
    """Return the TDX module's code and its labels."""
    from tracer.compiled.module import constants  # it has the bytes that are made here

    return _assembled(constants(), "module.S", MODULE_LABELS)


def assemble_monitor(
    *, stacks: bool, labels: tuple[str, ...] = MONITOR_LABELS
) -> tuple[bytes, dict[str, int]]:
    """Return the monitor's code, for guests with call chains or without, and its labels."""
    from tracer.compiled.monitor import constants  # it has the bytes that are made here

    return _assembled(constants(stacks=stacks), "monitor.S", labels)


def _assembled(head: str, name: str, labels: tuple[str, ...]) -> tuple[bytes, dict[str, int]]:
    text = head + "".join((SOURCE / each).read_text() for each in ("copy.S", "ram.S", name))
    with tempfile.TemporaryDirectory() as folder:
        object_file, binary = f"{folder}/code.o", f"{folder}/code.bin"
        arguments = ["as", "--64", "-I", SOURCE, "-o", object_file, "-"]
        subprocess.run(arguments, input=text, text=True, check=True)
        subprocess.run(["objcopy", "-O", "binary", "-j", ".text", object_file, binary], check=True)
        names = subprocess.run(["nm", object_file], check=True, capture_output=True, text=True)
        relocations = subprocess.run(
            ["objdump", "-r", object_file], check=True, capture_output=True, text=True
        )
        assert "R_X86_64" not in relocations.stdout
        places = {
            words[2]: int(words[0], 16)
            for words in map(str.split, names.stdout.splitlines())
            if words[1] == "t"
        }
        return Path(binary).read_bytes(), {label: places[label] for label in labels}


def source() -> str:
    """Return the text of `image.py`."""
    parts = [_HEAD]
    for smp, la57, nested in VARIANTS:
        code, labels = assemble(smp, la57, nested)
        lines = [f"        {line}\n" for line in _lines(code)]
        words = "".join(f'            "{name}": {place:#x},\n' for name, place in labels.items())
        head = f"    ({smp}, {la57}, {nested}): (\n{''.join(lines)[:-1]},\n"
        parts.append(f"{head}        {{\n{words}        }},\n    ),\n")
    return "".join(parts) + _TAIL


def module_source() -> str:
    """Return the text of `module_image.py`."""
    code, labels = assemble_module()
    lines = "".join(f"    {line}\n" for line in _lines(code))
    words = "".join(f'    "{name}": {place:#x},\n' for name, place in labels.items())
    return f"{_MODULE_HEAD}CODE = (\n{lines})\n\nLABELS = {{\n{words}}}\n"


def monitor_source() -> str:
    """Return the text of `monitor_image.py`."""
    parts = [_MONITOR_HEAD]
    for stacks in (False, True):
        code, labels = assemble_monitor(stacks=stacks)
        lines = "".join(f"        {line}\n" for line in _lines(code))
        words = "".join(f'            "{name}": {place:#x},\n' for name, place in labels.items())
        body = f"{lines[:-1]},\n        {{\n{words}        }},\n"
        parts.append(f"    {stacks}: (\n{body}    ),\n")
    return "".join(parts) + "}\n"


def _lines(code: bytes) -> list[str]:
    hexed = code.hex()
    return [f'"{hexed[at : at + 80]}"' for at in range(0, len(hexed), 80)]


if __name__ == "__main__":
    (PACKAGE / "image.py").write_text(source())
    (PACKAGE / "module_image.py").write_text(module_source())
    (PACKAGE / "monitor_image.py").write_text(monitor_source())
