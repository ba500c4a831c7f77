"""Firmware, boot loaders and systems that go no further: what they print last, what that means.

Each of these waits for a person from there on, or for nothing at all. A prompt that may have a
time limit, such as ISOLINUX's ``boot:``, is none of them.

Ref: SeaBIOS src/boot.c (boot_fail); edk2 MdeModulePkg/Universal/BdsDxe/BdsEntry.c and
ShellPkg/Application/Shell/Shell.c; GRUB grub-core/kern/rescue_reader.c, grub-core/normal/main.c,
grub-core/normal/menu_text.c and grub-core/boot/i386/pc/boot.S; SYSLINUX mbr/mbr.S,
core/diskboot.inc, com32/elflink/ldlinux/readconfig.c and core/isolinux.asm; initramfs-tools
scripts/functions (panic); dracut modules.d/98dracut-systemd/dracut-emergency.sh; systemd
src/sulogin-shell and src/cryptsetup; cryptsetup-initramfs scripts/local-top/cryptroot; util-linux
login-utils/sulogin.c.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_ESCAPE = re.compile(rb"\x1b(?:\[[0-9;?=]*[A-Za-z]|[A-Za-z])")
_CLEARED = re.compile(rb"\x1bc|\x1b\[2?J")
_LAST = 6
"""Lines from the end in which the words are looked for that are not the very last."""

_WHOLE = "is it the image of a whole disk?"


@dataclass(frozen=True, slots=True)
class Standstill:
    """Say who goes no further, and how, and what to do about it."""

    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what}; {self.remedy}"


_NOTHING_BIOS = "the BIOS found nothing to start: {}", f"{_WHOLE} One for UEFI: --firmware uefi"
_NOTHING_UEFI = (
    "the UEFI firmware found nothing to start: {}", f"{_WHOLE} One for BIOS: --firmware bios"
)  # fmt: skip
_BOOT_CODE = (
    "the disk's boot code gave up: {}",
    "what it starts is missing there, or the image is cut or damaged",
)
_TYPE = "or let somebody type, with --console"
_ENDS = (
    (rb"No bootable device\..*", *_NOTHING_BIOS),
    (rb"BdsDxe: No bootable option or device was found\.", *_NOTHING_UEFI),
    (rb"Shell>", "the UEFI firmware found nothing to start, and went to its shell",
     _NOTHING_UEFI[1]),
    (rb"grub rescue>", "GRUB does not find its own files, and waits at its rescue prompt",
     f"mend the image, {_TYPE}"),
    (rb"grub>", "GRUB has no menu, and waits at its prompt",
     f"give the image a grub.cfg where GRUB looks for it, {_TYPE}"),
    (rb"Boot error|Missing operating system\.?|Operating system load error\.?"
     rb"|Error loading operating system|Invalid partition table|No active partition.*"
     rb"|Non-System disk or disk error|Disk read error.*|Remove disks or other media\.?"
     rb"|(?:BOOTMGR|NTLDR) is missing|GRUB (?:Geom|Hard Disk|Floppy|Read) ?Error"
     rb"|(?:isolinux|ldlinux).* (?:missing or corrupt|not found)\.?", *_BOOT_CODE),
    (rb"Failed to load ldlinux\.c32|Boot failed: please change disks and press a key to continue\.",
     *_BOOT_CODE),
)  # fmt: skip
"""Last lines, each with its meaning, in which the line itself goes where there are braces."""

_LINES = tuple((re.compile(pattern), what, remedy) for pattern, what, remedy in _ENDS)
_BEFORE = (
    (re.compile(rb"BdsDxe: Press any key to enter the Boot Manager Menu\."), _LINES[1]),
    (re.compile(rb"boot:"), (
        re.compile(rb"No DEFAULT or UI configuration directive found!"
                   rb"|WARNING: No configuration file found"),
        "SYSLINUX has no configuration, and waits at its prompt: {}",
        f"give the image a syslinux.cfg, {_TYPE}",
    )),
)  # fmt: skip
"""Last lines that say nothing by themselves, each with a line before it that does."""

_MENU = re.compile(rb"keys to select which entry is highlighted")
_COUNTDOWN = b"will be executed automatically"
_ERROR = re.compile(rb"error: .*")


_INITRAMFS = (
    "the initramfs waits at its shell, where nobody types",
    f"is its root= right? Mend that, {_TYPE}",
)
_WAITS = (
    (re.compile(rb"\(initramfs\).*"), *_INITRAMFS),
    (re.compile(rb"Entering emergency mode\. Exit the shell to continue\."), *_INITRAMFS),
    (re.compile(rb"\(or press Control-D to continue\):.*|Press Enter to continue\."),
     "the system waits in its emergency mode, where nobody types", f"mend it, {_TYPE}"),
    (re.compile(rb".*Please (?:unlock disk|enter passphrase for disk) .*"),
     "the system asks for a disk's pass phrase, which nobody types", f"give it a key, {_TYPE}"),
)  # fmt: skip
"""Lines of a system that did not come up, which kernel lines may follow."""
_WHY = re.compile(
    rb"ALERT! .*|.*[Ww]arning: .* does not exist|.*Timed out waiting for device .*"
    rb"|\[FAILED\] Failed to (?:start|mount) .*"
)
_STAYS = "With --append panic= --console pty it waits at its shell"
_LOOKED_BACK = 60  # lines
_GAVE_UP = re.compile(r"(?:Rebooting|Halting) automatically due to panic= boot argument")


def system_waits(recent: bytes) -> Standstill | None:
    """Return why a system that has printed this waits for a person, None where it does not."""
    lines = _lines(recent)
    for line in reversed(lines[-_LAST:]):
        for pattern, what, remedy in _WAITS:
            if pattern.fullmatch(line):
                return Standstill(what + _why(lines), remedy)
    return None


def gave_up(console: Sequence[str]) -> Standstill | None:
    """Return why an initramfs that printed these lines ended the guest, None where none did."""
    if not any(_GAVE_UP.fullmatch(line.strip()) for line in console):
        return None
    why = _why([line.strip().encode() for line in console])
    return Standstill(f"the initramfs gave up{why}", f"is its root= right? {_STAYS}")


def _why(lines: Sequence[bytes]) -> str:
    # The first complaint among the last of the lines.
    found = (_WHY.fullmatch(line) for line in lines[-_LOOKED_BACK:])
    whys = [each[0].decode("ascii", "replace") for each in found if each]
    return f" ({whys[0]})" if whys else ""


def standstill(recent: bytes) -> Standstill | None:
    """Return why a guest that has printed this goes no further, None where it may well."""
    screen = _ESCAPE.sub(b"", _CLEARED.split(recent)[-1])
    if _MENU.search(screen) and _COUNTDOWN not in screen:
        return Standstill("GRUB waits at its menu, which has no time limit",
                          f"give it one (timeout=1 in grub.cfg), {_TYPE}")  # fmt: skip
    lines = _lines(recent)[-_LAST:]
    if not lines:
        return None
    for pattern, what, remedy in _LINES:
        if pattern.fullmatch(lines[-1]):
            return _told(what, lines[-1], lines, remedy)
    for last, (pattern, what, remedy) in _BEFORE:
        if last.fullmatch(lines[-1]):
            for line in lines:
                if pattern.fullmatch(line):
                    return _told(what, line, lines, remedy)
    return None


def _lines(recent: bytes) -> list[bytes]:
    # Those that are not empty, without what moves a cursor or colours a text.
    text = _ESCAPE.sub(b"", recent).replace(b"\r", b"\n")
    return [line for each in text.split(b"\n") if (line := each.strip(b" \t\0"))]


def _told(what: str, line: bytes, lines: list[bytes], remedy: str) -> Standstill:
    # A boot loader's own error says why it waits.
    errors = [] if "{}" in what else [found for each in lines if (found := _ERROR.fullmatch(each))]
    why = f" ({errors[-1][0].decode('ascii', 'replace')})" if errors else ""
    return Standstill(what.format(line.decode("ascii", "replace").rstrip(".")) + why, remedy)
