"""Firmware and boot loaders that go no further are known by what they print last."""

from __future__ import annotations

import pytest

from tracer.qemu.standstill import standstill, system_waits

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


DEBIAN = (
    b"Gave up waiting for root file system device.  Common problems:\r\n"
    b" - Missing modules (cat /proc/modules; ls /dev)\r\n"
    b"ALERT!  /dev/vdz1 does not exist.  Dropping to a shell!\r\n\r\n\r\n"
    b"BusyBox v1.35.0 (Debian 1:1.35.0-4+b7) built-in shell (ash)\r\n"
    b"Enter 'help' for a list of built-in commands.\r\n\r\n(initramfs) "
)
DRACUT = (
    b"[  187.1] dracut-initqueue[345]: Warning: /dev/vdz1 does not exist\r\n"
    b'Generating "/run/initramfs/rdsosreport.txt"\r\n\r\n\r\n'
    b"Entering emergency mode. Exit the shell to continue.\r\n"
    b'Type "journalctl" to view system logs.\r\n\r\n\r\n:/root# '
)
SYSTEMD = (
    b"[FAILED] Failed to mount /srv.\r\nYou are in emergency mode. After logging in, type\r\n"
    b"Give root password for maintenance\r\n(or press Control-D to continue): "
)


@pytest.mark.parametrize(
    ("printed", "what"),
    [
        (DEBIAN, "the initramfs waits at its shell, where nobody types (ALERT!  /dev/vdz1 does not "
         "exist.  Dropping to a shell!)"),
        (DEBIAN + b"[   35.1] random: crng init done\r\n", "the initramfs waits at its shell"),
        (DRACUT, "the initramfs waits at its shell, where nobody types ([  187.1] dracut-init"),
        (SYSTEMD, "the system waits in its emergency mode, where nobody types ([FAILED] Failed to "
         "mount /srv.)"),
        (b"Cannot open access to console, the root account is locked.\r\nSee sulogin(8) man page "
         b"for more details.\r\n\r\nPress Enter to continue.\r\n", "the system waits in its emerg"),
        (b"Please unlock disk vda5_crypt: \r\n[   35.1] random: crng init done\r\n", "the system "
         "asks for a disk's pass phrase, which nobody types"),
        ("\U0001f510 Please enter passphrase for disk QEMU_HARDDISK (root): (press TAB for no "
         "echo) ".encode(), "the system asks for a disk's pass phrase"),
        (b"\x1b[0mPress Enter for maintenance\r\n(or press Control-D to continue): ", "the system "
         "waits in its emergency mode, where nobody types"),
    ],
)  # fmt: skip
def test_a_system_that_waits_for_a_person(printed: bytes, what: str) -> None:
    found = system_waits(printed)
    assert found is not None and found.what.startswith(what)


@pytest.mark.parametrize("printed", [b"", b"debian login: ", DEBIAN + b"exit\r\n" + b"up\r\n" * 6])
def test_a_system_that_does_not(printed: bytes) -> None:
    assert system_waits(printed) is None
