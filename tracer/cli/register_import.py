"""``vetrace registers import FILE``: register maps out of other tools' descriptions."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from tracer.cli import EXIT_OK
from tracer.cli.extra import extra
from tracer.devices.description.markup import is_markup, root_of
from tracer.devices.file import parse
from tracer.devices.library import description
from tracer.devices.writing import Described, map_text
from tracer.errors import UsageError, advice
from tracer.host.named_file import file_named, replacing
from tracer.host.streams import warn
from tracer.text.amount import counted
from tracer.text.printable import printable

WORD = "import"

_BIGGEST = 1 << 26
_READ = "CMSIS-SVD, SystemRDL and IP-XACT are read"
_SHOWN = 12
_OPTIONS = ("only", "for_region", "output")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``vetrace registers import``."""
    group = parser.add_argument_group(
        "import", "vetrace registers import FILE: needs pip install 'vetrace[import]'"
    )
    group.add_argument(
        "file", metavar="FILE", nargs="?", type=Path, help="CMSIS-SVD, SystemRDL or IP-XACT"
    )
    group.add_argument("--only", metavar="DEVICE", help="of the devices that FILE describes, this")
    group.add_argument(
        "--for", dest="for_region", metavar="REGION",
        help="the region that the map is for, or a glob (default: the device's name)",
    )  # fmt: skip
    group.add_argument(
        "-o", "--output", metavar="FILE|FOLDER",
        help="write the map here; of several devices, one file each in this folder",
    )  # fmt: skip


def check_arguments(args: argparse.Namespace) -> None:
    """Refuse the arguments without the word. Raises UsageError."""
    if args.file is not None:
        raise UsageError(
            f"{args.file}: one NAME is looked up; `vetrace registers import {args.file}` reads a"
            " file"
        )
    if any(getattr(args, name) is not None for name in _OPTIONS):
        raise UsageError("--only, --for and --output are of `vetrace registers import FILE`")


def run(args: argparse.Namespace) -> int:
    """Write the maps of what a file describes; return the exit status."""
    if args.file is None:
        raise UsageError(f"import which file? {_READ}")
    found = _chosen(_described(args.file), args)
    source = args.file.name
    texts: dict[str, str] = {}
    for each in found:
        text = f"# Made by `vetrace registers import` of {printable(source)}.\n"
        text += map_text(each, args.for_region or each.name.lower())
        parse(text, f"{args.file}, {printable(each.name)}", each.name)  # it can be read
        texts[_unused(each.name, texts)] = text
    if args.output is None:
        sys.stdout.write(next(iter(texts.values())))
    elif _is_folder(args.output):
        _write_all(Path(args.output), texts)
    else:
        _write(file_named(args.output), next(iter(texts.values())))
    for each in found:
        _tell_left_out(each)
    return EXIT_OK


def _described(path: Path) -> list[Described]:
    data = description(path, _BIGGEST)
    name = printable(str(path))
    if not data.strip():
        raise UsageError(f"{name} is empty: {_READ}")
    if not is_markup(data):
        if b"\0" in data[: 1 << 16]:
            raise UsageError(f"{name} is no text: {_READ}")
        with extra("systemrdl-compiler", "import"):
            from tracer.devices.description import rdl
        as_what = "" if path.suffix == ".rdl" else " (read as SystemRDL)"
        return rdl.described_rdl(str(path), name + as_what)
    match root_of(data, name):
        case (namespace, "component") if namespace:
            with extra("peakrdl-ipxact", "import"):
                import peakrdl_ipxact  # noqa: F401  # tells whether it is there

                from tracer.devices.description import rdl
            return rdl.described_ipxact(str(path), name)
        case (_, "device"):
            with extra("svd2py", "import"):
                from tracer.devices.description import svd
            return svd.described(data, name)
        case (namespace, other):
            raise UsageError(
                f"{name} describes no registers: its outermost element is {printable(other)}"
                f"{f' of {printable(namespace)}' if namespace else ' without a namespace'};"
                " that of CMSIS-SVD is device, that of IP-XACT component of its namespace, and"
                " SystemRDL is no XML"
            )


def _chosen(found: Sequence[Described], args: argparse.Namespace) -> list[Described]:
    names = [each.name for each in found]
    if not found:
        raise UsageError(f"{printable(str(args.file))} describes no register")
    if args.only is not None:
        chosen = [each for each in found if each.name == args.only]
        if not chosen:
            raise UsageError(
                f"{printable(str(args.file))} describes no {args.only}{advice(args.only, names)}"
            )
        return chosen[:1]
    if len(found) > 1 and not _is_folder(args.output):
        some = ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
        raise UsageError(
            f"{printable(str(args.file))} describes {len(found)} devices ({printable(some)}):"
            " --only chooses one, --output with a folder that there is writes them all"
        )
    if len(found) > 1 and args.for_region is not None:
        raise UsageError("--for names the region of one device: choose it by --only")
    return list(found)


def _is_folder(output: str | None) -> bool:
    return bool(output) and Path(str(output)).is_dir()


def _write(path: Path, text: str) -> None:
    with replacing(path) as sink:
        sink.write(text.encode())


# The name of a file for a device; several may be called alike.
def _unused(name: str, texts: dict[str, str]) -> str:
    safe = re.sub(r"[^\w.-]", "_", name.lower()).lstrip(".") or "_"
    numbers = (f"{safe}_{number}" for number in range(2, len(texts) + 3))
    return next(each for each in (safe, *numbers) if each not in texts)


def _write_all(folder: Path, texts: dict[str, str]) -> None:
    for name, text in texts.items():
        _write(folder / f"{name}.toml", text)
    warn(f"{counted(len(texts), 'register map')} written to {folder}")


def _tell_left_out(described: Described) -> None:
    left = described.left_out
    for text in left[:_SHOWN]:
        warn(printable(f"{described.name}: left out: {text}"))
    if len(left) > _SHOWN:
        warn(f"{printable(described.name)}: {len(left) - _SHOWN:,} more are left out")
