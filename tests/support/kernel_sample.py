"""A vmlinux made here: an ELF file with a version text and symbols, and nothing that runs."""

from __future__ import annotations

import struct
from collections.abc import Sequence

RELEASE = "9.1.0-1-cloud-amd64"
TEXT = 0xFFFF_FFFF_8100_0000
"""Linear link address of its only segment."""
CAN_TDX = ("tdx_early_init", "exc_virtualization_exception")
CAN_SEV_ES = ("sme_enable", "vc_no_ghcb", "kernel_exc_vmm_communication")

_PVH = struct.pack("<III4s", 4, 8, 18, b"Xen\0") + bytes(8)
_HEADER, _SEGMENT, _SECTION = 64, 56, 64


def vmlinux(symbols: Sequence[str] = (), release: str = RELEASE) -> bytes:
    """Return an image with the version text and these functions, one after the other."""
    text = f"Linux version {release} (made up)\0".encode() + _PVH
    names = ["linux_banner", "_text", *symbols]
    strings = b"\0" + b"".join(name.encode() + b"\0" for name in names)
    values = [TEXT, TEXT, *(TEXT + 16 * number for number in range(1, len(symbols) + 1))]
    table = bytes(24) + b"".join(
        struct.pack(
            "<IBBHQQ", strings.index(b"\0" + name.encode() + b"\0") + 1, 0x12, 0, 1, value, 0
        )
        for name, value in zip(names, values, strict=True)
    )
    titles = b"\0.text\0.symtab\0.strtab\0.shstrtab\0"
    parts = [text, table, strings, titles]
    starts = [_HEADER + _SEGMENT + sum(map(len, parts[:number])) for number in range(len(parts))]
    # name, type, flags, address, link, entry size
    kinds = [
        (b".text", 1, 6, TEXT, 0, 0), (b".symtab", 2, 0, 0, 3, 24), (b".strtab", 3, 0, 0, 0, 0),
        (b".shstrtab", 3, 0, 0, 0, 0),
    ]  # fmt: skip
    sections = bytes(_SECTION) + b"".join(
        struct.pack(
            "<IIQQQQIIQQ", titles.index(b"\0" + name + b"\0") + 1, kind, flags, address, start,
            len(part), link, 1, 1, size,
        )
        for (name, kind, flags, address, link, size), start, part in zip(
            kinds, starts, parts, strict=True
        )
    )  # fmt: skip
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH", 2, 62, 1, 0x1000000, _HEADER, starts[-1] + len(titles), 0, _HEADER,
        _SEGMENT, 1, _SECTION, 5, 4,
    )  # fmt: skip
    segment = struct.pack(
        "<IIQQQQQQ", 1, 5, starts[0], TEXT, 0x1000000, len(text), len(text), 0x1000
    )
    return header + segment + b"".join(parts) + sections
