"""Linux takes some files for an initial ramdisk, and others not."""

from __future__ import annotations

import bz2
import gzip
import lzma

import pytest
import zstandard

from tracer.guest.initramfs import cpio
from tracer.linux.ramdisk import HEAD, is_ramdisk

ARCHIVE = cpio([])


def image(magic: bytes, at: int) -> bytes:
    return bytes(at) + magic + bytes(HEAD - at - len(magic))


@pytest.mark.parametrize(
    "head",
    [
        ARCHIVE,
        bytes(512) + ARCHIVE,
        gzip.compress(ARCHIVE),
        bz2.compress(ARCHIVE),
        lzma.compress(ARCHIVE),
        lzma.compress(ARCHIVE, lzma.FORMAT_ALONE),
        zstandard.compress(ARCHIVE),
        b"hsqs" + bytes(100),
        image(b"\x53\xef", 0x438),
        image(b"\x45\x3d\xcd\x28", 0x200),
    ],
    ids=["cpio", "zeros", "gzip", "bzip2", "xz", "lzma", "zstd", "squashfs", "ext2", "cramfs"],
)
def test_archives_and_file_systems_are(head: bytes) -> None:
    assert is_ramdisk(head[:HEAD])


@pytest.mark.parametrize("head", [b"hello\n", bytes(HEAD), b"\x7fELF\2\1", b"070707", b"MZ\0"])
def test_other_files_are_not(head: bytes) -> None:
    assert not is_ramdisk(head)
