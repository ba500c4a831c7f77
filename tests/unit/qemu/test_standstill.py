"""Firmware and boot loaders that go no further are known by what they print last."""

from __future__ import annotations

import pytest

from tracer.qemu.standstill import standstill

SEABIOS = (
    b"\x1bc\x1b[?7l\x1b[2J\x1b[0mSeaBIOS (version 1.16.2-debian-1.16.2-1)\r\n"
    b"Booting from Hard Disk...\r\n"
)
MENU = (
    b"\x1b[2J\x1b[01;01HGNU GRUB  version 2.06\r\n *one\r\n  two\r\n"
    b"      Use the ^ and v keys to select which entry is highlighted.          \r\n"
    b"      Press enter to boot the selected OS, `e' to edit the commands       \r\n"
    b"      before booting or `c' for a command-line.\x1b[05;80H"
)
COUNTDOWN = b"   The highlighted entry will be executed automatically in 5s.                 "


@pytest.mark.parametrize(
    ("printed", "what"),
    [
        (SEABIOS + b"Boot failed: not a bootable disk\r\n\r\nNo bootable device.\r\n",
         "the BIOS found nothing to start: No bootable device"),
        (SEABIOS + b"No bootable device.  Retrying in 60 seconds.\r\n",
         "the BIOS found nothing to start: No bootable device.  Retrying in 60 seconds"),
        (SEABIOS + b"Boot error\r\n", "the disk's boot code gave up: Boot error"),
        (SEABIOS + b"Missing operating system.", "the disk's boot code gave up: Missing op"),
        (SEABIOS + b"GRUB Hard Disk Error", "the disk's boot code gave up: GRUB Hard Disk Error"),
        (SEABIOS + b"GRUB loading.\r\n\x1b[0;30;47mWelcome to GRUB!\r\n\r\n\x1b[0merror: unknown "
         b"filesystem.\r\ngrub rescue> ", "GRUB does not find its own files, and waits at its "
         "rescue prompt (error: unknown filesystem.)"),
        (b"\x1b[2J  GNU GRUB  version 2.06\r\n\r\n   Minimal BASH-like line editing is supported. "
         b"\r\n\r\ngrub> \x1b[07;07H", "GRUB has no menu, and waits at its prompt"),
        (MENU, "GRUB waits at its menu, which has no time limit"),
        (b"BdsDxe: failed to load Boot0001\r\nUEFI Interactive Shell v2.2\r\nPress ESC in 1 seconds"
         b" to skip startup.nsh\r\n\x1b[1m\x1b[33m\x1b[40mShell> \x1b[37m", "the UEFI firmware "
         "found nothing to start, and went to its shell"),
        (b"\x1b[2JBdsDxe: No bootable option or device was found.\r\n"
         b"BdsDxe: Press any key to enter the Boot Manager Menu.\r\n",
         "the UEFI firmware found nothing to start: BdsDxe: No bootable option"),
        (SEABIOS + b"SYSLINUX 6.04\r\nNo DEFAULT or UI configuration directive found!\r\nboot: ",
         "SYSLINUX has no configuration, and waits at its prompt: No DEFAULT"),
        (SEABIOS + b"SYSLINUX 6.04 EDD 20210613\r\nWARNING: No configuration file found\r\nboot: ",
         "SYSLINUX has no configuration, and waits at its prompt: WARNING: No configuration file"),
    ],
)  # fmt: skip
def test_last_words(printed: bytes, what: str) -> None:
    found = standstill(printed)
    assert found is not None
    assert found.what.startswith(what)
    assert found.remedy


@pytest.mark.parametrize(
    "printed",
    [
        b"",
        SEABIOS,
        SEABIOS + b"No bootable device.\r\nNo, there is one\r\n",
        SEABIOS + b"ISOLINUX 6.04\r\nboot: ",  # it may have a time limit
        MENU + COUNTDOWN,
        MENU + b"\x1b[2J  Booting `one'\r\n",
        b"Shell> echo -off\r\n",
        b"[    0.000000] Linux version 6.1.0\r\nlogin: ",
        b"a program says: grub> ",
    ],
)
def test_words_behind_which_something_comes(printed: bytes) -> None:
    assert standstill(printed) is None
