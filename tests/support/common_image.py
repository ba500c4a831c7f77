"""Assemble the common code of compiled sites; run as a program, write `tracer/compiled/image.py`.

.venv/bin/python tests/support/common_image.py
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from tracer.compiled.layout import constants

PACKAGE = Path(__file__).parents[2] / "tracer" / "compiled"
VARIANTS = ((False, False), (False, True), (True, False), (True, True))
LABELS = ("fast", "compare", "walk", "other", "refuse", "ram", "stacks", "deadline", "behind")

_HEAD = '''\
"""The common code, assembled: its bytes, and where its labels are, for each kind of guest.

Written by ``tests/support/common_image.py`` from ``common.S`` and ``layout.py``; a test assembles
them again.
"""

from __future__ import annotations

IMAGES: dict[tuple[bool, bool], tuple[str, dict[str, int]]] = {
'''
_TAIL = '''\
}
"""By whether there are several vCPUs, and whether linear addresses have 57 bits: hex, labels."""
'''


def is_possible() -> bool:
    """Tell whether the GNU assembler is here."""
    return shutil.which("as") is not None and shutil.which("objcopy") is not None


def assemble(smp: bool, la57: bool) -> tuple[bytes, dict[str, int]]:
    """Return the code of a variant and its labels."""
    options = f".set SMP, {int(smp)}\n.set LA57, {int(la57)}\n"
    text = options + constants() + (PACKAGE / "common.S").read_text()
    with tempfile.TemporaryDirectory() as folder:
        object_file, binary = f"{folder}/common.o", f"{folder}/common.bin"
        subprocess.run(["as", "--64", "-o", object_file, "-"], input=text, text=True, check=True)
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
        return Path(binary).read_bytes(), {name: places[name] for name in LABELS}


def source() -> str:
    """Return the text of `image.py`."""
    parts = [_HEAD]
    for smp, la57 in VARIANTS:
        code, labels = assemble(smp, la57)
        hexed = code.hex()
        lines = [f'        "{hexed[at : at + 80]}"\n' for at in range(0, len(hexed), 80)]
        words = "".join(f'            "{name}": {place:#x},\n' for name, place in labels.items())
        head = f"    ({smp}, {la57}): (\n{''.join(lines)[:-1]},\n"
        parts.append(f"{head}        {{\n{words}        }},\n    ),\n")
    return "".join(parts) + _TAIL


if __name__ == "__main__":
    (PACKAGE / "image.py").write_text(source())
