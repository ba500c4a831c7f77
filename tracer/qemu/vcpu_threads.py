"""The number of threads in which QEMU runs a guest's vCPUs.

Ref: QEMU docs/devel/multi-thread-tcg.rst; qemu-options.hx (-accel tcg,thread=).
"""

from __future__ import annotations

from collections.abc import Sequence

from tracer.qemu.option import MACHINE, option_name, options
from tracer.qemu.version import is_before

_LOCKING_VERSION = (8, 1)
"""A QEMU before this translates code without a lock on its page: what another vCPU writes there
meanwhile stays unseen. A Linux that patches itself hangs or dies at its own INT3 then, untraced too
(accel/tcg/translate-all.c, tb_gen_code; mended by "Always lock pages before translation")."""
_ONE = "thread=single"
_TCG = ("tcg", "accel=tcg")
_ACCELERATOR = ("accel", "enable-kvm")


def in_sound_threads(arguments: Sequence[str], about: str) -> list[str]:
    """Return the arguments with which code that vCPUs change is carried out as it is.

    ``about`` is what ``-version`` prints. Where one thread is needed for that, vCPUs take turns in
    it, unless the arguments say in how many they are to be, or name another accelerator than TCG.
    """
    one = is_before(_LOCKING_VERSION, about)
    found = list(options(arguments))
    accelerators = [words for words in found if option_name(words[0]) in _ACCELERATOR]
    if not all(_is_tcg(words) for words in accelerators) or not (one or accelerators):
        return list(arguments)
    # QEMU takes no -accel beside another way to say it.
    kept = [words for words in map(_without_tcg, found) if words]
    if accelerators:
        return [word for words in kept for word in (_in_one(words) if one else words)]
    if any("accel=" in ",".join(words) for words in kept if option_name(words[0]) in MACHINE):
        return list(arguments)
    return [*(word for words in kept for word in words), "-accel", f"tcg,{_ONE}"]


def _is_tcg(words: tuple[str, ...]) -> bool:
    # Tells whether an option that names an accelerator names this one.
    return ",".join(words[1:]).split(",")[0] in _TCG


def _in_one(words: tuple[str, ...]) -> tuple[str, ...]:
    # An option of QEMU's, with one thread for what it says of TCG.
    option, *value = words
    if option_name(option) not in _ACCELERATOR:
        return words
    asked = any(part.startswith("thread=") for part in ",".join(value).split(","))
    return words if asked else (option, f"{value[0]},{_ONE}")


def _without_tcg(words: tuple[str, ...]) -> tuple[str, ...]:
    # An option of QEMU's, but for what it says of TCG as a property of the machine.
    option, *value = words
    if option_name(option) not in MACHINE or not value:
        return words
    rest = ",".join(part for part in value[0].split(",") if part not in _TCG)
    return (option, rest) if rest else ()
