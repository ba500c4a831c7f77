"""Linux kernel images: the boot-protocol header, and the vmlinux packed inside.

Ref: Linux Documentation/arch/x86/boot.rst (payload_offset and payload_length: protocol 2.08);
arch/x86/boot/compressed/mkpiggy.c and scripts/Makefile.lib, ``size_append`` (the payload ends
with its unpacked size as 32 bits, little-endian; gzip's own trailer is already that).
"""

from __future__ import annotations

import bz2
import io
import lzma
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import lz4.block
import zstandard

from tracer.errors import KernelImageError

MAX_UNPACKED = 1 << 30
"""Largest vmlinux that is unpacked, in bytes: a damaged size field must not eat the host."""

_ELF = b"\x7fELF"
_HEADER_END = 0x264  # one past init_size, the last field used here
_SECTOR = 512
_LZ4_BLOCK = 8 << 20  # the legacy frame's fixed block size, unpacked
_MEMORY_LIMIT = 1 << 30  # of the xz and zstd decoders, whose dictionaries reach 128 MiB
_OTHER = "--from-reset traces whatever starts by Linux' boot protocol"
_UNIFIED, _SECTIONS_END = b".linux\0\0", 4096
"""The section of a unified kernel image that has the kernel (UAPI group, Unified Kernel Image)."""
_BANNER = re.compile(rb"Linux version (\d+\.[^ \0\n]+) [^\0\n]*")


@dataclass(frozen=True, slots=True)
class BootHeader:
    """Hold the fields of a bzImage's setup header that say where things are.

    ``protocol`` is major and minor. ``payload`` is a file offset in bytes, ``payload_size`` is
    in bytes. ``preferred_physical`` is the physical address the kernel would like to run at.
    ``version`` is the text of ``kernel_version``, which begins with the release.
    """

    protocol: tuple[int, int]
    payload: int
    payload_size: int
    relocatable: bool
    preferred_physical: int
    version: str


def is_elf(image: bytes) -> bool:
    """Tell whether an image is an uncompressed vmlinux rather than a bzImage."""
    return image.startswith(_ELF)


def parse_header(image: bytes) -> BootHeader:
    """Read the setup header of a bzImage.

    Raises KernelImageError when the file is no x86 bzImage, is older than boot protocol 2.08
    (Linux 2.6.26), or ends before its payload does.
    """
    if image[0x202:0x206] != b"HdrS":
        raise KernelImageError(f"not an x86 Linux kernel image: {_else(image)}")
    if len(image) < _HEADER_END:
        raise KernelImageError("the kernel image is cut off inside its boot header")
    (protocol,) = struct.unpack_from("<H", image, 0x206)
    if protocol < 0x208:
        raise KernelImageError(
            f"boot protocol {protocol >> 8}.{protocol & 0xFF:02} is too old: need 2.08; {_OTHER}"
        )
    setup_size = ((image[0x1F1] or 4) + 1) * _SECTOR  # 0 means 4, boot.rst "setup_sects"
    version_at, relocatable = struct.unpack_from("<H36xB", image, 0x20E)
    offset, size = struct.unpack_from("<II", image, 0x248)
    (preferred,) = struct.unpack_from("<Q", image, 0x258)
    header = BootHeader(
        protocol=(protocol >> 8, protocol & 0xFF),
        payload=setup_size + offset,
        payload_size=size,
        relocatable=bool(relocatable),
        preferred_physical=preferred,
        version=_text(image, version_at + _SECTOR) if version_at else "",
    )
    missing = header.payload + size - len(image)
    if missing > 0:
        raise KernelImageError(f"the kernel image is cut off: {missing} bytes are missing")
    return header


def has_pvh_entry(vmlinux: bytes) -> bool:
    """Tell whether an ELF image can be started as it is.

    QEMU enters a vmlinux where its Xen note of type 18 says (XEN_ELFNOTE_PHYS32_ENTRY).
    """
    heads = (struct.pack("<III4s", 4, size, 18, b"Xen\0") for size in (4, 8))
    return any(head in vmlinux for head in heads)


def unpack(image: bytes) -> bytes:
    """Return the vmlinux (ELF) of a bzImage; a vmlinux is returned as it is.

    The result may have relocations after the ELF file's end. At most :data:`MAX_UNPACKED` bytes
    are produced. Raises KernelImageError for a file that is no kernel, is damaged, or is
    packed in a way not known here.
    """
    if is_elf(image):
        return image
    header = parse_header(image)
    payload = image[header.payload : header.payload + header.payload_size]
    if is_elf(payload):
        return payload
    name, decoder = _decoder(payload)
    (size,) = struct.unpack_from("<I", payload, len(payload) - 4)
    if not 0 < size <= MAX_UNPACKED:
        raise KernelImageError(
            f"the {name} payload claims to unpack to {size} bytes: the kernel image is damaged"
        )
    try:
        vmlinux = decoder(payload, size)
    except _DAMAGE as error:
        raise KernelImageError(f"the {name} payload is damaged: {error}") from error
    if len(vmlinux) != size:
        raise KernelImageError(
            f"the {name} payload is damaged: it should unpack to {size} bytes, not {len(vmlinux)}"
        )
    if not is_elf(vmlinux):
        raise KernelImageError(f"the {name} payload is not an ELF file")
    return vmlinux


def banners(vmlinux: bytes) -> list[tuple[int, str]]:
    """Find every "Linux version ..." text: its file offset in bytes and the text."""
    return [(m.start(), m[0].decode("latin-1")) for m in _BANNER.finditer(vmlinux)]


def release_of(banner: str) -> str:
    """Return the release of a "Linux version ..." text, as ``uname -r`` prints it."""
    return banner.split(" ", 3)[2]


def _else(image: bytes) -> str:
    # Says what a file is that is no kernel image as it is, and what to do with it.
    if not image:
        return "it is empty"
    why = "no boot header at offset 0x202"
    for magic, name, _ in _DECODERS:
        if image.startswith(magic):
            return f"{why}; it is packed ({name}): unpack it first"
    if image.startswith(b"MZ") and _UNIFIED in image[:_SECTIONS_END]:
        return (
            f"{why}; it is a unified one: objcopy -O binary --only-section=.linux takes its kernel"
            " out, --only-section=.initrd its ramdisk"
        )
    if image.startswith(b"MZ"):
        return f"{why}; a program for UEFI is started from a disk (--disk, --firmware uefi)"
    return f"{why}; it takes a bzImage, such as /boot/vmlinuz-*, or a vmlinux (ELF)"


def _text(image: bytes, offset: int) -> str:
    return image[offset : offset + 256].split(b"\0", 1)[0].decode("latin-1")


# The decoders raise these for damaged input.
_DAMAGE = (
    ValueError,
    EOFError,
    OSError,
    struct.error,
    zlib.error,
    lzma.LZMAError,
    lz4.block.LZ4BlockError,
    zstandard.ZstdError,
)

# Each decoder takes the payload and its unpacked size in bytes, and returns at most one byte
# more than that: enough to see that the size is wrong.
_Decoder = Callable[[bytes, int], bytes]


def _gzip(payload: bytes, size: int) -> bytes:
    return zlib.decompressobj(wbits=31).decompress(payload, size + 1)


def _bzip2(payload: bytes, size: int) -> bytes:
    return bz2.BZ2Decompressor().decompress(payload, size + 1)


def _lzma(payload: bytes, size: int) -> bytes:
    # Both the .xz container and the older .lzma one.
    return lzma.LZMADecompressor(memlimit=_MEMORY_LIMIT).decompress(payload, size + 1)


def _zstd(payload: bytes, size: int) -> bytes:
    decoder = zstandard.ZstdDecompressor(max_window_size=_MEMORY_LIMIT)
    with decoder.stream_reader(io.BytesIO(payload)) as reader:
        return reader.read(size + 1)


def _lz4_legacy(payload: bytes, size: int) -> bytes:
    # A magic number, then blocks: packed size as 32 bits, data. No end mark; the appended size
    # follows the last block. Ref: LZ4 frame format description, "Legacy frame".
    blocks = []
    unpacked = 0
    offset = 4
    while unpacked < size:
        (packed,) = struct.unpack_from("<I", payload, offset)
        block = payload[offset + 4 : offset + 4 + packed]
        if offset + 4 + packed > len(payload) - 4:
            raise ValueError(f"a block at offset {offset} runs past the end")
        blocks.append(lz4.block.decompress(block, uncompressed_size=_LZ4_BLOCK))
        unpacked += len(blocks[-1])
        offset += 4 + packed
        if not blocks[-1]:
            raise ValueError(f"an empty block at offset {offset}")
    return b"".join(blocks)


# Magic numbers as in Linux lib/decompress.c.
_DECODERS: tuple[tuple[bytes, str, _Decoder], ...] = (
    (b"\x1f\x8b", "gzip", _gzip),
    (b"BZh", "bzip2", _bzip2),
    (b"\xfd7zXZ\0", "xz", _lzma),
    (b"\x5d\0\0", "lzma", _lzma),
    (b"\x28\xb5\x2f\xfd", "zstd", _zstd),
    (b"\x02\x21\x4c\x18", "lz4", _lz4_legacy),
)


def _decoder(payload: bytes) -> tuple[str, _Decoder]:
    if len(payload) < 8:
        raise KernelImageError(
            f"the kernel image has no payload: it is damaged, or holds no Linux; {_OTHER}"
        )
    for magic, name, decoder in _DECODERS:
        if payload.startswith(magic):
            return name, decoder
    if payload.startswith(b"\x89LZO"):
        raise KernelImageError(
            "the kernel is packed with LZO, which is not supported: "
            "build it with CONFIG_KERNEL_ZSTD or another packing"
        )
    raise KernelImageError(f"the kernel is packed in an unknown way: {payload[:8].hex(' ')}")
