"""Linux takes these files for an initial ramdisk.

Ref: Linux init/initramfs.c (unpack_to_rootfs), lib/decompress.c (compressed_formats),
init/do_mounts_rd.c (identify_ramdisk_image).
"""

from __future__ import annotations

import struct

HEAD = 2048
"""Bytes of a file's beginning that tell."""

_ARCHIVES = (
    b"070701", b"070702",  # cpio, new format, without checksums and with
    b"\x1f\x8b", b"\x1f\x9e", b"BZ", b"\x5d\0", b"\xfd7", b"\x89L", b"\x02\x21", b"\x28\xb5",
)  # fmt: skip
"""How an archive begins: cpio, or gzip, bzip2, lzma, xz, lzo, lz4, zstd. Zeros are passed over."""
_CRAMFS = (struct.pack("<I", 0x28CD3D45), struct.pack(">I", 0x28CD3D45))
_FILE_SYSTEMS = (
    (0, (b"-rom1fs-", b"hsqs", *_CRAMFS)),
    (0x200, _CRAMFS),
    (0x410, (struct.pack("<H", 0x137F), struct.pack("<H", 0x138F))),  # Minix
    (0x438, (struct.pack("<H", 0xEF53),)),  # ext2
)
"""An image of a file system has these at an offset: romfs, squashfs, cramfs, Minix, ext2."""


def is_ramdisk(head: bytes) -> bool:
    """Tell whether a file that begins with these :data:`HEAD` bytes is one.

    Of a file that begins with zeros they may be those behind.
    """
    archive = head.lstrip(b"\0").startswith(_ARCHIVES)
    return archive or any(head.startswith(magic, at) for at, magic in _FILE_SYSTEMS)
