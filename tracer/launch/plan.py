"""A plan: what guest to run, and what to trace of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from tracer.access.region import Choice, parse_range
from tracer.bare.guidance import Guidance
from tracer.compiled.inputs import Input
from tracer.compiled.layout import ring_size
from tracer.confidential.kind import SEV_MEMORY, Kind
from tracer.errors import UsageError, advice
from tracer.guest.equipment import Equipment
from tracer.guest.software import Software
from tracer.qemu.firmware import Firmware
from tracer.qemu.refusal import taken
from tracer.session.watchdog import Limits
from tracer.text.number import byte_size, is_whole, whole

QEMU = "qemu-system-x86_64"
GDB = "gdb"


@dataclass(frozen=True, slots=True)
class Plan:
    """Say what guest to run and what to trace of it.

    A guest with disks and without a ``kernel`` has its own on the first one, which the boot loader
    there starts, and of which ``kernel_file`` may be a copy; ``firmware`` is what the machine
    begins with. Otherwise, without ``kernel`` the one that ``vetrace setup`` fetched is taken,
    without ``initrd`` one is built from ``qemu/init``, with ``software`` beside the default
    guest's. ``guest`` is the kind of guest that the machine is made for, and traced as.
    ``equipment`` is what machine that is, ``memory`` its RAM in bytes,
    without which the machine's definition says. ``append`` follows the default command line,
    ``extra`` the machine's QEMU arguments. With the exit status ``exit_ok`` of QEMU the guest has
    ended well, as by powering off. ``inputs`` of these kinds are recorded beside accesses to
    devices' memory. ``console`` is where somebody may come to the guest's console: ``pty``, or the
    path of a socket. ``guidance`` is about a guest that is not Linux.
    Traps are ``nested``, or in page tables; nested ones can be there ``from_reset``.
    """

    guest: Kind = Kind.PLAIN
    kernel: Path | None = None
    kernel_file: Path | None = None
    symbols: Path | None = None
    initrd: Path | None = None
    software: Software = field(default_factory=Software)
    append: str | None = None
    kaslr: bool = False
    equipment: Equipment = field(default_factory=Equipment)
    firmware: Firmware = Firmware.BIOS
    memory: int | None = None
    choice: Choice = field(default_factory=Choice)
    inputs: frozenset[Input] = frozenset()
    nested: bool = False
    from_reset: bool = False
    realtime: bool = False
    qemu_log: Path | None = None
    log_sifted: bool = False
    extra: tuple[str, ...] = ()
    exit_ok: int | None = None
    console: str | None = None
    guidance: Guidance = field(default_factory=Guidance)
    limits: Limits = field(default_factory=Limits)
    qemu: str = QEMU
    gdb: str = GDB

    @property
    def installed(self) -> Path | None:
        """Return the disk whose boot loader starts the kernel, None where vetrace starts one.

        What is put into the initramfs that vetrace builds is for a kernel that it starts.
        """
        disks, own = self.equipment.disks, self.kernel is not None or self.software != Software()
        return disks[0] if disks and not own else None


def check_plan(plan: Plan) -> None:
    """Raise UsageError for what cannot be booted or traced, whatever the kernel."""
    for spec in (*plan.choice.wanted, *plan.choice.bypassed):
        parse_range(spec)
    for word in plan.extra:
        own = taken(word)
        if own is not None:
            raise UsageError(f"{word} cannot be among the QEMU arguments: {own}")
    if plan.from_reset:
        _check_from_reset(plan)
    if plan.nested and plan.guest is not Kind.PLAIN:
        raise UsageError(
            f"a {plan.guest.label} guest's own page tables make its faults: drop --trap nested, or "
            "--guest"
        )
    if plan.installed is not None:
        _check_installed(plan, plan.installed)
    elif plan.kernel_file is not None:
        raise UsageError(
            "--kernel-file is the kernel that the boot loader on a --disk starts; one that vetrace "
            "starts is --kernel"
        )
    if plan.guidance.given and plan.kernel is None:
        raise UsageError(
            f"{plan.guidance.given[0]} is for a guest that is not Linux: give its image (--kernel)"
        )
    said = [option for option in plan.guidance.given if option != "--attach-at"]
    if plan.nested and said:
        raise UsageError(
            f"{said[0]} says nothing with --trap nested, which traps physical addresses: drop one"
        )
    software = plan.software
    for option, given in (
        ("--module", software.modules), ("--add", software.added), ("--init", software.script),
    ):  # fmt: skip
        if given and plan.initrd is not None:
            raise UsageError(f"{option} is for the initramfs that vetrace builds: drop --initrd")
    if plan.memory is not None:
        check_memory(plan.guest, plan.memory)


def check_bare(plan: Plan, image: Path) -> None:
    """Raise UsageError for what only a guest of Linux can have, where the image is none."""
    software = plan.software
    for option, given in (
        ("--module", software.modules), ("--add", software.added), ("--init", software.script),
        ("--kaslr", plan.kaslr),
    ):  # fmt: skip
        if given:
            raise UsageError(f"{option} is for Linux, and {image} is not: drop {option}")


def _check_from_reset(plan: Plan) -> None:
    if not plan.nested:
        raise UsageError("--from-reset is for --trap nested: there are no page tables at a reset")
    if plan.guest is not Kind.PLAIN:
        raise UsageError(
            f"a {plan.guest.label} guest is traced from its kernel's entry on: drop --from-reset"
        )


def _check_installed(plan: Plan, disk: Path) -> None:
    for option, given in (
        ("--initrd", plan.initrd), ("--append", plan.append), ("--kaslr", plan.kaslr),
    ):  # fmt: skip
        if given:
            raise UsageError(
                f"{option} is for a kernel that vetrace starts, and the boot loader on {disk} "
                f"starts its own: give --kernel too, or drop {option}"
            )
    if plan.symbols is not None and plan.kernel_file is None:
        raise UsageError("--symbols are those of a kernel: give its file, --kernel-file, too")
    if plan.guest is not Kind.PLAIN:
        raise UsageError(
            f"a guest of --guest {plan.guest} needs --kernel: none is started from a disk"
        )


def check_memory(guest: Kind, size: int) -> None:
    """Raise UsageError for RAM, in bytes, that a guest of a kind cannot have."""
    if guest is Kind.SEV_ES and size >= SEV_MEMORY:
        raise UsageError(f"--guest sev-es has its RAM below 4 GiB: {SEV_MEMORY - 1 >> 20}M at most")


def parse_kind(text: str) -> Kind:
    """Return the kind of guest of that name. Raises UsageError for what is none."""
    try:
        return Kind(text)
    except ValueError:
        raise UsageError(f"there is no guest {text!r}{advice(text, list(Kind))}") from None


_KINDS = {kind.name.lower(): kind for kind in Input}

INPUTS = {**_KINDS, "config": Input.PORT, "msi": Input.IRQ}
"""The kinds of inputs, by the names that people give them.

PCI configuration space is accessed by ports, and recorded wherever these are. No vCPU takes part in
a message (MSI): it is recorded before the interrupt that comes of it.
"""


USUAL_INPUTS = ",".join(name for name in _KINDS if name != "tsc")
"""What is recorded unless it is said: the counter is read hundreds of thousands of times."""

WITHOUT_RING = "inputs are recorded in the ring, which {option} does without: drop one"
"""Why inputs and an option exclude each other."""


def parse_inputs(text: str) -> frozenset[Input]:
    """Return the kinds of inputs in a list such as ``port,msr``. Raises UsageError."""
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in INPUTS:
            raise UsageError(
                f"--inputs {text}: there is no input {name!r}{advice(name, list(INPUTS))}: "
                f"{', '.join(INPUTS)} can be recorded"
            )
    return frozenset(INPUTS[name] for name in names)


TRAPS = "entry", "nested"
"""Where traps can be: page-table entries of the guest's, or nested page tables."""


def parse_trap(text: str | None) -> bool | None:
    """Tell whether traps are nested, by the name that people give them; None where they give none.

    Raises UsageError.
    """
    if text is None:
        return None
    if text not in TRAPS:
        raise UsageError(f"--trap {text}: there is entry and nested{advice(text, TRAPS)}")
    return text == "nested"


def parse_ring(text: str) -> int:
    """Return how many records a ring is to have room for: a power of two, from 2 on.

    Raises UsageError for anything else.
    """
    slots = whole(text) if is_whole(text) else 0
    try:
        ring_size(slots)
    except ValueError as error:
        raise UsageError(f"--ring {text}: {error}") from error
    return slots


def exit_status(text: str) -> int:
    """Return the exit status of a process in a text. Raises UsageError for what is none."""
    status = whole(text) if is_whole(text) else 256
    if status > 255:
        raise UsageError(f"--exit-ok {text}: an exit status of QEMU's is 0 to 255")
    return status


def parse_memory(text: str) -> int:
    """Return the bytes in a size such as ``512M``, ``2G`` or ``1024`` (MiB, as QEMU has it).

    Raises UsageError for anything else, and for a size no guest boots with.
    """
    if "," in text:
        raise UsageError(
            f"--memory {text}: a size alone; room for more is said to QEMU, behind --, with"
            " -M memory.slots=N,memory.max-size=SIZE"
        )
    size = byte_size(text, "memory size")
    if size < 64 << 20 or size % (1 << 20):
        raise UsageError(f"{text} of memory: whole mebibytes, 64M or more, are needed")
    return size


def ways(plan: Plan, trap: bool | None) -> tuple[Plan, ...]:
    """Return the plan with the traps that are tried first, and with those behind them, if any.

    ``trap`` is as :func:`parse_trap` has it. Where nobody says, entries come first and nested traps
    where these cannot be, but from the reset on nested ones alone. Raises UsageError for what
    cannot be at all.
    """
    first = replace(plan, nested=plan.from_reset if trap is None else trap)
    check_plan(first)
    if trap is not None or first.nested:
        return (first,)
    other = replace(first, nested=True)
    try:
        check_plan(other)
    except UsageError:
        return (first,)
    return first, other
