"""A disk with Debian on it: systemd, the stock kernel, and GRUB for BIOS and for UEFI.

It is made as an installer would, but without a loop device: Debian's packages unpack into a tar
archive, GRUB's images are made in there, the file systems are filled from a folder, and this module
puts what there is where firmware looks for it. The system powers off by itself.

Ref: GRUB manual, "Images" and "BIOS installation" (an MBR, and the core image behind it);
grub-core/boot/i386/pc/diskboot.S (which reads on from sector 2); UEFI specification 2.10, 5.2
(MBR partition type 0xEF) and 3.5.1.1 (\\EFI\\BOOT\\BOOTX64.EFI).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

import pytest
from vetrace_run import need

from tracer.host.cache import cache_folder
from tracer.host.whole_file import new_file

SAYS = "installed system:"
"""What the system's own line on the console begins with."""

_FILESYSTEM = "5f0c2f5e-3c86-4c0b-9d2c-8d6d2a8d6b01"
_SECTOR = 512
_FIRST = 2048  # sector of the first partition: GRUB's core image lies before
_ESP, _ROOT = 0xEF, 0x83
_ESP_MIB, _ROOT_MIB = 64, 900
ROOT_OFFSET = _FIRST * _SECTOR + (_ESP_MIB << 20)
"""Where the root file system is in the image, in bytes."""
_PACKAGES = (
    "systemd", "systemd-sysv", "udev", "linux-image-amd64", "zstd", "grub-common", "grub-pc-bin",
    "grub-efi-amd64-bin", "dosfstools", "mtools",
)  # fmt: skip
_LEFT_OUT = (
    "/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*",
    "*/kernel/sound/*", "*/kernel/drivers/gpu/*", "*/kernel/drivers/media/*",
    "*/kernel/drivers/infiniband/*", "*/kernel/drivers/net/wireless/*",
    "*/kernel/drivers/staging/*",
)  # fmt: skip

_BEGUN_BY = "test -d /sys/firmware/efi && echo uefi || echo bios"

# In the system, once its packages are there.
_SETTLE = rf"""
release=$(basename /boot/vmlinuz-* | sed s/vmlinuz-//)
cat > /boot/grub.cfg <<EOF
serial --unit=0 --speed=115200
terminal_output serial
echo "GRUB starts Linux $release"
linux /boot/vmlinuz-$release root=/dev/vda2 ro console=ttyS0 panic=-1
initrd /boot/initrd.img-$release
boot
EOF
echo "/dev/vda2 / ext4 defaults 0 1" > /etc/fstab
cat > /etc/systemd/system/tell.service <<'EOF'
[Unit]
Description=Tell that the system is up, and power off
[Service]
Type=oneshot
StandardOutput=tty
TTYPath=/dev/ttyS0
ExecStart=/bin/sh -c 'echo "{SAYS} $$(uname -r) $$({_BEGUN_BY})"'
ExecStart=/bin/systemctl --no-block poweroff
[Install]
WantedBy=multi-user.target
EOF
systemctl enable tell.service
systemctl set-default multi-user.target
systemctl mask getty@tty1.service serial-getty@ttyS0.service
printf 'search.fs_uuid {_FILESYSTEM} root\nset prefix=($root)/boot\n' > /tmp/early.cfg
mkdir /built
modules="part_msdos ext2 search search_fs_uuid normal configfile linux serial terminal echo boot"
grub-mkimage -O i386-pc -c /tmp/early.cfg -p /boot -o /built/core.img biosdisk $modules
grub-mkimage -O x86_64-efi -c /tmp/early.cfg -p /boot -o /built/grub.efi fat $modules
cp /usr/lib/grub/i386-pc/boot.img /built/boot.img
truncate -s {_ESP_MIB}M /built/esp.img
mkfs.vfat -F 32 /built/esp.img
mmd -i /built/esp.img ::/EFI ::/EFI/BOOT
mcopy -i /built/esp.img /built/grub.efi ::/EFI/BOOT/BOOTX64.EFI
"""

# Outside, where the archive is; as root, or as who passes for it.
_FILL = f"""
mkdir root
tar --extract --file=system.tar --directory=root --exclude='./dev/*'
mv root/built .
mke2fs -q -t ext4 -U {_FILESYSTEM} -d root root.img {_ROOT_MIB}M
rm -rf root
"""


def installed_system(suite: str) -> Path:
    """Return the image of a disk with Debian on it, raw, made the first time that a test wants it.

    Where it cannot be made the test fails in CI, and is skipped elsewhere.
    """
    for program, package in (("mmdebstrap", "mmdebstrap"), ("mke2fs", "e2fsprogs")):
        need(shutil.which(program, path=_PATH) is not None, package)
    if os.geteuid():
        need(shutil.which("fakeroot") is not None, "fakeroot")
    recipe = hashlib.sha256("\n".join([suite, *_PACKAGES, *_LEFT_OUT, _SETTLE, _FILL]).encode())
    image = cache_folder() / "disk" / f"debian-{suite}-{recipe.hexdigest()[:16]}.raw"
    if not image.is_file():
        with new_file(image) as draft, tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
            _make(Path(folder), suite, draft)
    return image


_PATH = "/usr/sbin:/sbin:" + os.environ["PATH"]


def _make(folder: Path, suite: str, image: Path) -> None:
    (folder / "settle").write_text(_SETTLE)
    left_out = [f"--dpkgopt=path-exclude={pattern}" for pattern in _LEFT_OUT]
    _run(
        folder, "mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(_PACKAGES)}",
        '--aptopt=APT::Install-Recommends "false"', *left_out,
        "--customize-hook=upload settle /tmp/settle",
        '--customize-hook=chroot "$1" sh -eu /tmp/settle', suite, "system.tar",
    )  # fmt: skip
    _run(folder, *(["fakeroot"] if os.geteuid() else []), "sh", "-euc", _FILL)
    built = folder / "built"
    _assemble(image, (built / "boot.img").read_bytes(), (built / "core.img").read_bytes(),
              ((_ESP, built / "esp.img"), (_ROOT, folder / "root.img")))  # fmt: skip


def _run(folder: Path, *words: str) -> None:
    done = subprocess.run(
        words, cwd=folder, env={**os.environ, "PATH": _PATH}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    if done.returncode:
        give_up = pytest.fail if os.environ.get("CI") else pytest.skip
        give_up(f"no system could be installed: {words[0]}: {done.stderr[-2000:]}")


def _assemble(
    image: Path, boot: bytes, core: bytes, partitions: tuple[tuple[int, Path], ...]
) -> None:
    # The master boot record with its table, GRUB's core image, and the partitions.
    assert len(core) <= (_FIRST - 1) * _SECTOR
    rows, sector = b"", _FIRST
    places = []
    for kind, file in partitions:
        count = file.stat().st_size // _SECTOR
        rows += struct.pack("<B3sB3sII", 0, b"\xfe\xff\xff", kind, b"\xfe\xff\xff", sector, count)
        places.append((file, sector))
        sector += count
    with image.open("wb") as disk:
        disk.truncate(sector * _SECTOR)
        disk.write(boot[:0x1BE] + rows.ljust(64, b"\0") + b"\x55\xaa")
        disk.write(core)
    for file, sector in places:
        subprocess.run(
            ["dd", f"if={file}", f"of={image}", "bs=1M", f"seek={sector * _SECTOR}",
             "oflag=seek_bytes", "conv=notrunc,sparse", "status=none"],
            check=True,
        )  # fmt: skip
