"""`vetrace doctor`: with programs that are there, old, or missing."""

from __future__ import annotations

import argparse
import json
import re
from functools import partial
from pathlib import Path

import pytest
from kernel_sample import CAN_SEV_ES, CAN_TDX, vmlinux

from tracer.cli import doctor
from tracer.host.package import kernels_folder, make_default
from tracer.qemu import firmware


def check(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    doctor.add_arguments(parser)
    return parser.parse_args(words)


def program(folder: Path, name: str, says: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return path


@pytest.fixture(autouse=True)
def empty_cache(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "qemu" not in request.keywords:
        monkeypatch.setenv("VETRACE_CACHE", str(tmp_path / "cache"))


def found(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, object]]:
    return {item["name"]: item for item in json.loads(capsys.readouterr().out)["checks"]}


def test_missing_programs_and_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor.run(check()) == 1
    text = capsys.readouterr().out
    assert "qemu-system-x86_64 not found" in text
    assert "gdb not found" in text
    assert "give your own with --kernel FILE" in text
    last = text.splitlines()[-1]
    assert last.startswith("not ready: qemu, gdb,")
    assert last.endswith("kernel")
    assert "cpio" not in last


@pytest.mark.parametrize(
    ("says", "version", "advice"),
    [
        ("GNU gdb (Debian 13.1-3) 13.1", "13.1", ""),
        ("GNU gdb (GDB) Fedora Linux 16.3-1.fc42", "16.3", ""),
        ("GNU gdb (GDB) 7.0", "7.0", "or newer is needed"),
        ("something else", "does not tell its version", "--gdb"),
    ],
)
def test_gdb_versions(
    says: str, version: str, advice: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gdb = program(tmp_path, "gdb", says)
    doctor.run(check("--json", "--gdb", str(gdb)))
    item = found(capsys)["gdb"]
    assert version in str(item["found"])
    assert bool(item["advice"]) == bool(advice)
    assert advice in str(item["advice"])


@pytest.mark.parametrize(
    ("says", "advice"),
    [
        ("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)", ""),
        ("QEMU emulator version 10.1.50", ""),
        ("QEMU emulator version 2.12.0", "or newer is needed"),
    ],
)
def test_qemu_versions(
    says: str, advice: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    qemu = program(tmp_path, "qemu", says)
    doctor.run(check("--json", "--qemu", str(qemu)))
    item = found(capsys)["qemu"]
    assert str(item["found"]).split()[0] in says
    assert bool(item["advice"]) == bool(advice)
    assert advice in str(item["advice"])


def test_kernel_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.run(check("--json", "--kernel", "/bin/sh")) == 1
    assert "not a Linux kernel" in str(found(capsys)["kernel"]["advice"])


@pytest.mark.qemu
def test_everything_is_there_after_setup(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.run(check("--json")) == 0, capsys.readouterr().out
    items = found(capsys)
    # Setup fetches the kernel that a plain guest needs, and no other.
    assert [name for name, item in items.items() if item["advice"]] in ([], ["tdx guest"])
    assert {"python", "packages", "qemu", "gdb", "busybox", "kernel", "symbols"} <= set(items)
    assert re.fullmatch(r"\d+ registers, \d+ device regions", str(items["handshake"]["found"]))
    assert str(items["uefi"]["found"]).endswith(".fd (vetrace boot --firmware uefi)")


def test_firmware_is_missed_where_it_is_wanted_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        firmware, "firmware_arguments", partial(firmware.firmware_arguments, pairs=())
    )
    doctor.run(check("--json"))
    item = found(capsys)["uefi"]
    assert "install ovmf" in str(item["advice"]) and item["needed"] is False


@pytest.mark.qemu
def test_a_gdb_that_stops_nothing_is_found_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gdb = tmp_path / "gdb"
    # Everything as it should be, until it comes to watching.
    gdb.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && exec gdb --version\n'
        "exec gdb \"$@\" -iex 'set can-use-hw-watchpoints 0'\n"
    )
    gdb.chmod(0o755)
    assert doctor.run(check("--json", "--gdb", str(gdb))) == 1
    item = found(capsys)["handshake"]
    assert "watch" in str(item["advice"])


@pytest.mark.qemu
def test_a_recipe_that_is_not_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tracer.guest.recipe.FOLDER", tmp_path)
    assert doctor.run(check("--json")) == 1
    assert "cmdline" in str(found(capsys)["recipe"]["advice"])


def test_which_kernels_can_be_which_guest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = tmp_path / "vmlinux"
    given.write_bytes(vmlinux(CAN_TDX, "4.0.0"))
    doctor.run(check("--json", "--kernel", str(given)))
    report = json.loads(capsys.readouterr().out)
    assert report["kernels"] == [
        {"release": "4.0.0", "path": str(given), "guests": ["plain", "tdx"], "default_for": []}
    ]
    for name, symbols in (("one", CAN_SEV_ES), ("two", CAN_TDX), ("three", ())):
        image = kernels_folder() / name / f"boot/vmlinuz-{name}"
        image.parent.mkdir(parents=True)
        image.write_bytes(vmlinux(symbols, f"9.0.0-{name}"))
    (kernels_folder() / ".draft.x/boot").mkdir(parents=True)
    make_default("one")
    doctor.run(check("--json"))
    items = {item["name"]: item for item in json.loads(capsys.readouterr().out)["checks"]}
    assert "vetrace setup --guest tdx" in items["tdx guest"]["advice"]
    assert not items["sev-es guest"]["advice"]
    make_default("two", "tdx")
    doctor.run(check("--json"))
    report = json.loads(capsys.readouterr().out)
    assert {kernel["release"]: (kernel["guests"], kernel["default_for"])
            for kernel in report["kernels"]} == {
        "9.0.0-one": (["plain", "sev-es"], ["plain", "sev-es"]),
        "9.0.0-two": (["plain", "tdx"], ["tdx"]),
        "9.0.0-three": (["plain"], []),
    }  # fmt: skip
    items = {item["name"]: item for item in report["checks"]}
    assert items["tdx guest"]["found"] == "9.0.0-two (vetrace boot --guest tdx)"
    assert items["sev-es guest"]["found"] == "9.0.0-one (vetrace boot --guest sev-es)"
    assert not items["tdx guest"]["advice"]


def test_a_default_kernel_that_cannot_is_no_default_for_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    image = kernels_folder() / "one/boot/vmlinuz-one"
    image.parent.mkdir(parents=True)
    image.write_bytes(vmlinux())
    make_default("one")
    doctor.run(check("--json"))
    items = found(capsys)
    for guest in ("tdx", "sev-es"):
        item = items[f"{guest} guest"]
        assert (item["found"], item["needed"]) == ("no kernel here can be one", False)
        assert f"vetrace setup --guest {guest}" in str(item["advice"])


def test_what_a_kernel_says_does_not_colour_the_report() -> None:
    text = doctor.report([doctor.Check("kernel", "6.1\x1b[31m\u202e", "\x07")])
    assert all(line.isprintable() for line in text.splitlines())
