"""A qcow2 image whose file ends too early is told from one that is whole."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from tracer.errors import UsageError
from tracer.guest.qcow2 import check_whole

CLUSTER = 1 << 16
COPIED, COMPRESSED = 1 << 63, 1 << 62
L1, L2, DATA = 1, 2, 3  # clusters


def image(
    path: Path, *entries: int, features: int = 0, version: int = 3, bits: int = 16, table: int = L2
) -> Path:
    """An image of four clusters: header, L1, and an L2 table with these entries, and data."""
    head = struct.pack(
        ">4sIQIIQIIQQIIQ", b"QFI\xfb", version, 0, 0, bits, 1 << 30, 0, 1, L1 * CLUSTER, 0, 1, 0, 0
    ) + struct.pack(">Q", features)
    content = bytearray(4 * CLUSTER)
    content[: len(head)] = head
    struct.pack_into(">Q", content, L1 * CLUSTER, COPIED | table * CLUSTER)
    struct.pack_into(f">{len(entries)}Q", content, L2 * CLUSTER, *entries)
    path.write_bytes(content)
    return path


def cut(path: Path, size: int) -> Path:
    with path.open("r+b") as file:
        file.truncate(size)
    return path


@pytest.mark.parametrize(
    ("entries", "features"),
    [
        ((), 0),
        ((COPIED | DATA * CLUSTER, 0, 1), 0),
        ((DATA * CLUSTER, 0), 0),  # shared with a snapshot
        ((COMPRESSED | 5 << 54 | DATA * CLUSTER + 7,), 0),
        ((COPIED | 99 * CLUSTER,), 1 << 2),  # in another file
        ((COPIED | DATA * CLUSTER, COPIED | 99 * CLUSTER), 1 << 4),  # the second is a bitmap
    ],
)
def test_an_image_that_is_whole(entries: tuple[int, ...], features: int, tmp_path: Path) -> None:
    check_whole(image(tmp_path / "disk", *entries, features=features))


@pytest.mark.parametrize(
    "entries",
    [
        (COPIED | DATA * CLUSTER,),
        (DATA * CLUSTER, 0),
        (COMPRESSED | 5 << 54 | DATA * CLUSTER + 7,),
        (COPIED | L2 * CLUSTER, 0, COPIED | DATA * CLUSTER, 1),
    ],
)
def test_an_image_without_its_last_data(entries: tuple[int, ...], tmp_path: Path) -> None:
    disk = cut(image(tmp_path / "disk", *entries), DATA * CLUSTER)
    with pytest.raises(UsageError, match=r"disk is cut or damaged: its file has 196,608 bytes"):
        check_whole(disk)


def test_an_image_whose_last_cluster_is_not_full(tmp_path: Path) -> None:
    check_whole(cut(image(tmp_path / "disk", COPIED | DATA * CLUSTER), DATA * CLUSTER + 1))


def test_an_image_without_its_tables(tmp_path: Path) -> None:
    for size in (L2 * CLUSTER, L1 * CLUSTER, 100):
        with pytest.raises(UsageError, match="is cut or damaged"):
            check_whole(cut(image(tmp_path / "disk"), size))
    with pytest.raises(UsageError, match="its tables lead to 6,488,064"):
        check_whole(image(tmp_path / "disk", table=99))


def test_a_header_that_qemu_refuses_is_left_to_qemu(tmp_path: Path) -> None:
    check_whole(image(tmp_path / "disk", bits=60))
    (tmp_path / "short").write_bytes(b"QFI\xfb")
    check_whole(tmp_path / "short")


def test_features_are_those_of_a_later_version(tmp_path: Path) -> None:
    disk = image(tmp_path / "disk", COPIED | 99 * CLUSTER, features=1 << 2, version=2)
    with pytest.raises(UsageError):
        check_whole(disk)
