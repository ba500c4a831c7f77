"""QEMU's command line: the machine, its clock, and what its CPUs must not have.

Ref: QEMU docs/devel/tcg-icount.rst; qemu-options.hx; hw/virtio/virtio-pmem-pci.c.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tracer.confidential.kind import Kind
from tracer.qemu.version import is_before

_ICOUNT = "shift=1,sleep=off"
"""Two virtual nanoseconds an instruction; an idle guest's clock is set to its next timer."""
_BEAT = 20
"""Microseconds of virtual time between two beats of the metronome.

QEMU takes a guest for idle between the moment its vCPU stops for GDB and the moment the machine
does (main_loop_wait calls icount_start_warp_timer), and sets its clock to the next timer: 4 to
50 ms a stop in a guest with a 250 Hz tick. A timer that is never far away bounds that, to a time
that two runs have in common. A filter on a network that nobody is on has such a timer
(net/filter-buffer.c)."""
_METRONOME = (
    "-netdev", "hubport,id=metronome,hubid=63",
    "-object", f"filter-buffer,id=metronome-beat,netdev=metronome,interval={_BEAT}",
)  # fmt: skip
_REPEATABLE = ("-rtc", "base=2026-01-01,clock=vm", "-seed", "1")
"""A date, and random numbers of the CPU and for the kernel, that two runs have in common."""

_GIB = 1 << 30
_MODULE = 2 << 20
"""The unit of a memory module's size, in bytes."""
_HIDDEN = 64 << 20
"""Bytes of RAM that the guest is not told of."""

RAM = "guest-ram"
"""QEMU's name of the guest's RAM."""
_UNSEEN = "1e.7"
"""Where a guest does not look for a PCI device: one without function 0 has no others (PCI Local Bus
3.0, 3.2.2.3.4)."""
SECOND_RAM = "second-ram"
"""QEMU's name of the same RAM where it is a second time, with what is hidden behind it."""

_UNWANTED = ("fred",)
"""CPU features that a traced guest must not find: with FRED exceptions go through no IDT, and
vector 14 has no gate (Linux Documentation/arch/x86/x86_64/fred.rst)."""
_BROKEN = ("cx16",)
_SOUND_VERSION = (10, 0)
"""QEMU 7.2 sets wrong flags in CMPXCHG16B, of which Linux dies, untraced too, where its slab
allocator uses it (6.12 does). 10.0 is right; those in between were not tried."""


@dataclass(frozen=True, slots=True)
class MachineConfig:
    """Say what to run: paths of the files, the command line, memory in bytes.

    Without a ``kernel`` firmware starts what it finds on a disk.

    ``devices`` are the QEMU arguments of the machine definition; ``extra`` are the user's own and
    come last; ``exit_ok`` is the exit status by which a guest tells that it has ended well.
    ``guest`` is the kind of guest that this is a machine for, and ``second_ram`` the physical
    address at which all RAM is a second time, if anywhere. ``qemu_log`` is where QEMU
    writes its log, see :meth:`tracer.qemu.machine.Machine.log_accesses`, which has accesses to PCI
    configuration space by their functions with ``log_configuration``, and interrupts with
    ``log_interrupts``. One that is ``log_sifted`` has no accesses to ports. Without ``realtime``
    virtual time counts instructions, so that a stop of any length does not exist for the guest.
    ``hidden`` are physical addresses of RAM that no firmware tells the guest of: they are the last
    of what lies at its first GiB boundary, where :func:`hidden_ram` puts it. A guest that is traced
    ``from_reset`` does not find its device, and has no SMM.
    With ``svm`` CPUs have AMD's virtualisation, whatever their model.
    """

    program: str
    kernel: Path | None
    initrd: Path | None
    command_line: str
    memory: int
    guest: Kind = Kind.PLAIN
    second_ram: int | None = None
    hidden: range = range(0)
    from_reset: bool = False
    devices: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    exit_ok: int | None = None
    svm: bool = False
    realtime: bool = False
    qemu_log: Path | None = None
    log_configuration: bool = False
    log_interrupts: bool = False
    log_sifted: bool = False

    @property
    def file_size(self) -> int:
        """Return how many bytes of RAM there are in all, in the file that QEMU shares."""
        return self.hidden.stop - _base(self.hidden, self.memory) if self.hidden else self.memory


def hidden_ram(memory: int) -> range:
    """Return where RAM can be that a guest with ``memory`` bytes is not told of, within one GiB.

    It is a memory module behind all other RAM, in the place of which QEMU's firmware tables say
    nothing but how it could be plugged (hw/i386/pc.c, pc_memory_init). The guest's own RAM is in
    front of it a second time, as both are one file.
    """
    front = memory + -memory % _MODULE
    if front % _GIB + _HIDDEN > _GIB:
        front += -front % _GIB
    start = 4 * _GIB + memory + -memory % _GIB + front
    return range(start, start + _HIDDEN)


def _base(hidden: range, memory: int) -> int:
    # Returns the physical address at which the file begins a second time.
    return 4 * _GIB + memory + -memory % _GIB


def machine_arguments(config: MachineConfig, *, ram: int, monitor: int, gdb: Path) -> list[str]:
    """Return the QEMU arguments for a machine, but for the user's own.

    ``ram`` and ``monitor`` are the file descriptors of the guest's RAM and of the QMP channel,
    ``gdb`` is where QEMU makes the socket of its GDB stub.
    """
    # memory-backend on -machine needs the backend's id; the size must agree with -m.
    words = [
        *config.devices,
        "-machine", f"memory-backend={RAM}",
        "-m", f"{config.memory >> 20}M",
        "-object", _backend(RAM, config.memory, ram),
        *_second_ram(config, ram),
        *_kernel(config),
        "-chardev", "stdio,id=console,signal=off",
        "-serial", "chardev:console",
        "-chardev", f"socket,id=qmp,fd={monitor}",
        "-mon", "chardev=qmp,mode=control",
        "-gdb", f"unix:{gdb},server=on,wait=off",
        "-S",
        # It waits where it would end, to be looked at; a reset is an end as well.
        "-action", "reboot=shutdown,shutdown=pause",
    ]  # fmt: skip
    if config.from_reset:
        # Firmware's code in SMM would run beside the guest.
        words += ["-machine", "smm=off"]
    if config.svm:
        words += ["-global", "x86_64-cpu.svm=on"]
    if not config.realtime:
        words += ["-icount", _ICOUNT, *_METRONOME, *_REPEATABLE]
    return words


def _kernel(config: MachineConfig) -> list[str]:
    if config.kernel is None:
        # SeaBIOS, and with it a boot loader, then talks to the serial port.
        return ["-machine", "graphics=off"]
    words = ["-kernel", str(config.kernel), "-append", config.command_line]
    return words if config.initrd is None else [*words, "-initrd", str(config.initrd)]


def _backend(name: str, size: int, descriptor: int) -> str:
    return f"memory-backend-file,id={name},size={size},share=on,mem-path=/proc/self/fd/{descriptor}"


def _second_ram(config: MachineConfig, ram: int) -> list[str]:
    if config.hidden:
        base = _base(config.hidden, config.memory)
        # A system with ACPI plugs a module in, once it runs.
        module = f"pc-dimm,id={SECOND_RAM},memdev={SECOND_RAM},addr={base:#x}"
        unseen = f"{_device(base)},addr={_UNSEEN}"
        return [
            "-m", f"{config.memory >> 20}M,slots=1,maxmem={config.hidden.stop >> 20}M",
            "-object", _backend(SECOND_RAM, config.file_size, ram),
            "-device", unseen if config.from_reset else module,
        ]  # fmt: skip
    # Room for such devices begins at 4 GiB, behind RAM, and has the size that maxmem leaves.
    at, size = config.second_ram, config.memory
    if at is None:
        return []
    return [
        "-m", f"{size >> 20}M,slots=1,maxmem={(at + 2 * size) >> 20}M",
        "-object", _backend(SECOND_RAM, size, ram),
        "-device", _device(at),
    ]  # fmt: skip


def _device(at: int) -> str:
    # A memory device at an address of its own, which no firmware table tells the guest of.
    return (
        f"virtio-pmem-pci,id={SECOND_RAM},memdev={SECOND_RAM},memaddr={at:#x},"
        "disable-legacy=on,iommu_platform=on"
    )


def features_off(known: str, about: str) -> tuple[str, ...]:
    """Return the QEMU arguments that take unwanted features off every CPU model.

    ``known`` is what ``-cpu help`` prints: a property that a QEMU does not know stops it. ``about``
    is what ``-version`` prints.
    """
    names = set(known.split())
    return tuple(
        word
        for name in (*_UNWANTED, *(_BROKEN if is_before(_SOUND_VERSION, about) else ()))
        if name in names
        for word in ("-global", f"x86_64-cpu.{name}=off")
    )
