"""Check that everything vetrace needs is there."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from tracer.errors import TracerError
from tracer.host.cache import cache_folder
from tracer.text.printable import printable

_PROGRAM_SECONDS = 60  # beyond this, a program asked for its version hangs
_SETUP = "run vetrace setup"
_RESET_VECTOR = 0xFFFF_FFF0
"""Linear address where every x86 begins (Intel SDM vol. 3A, 10.1.4)."""


@dataclass(frozen=True, slots=True)
class Check:
    """Hold what was found of one thing, and what to do when it is not right.

    ``advice`` is empty when it is right. ``needed`` tells that no guest can be booted without.
    """

    name: str
    found: str
    advice: str = ""
    needed: bool = True

    @property
    def fatal(self) -> bool:
        """Tell whether this keeps a guest from being booted."""
        return bool(self.advice) and self.needed


@dataclass(frozen=True, slots=True)
class Found:
    """Name a kernel that is there, and the kinds of guest that it can be, as ``--guest`` has them.

    ``default_for`` are those that run it where no ``--kernel`` is given.
    """

    release: str
    path: str
    guests: list[str]
    default_for: list[str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``vetrace doctor``."""
    parser.add_argument("--kernel", metavar="FILE", type=Path, help="check this kernel image")
    parser.add_argument(
        "--symbols", metavar="FILE", type=Path, help="with these symbols (vmlinux or System.map)"
    )
    parser.add_argument(
        "--qemu", metavar="PROGRAM", default="qemu-system-x86_64", help="check this QEMU"
    )
    parser.add_argument("--gdb", metavar="PROGRAM", default="gdb", help="check this GDB")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print what was found and what is missing; return 0 when a guest can be booted, else 1."""
    checks = examine(args.kernel, args.symbols, args.qemu, args.gdb)
    ready = not any(check.fatal for check in checks)
    kernels = _kernels(args.kernel, args.symbols)
    checks += [*_guests(kernels), _firmware()]
    if args.json:
        told = [asdict(check) for check in checks]
        print(json.dumps({"ready": ready, "checks": told, "kernels": list(map(asdict, kernels))}))
    else:
        print(report(checks))
    return 0 if ready else 1


def examine(kernel: Path | None, symbols: Path | None, qemu: str, gdb: str) -> list[Check]:
    """Look at everything a boot needs, in the order in which it is set up."""
    checks = [_python(), _packages()]
    try:
        from tracer.gdb.client import MINIMUM_VERSION as GDB_MINIMUM
        from tracer.qemu.dialogue import MINIMUM_VERSION as QEMU_MINIMUM
    except ImportError as error:
        # The checks from here on need the packages.
        return [*checks, Check("imports", f"{error.name} cannot be imported", _SETUP)]

    checks += [
        _versioned("qemu", qemu, "qemu-system-x86", QEMU_MINIMUM),
        _versioned("gdb", gdb, "gdb", GDB_MINIMUM),
        _busybox(),
        _cache(),
        _recipe(),
        *_kernel(kernel, symbols),
    ]
    if not any(check.fatal for check in checks):
        checks.append(_handshake(kernel, symbols, qemu, gdb))
    return checks


def report(checks: Sequence[Check]) -> str:
    """Return the checks as lines for a terminal, what to do about each below it."""
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        mark = "ok" if not check.advice else "MISSING" if check.needed else "note"
        # A kernel image may say of itself what it likes.
        lines.append(f"{mark:<8}{check.name:<{width}}  {printable(check.found)}")
        if check.advice:
            lines.append(f"{'':<8}{'':<{width}}  -> {printable(check.advice)}")
    missing = [check.name for check in checks if check.fatal]
    lines.append(f"not ready: {', '.join(missing)}" if missing else "ready: vetrace boot")
    return "\n".join(lines)


def _python() -> Check:
    found = f"{platform.python_version()} ({sys.executable})"
    old = sys.version_info < (3, 11)
    return Check("python", found, "install Python 3.11 or newer" if old else "")


def _packages() -> Check:
    try:
        requirements = metadata.requires("vetrace") or []
    except metadata.PackageNotFoundError:
        # Run from its source folder; whether that works the imports tell.
        return Check("packages", "vetrace itself is not installed", _SETUP, needed=False)
    found, missing = [], []
    for requirement in requirements:
        if "extra ==" in requirement:
            continue
        name = re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    advice = f"not installed: {', '.join(missing)}; {_SETUP}" if missing else ""
    return Check("packages", ", ".join(sorted(found, key=str.lower)), advice)


def _versioned(name: str, program: str, package: str, minimum: tuple[int, ...]) -> Check:
    path = shutil.which(program)
    if path is None:
        return Check(
            name, f"{program} not found", f"{_SETUP}, or install {package}, or use --{name}"
        )
    # The last word of the first line, not counting a packager's own version in parentheses.
    line = re.sub(r" \(.*\)$", "", _output_of(path, "--version").partition("\n")[0].rstrip())
    match = re.match(r"(\d+(?:\.\d+)+)", line.rpartition(" ")[2])
    if match is None:
        return Check(name, f"{path} does not tell its version", f"use another one with --{name}")
    version = tuple(int(part) for part in match[1].split("."))
    wanted = ".".join(map(str, minimum))
    advice = "" if version >= minimum else f"version {wanted} or newer is needed"
    return Check(name, f"{match[1]} ({path})", advice)


def _busybox() -> Check:
    from tracer.guest.initramfs import find_busybox

    try:
        path = find_busybox()
    except TracerError as error:
        return Check("busybox", "no static busybox found", str(error))
    match = re.match(r"BusyBox v(\S+)", _output_of(str(path), "--help"))
    return Check("busybox", f"{match[1] if match else 'version unknown'} ({path}, static)")


def _cache() -> Check:
    folder = cache_folder()
    place = next(path for path in (folder, *folder.parents) if path.exists())
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        return Check("cache", f"{folder} is not writable", "name another with VETRACE_CACHE")
    return Check("cache", f"{folder}{'' if place == folder else ' (not made yet)'}")


def _recipe() -> Check:
    from tracer.guest import recipe

    try:
        recipe.command_line()
        recipe.machine_arguments()
        recipe.init_script().read_bytes()
    except (TracerError, OSError) as error:
        return Check("recipe", f"{recipe.FOLDER}", f"{error}; install vetrace again")
    return Check("recipe", f"{recipe.FOLDER}")


def _handshake(kernel: Path | None, symbols: Path | None, qemu: str, gdb: str) -> Check:
    # Does what the first stop of a boot needs, with a guest that never runs.
    from tracer.host import signals
    from tracer.launch.plan import Plan
    from tracer.launch.start import launch

    async def try_it() -> str:
        plan = Plan(kernel=kernel, symbols=symbols, qemu=qemu, gdb=gdb)
        async with launch(plan) as session:
            target = session.target
            number = await target.set_read_watch(_RESET_VECTOR)
            await target.delete_breakpoint(number)
            answers = await target.client.packets(["Qqemu.PhyMemMode:1", "Qqemu.PhyMemMode:0"])
            if answers != ["OK", "OK"]:
                raise TracerError(f"QEMU's GDB stub reads no physical memory: it says {answers}")
            registers = await target.registers()
            regions = await session.refresh_regions()
            return f"{len(registers.values)} registers, {len(regions.regions)} device regions"

    try:
        return Check("handshake", signals.run(try_it()))
    except TracerError as error:
        return Check("handshake", "QEMU and GDB do not work together here", str(error))


def _kernel(path: Path | None, symbols: Path | None) -> list[Check]:
    from tracer.linux.kernel import default_kernel, open_kernel

    own = "give your own with --kernel FILE"
    image = path or default_kernel()
    if image is None:
        return [Check("kernel", "no guest kernel", f"{_SETUP}, or {own}")]
    try:
        kernel = open_kernel(image, symbols)
    except TracerError as error:
        return [Check("kernel", str(image), str(error))]
    no_modules = "the guest boots without its drivers, unless they are built in"
    return [
        Check("kernel", f"{kernel.release} ({kernel.path})"),
        Check("symbols", f"{len(kernel.symbols)} ({symbols or 'of its kallsyms'})"),
        Check("modules", str(kernel.modules))
        if kernel.modules is not None
        else Check("modules", "none beside the kernel", no_modules, needed=False),
        Check("types", "BTF")
        if kernel.btf_file is not None
        else Check("types", "no BTF", "symbols of modules cannot be read", needed=False),
    ]


def _kernels(given: Path | None, symbols: Path | None) -> list[Found]:
    # The one that is asked about, and those that setup fetched, the newest last.
    try:
        from tracer.confidential.kind import Kind
        from tracer.host.package import unpacked_kernels
        from tracer.linux.kernel import default_kernel, open_kernel
    except ImportError:
        return []
    defaults = {kind: default_kernel(kind) for kind in Kind}
    found = []
    for path in dict.fromkeys([*([given] if given is not None else []), *unpacked_kernels()]):
        try:
            kernel = open_kernel(path, symbols if path == given else None)
        except TracerError:
            continue  # what is wrong with the one that is asked about has been told
        kinds = [kind for kind, image in defaults.items() if image == path and kind in kernel.kinds]
        found.append(
            Found(
                kernel.release,
                str(path),
                [kind.value for kind in kernel.kinds],
                [kind.value for kind in kinds],
            )
        )
    return found


def _guests(kernels: Sequence[Found]) -> list[Check]:
    # One line for each kind of confidential guest: nobody needs one.
    try:
        from tracer.confidential.kind import Kind
        from tracer.confidential.support import setup_command
    except ImportError:
        return []
    checks = []
    for kind in Kind:
        if kind is Kind.PLAIN:
            continue
        able = [kernel for kernel in kernels if kind.value in kernel.guests]
        able.sort(key=lambda kernel: kind.value not in kernel.default_for)
        names = [
            f"{kernel.release} ({kernel.path})"
            if kind.value not in kernel.default_for
            else f"{kernel.release} (vetrace boot --guest {kind})"
            for kernel in able
        ]
        found = ", ".join(names) or "no kernel here can be one"
        if not able:
            advice = f"{setup_command(kind)} gets one that can"
        elif kind.value in able[0].default_for:
            advice = ""
        else:
            advice = f"name one with --kernel, or {setup_command(kind)} gets one to boot without"
        checks.append(Check(f"{kind} guest", found, advice, needed=False))
    return checks


def _firmware() -> Check:
    # Nobody needs it but for --firmware uefi.
    try:
        from tracer.qemu.firmware import Firmware, firmware_arguments
    except ImportError as error:
        return Check("uefi", f"{error.name} cannot be imported", _SETUP, needed=False)
    try:
        words = firmware_arguments(Firmware.UEFI)
    except TracerError as error:
        return Check("uefi", "no firmware for --firmware uefi", str(error), needed=False)
    return Check("uefi", f"{words[1].rpartition('file=')[2]} (vetrace boot --firmware uefi)")


def _output_of(*command: str) -> str:
    # Standard output, else standard error; empty when the program cannot be run.
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=_PROGRAM_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return (done.stdout or done.stderr).decode(errors="replace")
