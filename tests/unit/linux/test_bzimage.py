"""tracer.linux.bzimage: images built here, in every packing, whole and damaged."""

from __future__ import annotations

import bz2
import gzip
import lzma
import random
import struct
from collections.abc import Callable

import lz4.block
import pytest
import zstandard

from tracer.errors import KernelImageError
from tracer.linux import bzimage

BANNER = "Linux version 6.1.0-test (someone@here) (gcc 12) #1 SMP"
VERSION = "6.1.0-test (someone@here) #1 SMP"

# More than one LZ4 block (8 MiB), with content that no decoder can guess.
VMLINUX = (
    b"\x7fELF" + random.Random(1).randbytes(100_000) + bytes(9 << 20) + BANNER.encode() + b"\n\0"
)


def lz4_legacy(data: bytes) -> bytes:
    out = b"\x02\x21\x4c\x18"
    for start in range(0, len(data), 8 << 20):
        block = lz4.block.compress(data[start : start + (8 << 20)], store_size=False)
        out += struct.pack("<I", len(block)) + block
    return out


PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, 1),
    "bzip2": lambda data: bz2.compress(data, 1),
    "xz": lambda data: lzma.compress(data, lzma.FORMAT_XZ, preset=0),
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE, preset=0),
    "zstd": zstandard.ZstdCompressor(level=1).compress,
    "lz4": lz4_legacy,
}


def payload(packing: str, data: bytes = VMLINUX) -> bytes:
    packed = PACKINGS[packing](data)
    # gzip's trailer is the size already; the kernel's makefiles append it for the others.
    return packed if packing == "gzip" else packed + struct.pack("<I", len(data))


def bzimage_of(content: bytes, protocol: int = 0x20F, setup_sectors: int = 3) -> bytes:
    setup = bytearray((setup_sectors + 1) * 512)
    setup[0x1F1] = setup_sectors
    setup[0x202:0x206] = b"HdrS"
    text = VERSION.encode() + b"\0"
    setup[0x300 : 0x300 + len(text)] = text
    struct.pack_into("<H", setup, 0x206, protocol)
    struct.pack_into("<H", setup, 0x20E, 0x100)
    setup[0x234] = 1
    struct.pack_into("<II", setup, 0x248, 0x40, len(content))
    struct.pack_into("<Q", setup, 0x258, 0x1000000)
    return bytes(setup) + bytes(0x40) + content + b"tail"


@pytest.mark.parametrize("packing", PACKINGS)
def test_unpack(packing: str) -> None:
    assert bzimage.unpack(bzimage_of(payload(packing))) == VMLINUX


def test_unpack_takes_a_vmlinux_as_it_is() -> None:
    assert bzimage.unpack(VMLINUX) is VMLINUX
    assert bzimage.unpack(bzimage_of(VMLINUX)) == VMLINUX


def test_header() -> None:
    header = bzimage.parse_header(bzimage_of(b"x" * 100))
    assert header == bzimage.BootHeader(
        protocol=(2, 15),
        payload=4 * 512 + 0x40,
        payload_size=100,
        relocatable=True,
        preferred_physical=0x1000000,
        version=VERSION,
    )


def test_no_setup_sectors_means_four() -> None:
    image = bytearray(bzimage_of(b"x" * 100, setup_sectors=4))
    image[0x1F1] = 0
    assert bzimage.parse_header(bytes(image)).payload == 5 * 512 + 0x40


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("where", [0.1, 0.5, 0.9])
def test_damage_inside_is_found(packing: str, where: float) -> None:
    content = bytearray(payload(packing))
    start, end = int(len(content) * where), len(content) - 4  # the size stays right
    content[start:end] = bytes(end - start)
    with pytest.raises(KernelImageError, match=rf"{packing} payload is damaged"):
        bzimage.unpack(bzimage_of(bytes(content)))


@pytest.mark.parametrize("packing", PACKINGS)
def test_wrong_size_is_found(packing: str) -> None:
    for size in (0, 100, len(VMLINUX) - 1, len(VMLINUX) + 1):
        content = payload(packing)[:-4] + struct.pack("<I", size)
        with pytest.raises(KernelImageError, match="damaged"):
            bzimage.unpack(bzimage_of(content))


def test_absurd_size_is_refused_before_unpacking() -> None:
    content = payload("gzip")[:-4] + struct.pack("<I", 0xFFFFFFFF)
    with pytest.raises(KernelImageError, match="claims to unpack to 4294967295 bytes"):
        bzimage.unpack(bzimage_of(content))


@pytest.mark.parametrize("size", [0x206, 0x20F, 0x263, 0x600, 0x900, 5000])
def test_cut_off_image(size: int) -> None:
    image = bzimage_of(payload("xz"))
    assert size < len(image)
    with pytest.raises(KernelImageError, match="cut off"):
        bzimage.unpack(image[:size])


def test_one_byte_missing() -> None:
    image = bzimage_of(payload("xz")).removesuffix(b"tail")
    assert bzimage.unpack(image) == VMLINUX
    with pytest.raises(KernelImageError, match="cut off: 1 bytes are missing"):
        bzimage.unpack(image[:-1])


@pytest.mark.parametrize("image", [b"", b"MZ", bytes(4096), b"#!/bin/sh\n" * 200])
def test_foreign_file(image: bytes) -> None:
    with pytest.raises(KernelImageError, match="not an x86 Linux kernel image"):
        bzimage.unpack(image)


@pytest.mark.parametrize(
    ("image", "what"),
    [
        (payload("gzip"), r"packed \(gzip\): unpack it first"),
        (payload("zstd"), r"packed \(zstd\): unpack it first"),
        (b"MZ" + bytes(4096), "for UEFI is started from a disk"),
        (bytes(4096), "it takes a bzImage"),
        (
            b"MZ" + bytes(300) + b".linux\0\0" + bytes(4096),
            "objcopy -O binary --only-section=.linux",
        ),
        (b"", "it is empty$"),
        (bzimage_of(b""), "or holds no Linux; --from-reset traces whatever starts"),
    ],
)
def test_what_to_do_with_a_foreign_file(image: bytes, what: str) -> None:
    with pytest.raises(KernelImageError, match=what):
        bzimage.unpack(image)


def test_old_protocol() -> None:
    with pytest.raises(KernelImageError, match=r"boot protocol 2\.07 is too old.*--from-reset"):
        bzimage.unpack(bzimage_of(payload("gzip"), protocol=0x207))


def test_packed_something_else() -> None:
    with pytest.raises(KernelImageError, match="not an ELF file"):
        bzimage.unpack(bzimage_of(payload("zstd", b"something else")))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x89LZO\0\r\n\x1a\n" + bytes(20), "LZO"),
        (b"who knows what this is", "unknown way: 77 68 6f"),
        (b"", "no payload"),
    ],
)
def test_unknown_packing(content: bytes, message: str) -> None:
    with pytest.raises(KernelImageError, match=message):
        bzimage.unpack(bzimage_of(content))


def test_banners() -> None:
    data = b"junk Linux version %s\0" + BANNER.encode() + b"\nmore"
    assert bzimage.banners(data) == [(data.index(BANNER.encode()), BANNER)]
    assert bzimage.release_of(BANNER) == "6.1.0-test"
