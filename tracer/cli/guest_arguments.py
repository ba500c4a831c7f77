"""The arguments that say what guest to run, shared by the commands that start one."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tracer.access.region import Choice
from tracer.bare.guidance import guidance
from tracer.cli.parser import passed_on
from tracer.cli.phrase import phrase
from tracer.confidential.kind import Kind
from tracer.guest.equipment import Equipment
from tracer.guest.software import Software
from tracer.host.streams import warn
from tracer.launch.plan import GDB, QEMU, Plan, check_plan, exit_status, parse_memory
from tracer.qemu.firmware import Firmware


def add_guest_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments that describe a guest and what is traced of it."""
    guest = parser.add_argument_group("guest")
    guest.add_argument(
        "--guest",
        choices=[kind.value for kind in Kind],
        default=Kind.PLAIN.value,
        help="a confidential guest, whose kernel's own handlers decode (default: %(default)s)",
    )
    guest.add_argument(
        "--kernel", metavar="BZIMAGE", type=Path, help="bzImage or vmlinux (default: Debian's)"
    )
    guest.add_argument(
        "--kernel-file", metavar="IMAGE", type=Path,
        help="the kernel that the boot loader on the --disk starts (default: what RAM has of it)",
    )  # fmt: skip
    guest.add_argument(
        "--symbols", metavar="FILE", type=Path, help="vmlinux or System.map of that kernel"
    )
    guest.add_argument("--initrd", metavar="FILE", type=Path, help="initial ramdisk")
    guest.add_argument(
        "--module",
        metavar="NAME|FILE.ko",
        action="append",
        default=[],
        help="load this kernel module too, by name or file, with what it needs; again for more",
    )
    guest.add_argument(
        "--add",
        metavar="PROGRAM[:PATH]",
        action="append",
        default=[],
        help="put this program or folder into the guest, with the libraries that it loads, by "
        "default into /bin; again for more",
    )
    guest.add_argument(
        "--init",
        metavar="SCRIPT",
        type=Path,
        help="run this in the guest in place of reading its disks, then power off",
    )
    guest.add_argument(
        "--append", metavar="STR", type=phrase, help="more words for the kernel's command line"
    )
    guest.add_argument(
        "--kaslr", action="store_true", help="let the kernel randomise its addresses"
    )
    guest.add_argument("--memory", metavar="SIZE", help="such as 512M, which is the default, or 2G")
    guest.add_argument(
        "--realtime", action="store_true", help="wall-clock time instead of counted instructions"
    )
    guest.add_argument(
        "--exit-ok",
        metavar="N",
        help="QEMU's exit status by which the guest says that all is well (isa-debug-exit)",
    )
    _add_machine_arguments(parser)
    _add_guidance_arguments(parser)
    guest.add_argument("--qemu", metavar="PROGRAM", default=QEMU, help="the QEMU to run")
    guest.add_argument("--gdb", metavar="PROGRAM", default=GDB, help="the GDB to run")
    guest.add_argument(
        "extra", metavar="QEMU ARGS", nargs="*", type=passed_on,
        help="after --: more QEMU arguments",
    )  # fmt: skip
    add_choice_arguments(parser)


def add_choice_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments that say what is traced of a guest."""
    traced = parser.add_argument_group("what is traced (default: every device but frame buffers)")
    traced.add_argument(
        "--region",
        metavar="NAME|START-END",
        action="append",
        default=[],
        help="trace this region or device only; again for more (see `vetrace regions`)",
    )
    traced.add_argument(
        "--bypass",
        metavar="NAME|START-END",
        action="append",
        default=[],
        help="do not trace this region or device; again for more",
    )


def _add_guidance_arguments(parser: argparse.ArgumentParser) -> None:
    bare = parser.add_argument_group("a guest that is not Linux")
    bare.add_argument(
        "--attach-at",
        metavar="PLACE|TIME",
        help="begin to trace at a symbol, an address, return:SYMBOL, or after a time such as 1.5s "
        "(default: behind the guest's first LIDT that gives it a page-fault handler)",
    )
    bare.add_argument(
        "--mapping",
        metavar="FUNCTION(...)",
        action="append",
        default=[],
        help="a function that maps devices, with the registers of its arguments, such as "
        "'install_pte(linear=rdx, entry=rcx)' or 'ioremap(physical=rdi, size=rsi, linear=return)'; "
        "again for more (default: its page tables are watched, a stop for each store)",
    )
    bare.add_argument(
        "--stub-at",
        metavar="PLACE",
        help="a page of executable memory, by symbol or address, that the guest does not use "
        "(default: what fills up its code, or lies between its sections)",
    )
    bare.add_argument(
        "--look-again",
        metavar="TIME",
        help="look at its page tables each time such as 20ms too, for what neither stores nor the "
        "loads of CR3 in its image tell of",
    )


def _add_machine_arguments(parser: argparse.ArgumentParser) -> None:
    machine = parser.add_argument_group("machine (default: q35 with two disks and a network)")
    machine.add_argument(
        "--machine",
        metavar="NAME|FILE.cfg",
        help="one of QEMU's machines, such as pc or microvm, or a file of QEMU's options",
    )
    machine.add_argument(
        "--disk",
        metavar="IMAGE",
        type=Path,
        action="append",
        default=[],
        help="the guest's /dev/vda in place of the default disks, raw or qcow2, which no guest "
        "changes; again for more. Without --kernel the boot loader on it starts its own",
    )
    machine.add_argument(
        "--firmware",
        choices=[firmware.value for firmware in Firmware],
        default=Firmware.BIOS.value,
        help="what the machine begins with (default: %(default)s)",
    )
    machine.add_argument(
        "--device",
        metavar="DEVICE",
        action="append",
        default=[],
        help="add this device, as QEMU's -device; again for more",
    )
    machine.add_argument(
        "--no-default-devices", action="store_true", help="without the default disks and network"
    )


def guest_plan(args: argparse.Namespace, qemu_log: Path | None = None) -> Plan:
    """Return the plan that the arguments describe. Raises UsageError."""
    plan = Plan(
        guest=Kind(args.guest),
        kernel=args.kernel,
        kernel_file=args.kernel_file,
        symbols=args.symbols,
        initrd=args.initrd,
        software=Software(tuple(args.module), tuple(args.add), args.init),
        append=args.append,
        kaslr=args.kaslr,
        equipment=Equipment(
            machine=args.machine,
            devices=tuple(args.device),
            default_devices=not args.no_default_devices,
            disks=tuple(args.disk),
        ),
        firmware=Firmware(args.firmware),
        memory=None if args.memory is None else parse_memory(args.memory),
        choice=Choice(tuple(args.region), tuple(args.bypass)),
        realtime=args.realtime,
        qemu_log=qemu_log,
        extra=tuple(args.extra),
        exit_ok=None if args.exit_ok is None else exit_status(args.exit_ok),
        guidance=guidance(args.attach_at, args.mapping, args.stub_at, args.look_again),
        qemu=args.qemu,
        gdb=args.gdb,
    )
    check_plan(plan)
    return plan


def tell(text: str) -> None:
    """Tell the reader on standard error how the start goes."""
    warn(text)
    sys.stderr.flush()
